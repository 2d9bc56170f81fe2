"""Files that lie on a web server: read parts of them in parallel, or fetch them whole."""

from mil_tutorial.remote.answers import Head, NoRanges, is_remote, remote_name, remote_size
from mil_tutorial.remote.ranges import RangeFile, read_range, read_ranges
from mil_tutorial.remote.whole import download

__all__ = [
    "Head",
    "NoRanges",
    "RangeFile",
    "download",
    "is_remote",
    "read_range",
    "read_ranges",
    "remote_name",
    "remote_size",
]
