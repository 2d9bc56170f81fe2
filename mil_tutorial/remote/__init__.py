"""Files that lie on a web server: read parts of them in parallel, or fetch them whole."""

from mil_tutorial.remote.answers import (
    Changed,
    Head,
    NoRanges,
    inside,
    is_remote,
    place,
    remote_name,
    remote_size,
    stem,
)
from mil_tutorial.remote.kept import KeptFile, digest_of
from mil_tutorial.remote.ranges import RangeFile, read_range, read_ranges
from mil_tutorial.remote.whole import download, forget_leftovers

__all__ = [
    "Changed",
    "Head",
    "KeptFile",
    "NoRanges",
    "RangeFile",
    "digest_of",
    "download",
    "forget_leftovers",
    "inside",
    "is_remote",
    "place",
    "read_range",
    "read_ranges",
    "remote_name",
    "remote_size",
    "stem",
]
