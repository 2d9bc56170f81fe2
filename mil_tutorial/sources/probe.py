"""Ask every address of the real data set for one byte and one header, and say what is as expected and what is not.

Of the HDF5 files some KB are read: whether one slide is where it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.remote import Head, read_range, remote_size
from mil_tutorial.remote.answers import CONNECTIONS
from mil_tutorial.sources.bucket import (
    CHECKSUMS,
    REFERENCE,
    bucket,
    key_of,
    list_keys,
    read_slide_size,
    slide_url,
    url_of,
)
from mil_tutorial.sources.hdf5_slides import open_remote_h5, place_of
from mil_tutorial.sources.sets import COORDS, PATCH_LABELS, SETS, TORCHMIL, FeatureSet, hub_url

DEMO, DEMO_SIZE = "tumor_091", "53760 x 61440"

COUNTS = {"images/": 399, "masks/": 399, "annotations/": 160}

TIFF, HDF5, GZIP, XML = b"IM", b"\x89", b"\x1f", b"<\xef"  # what a file may begin with

GOOD, OTHER, BAD = "as expected", "differs", "FAILS"


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was asked, what was expected, what was found, and which of the three it is."""

    what: str
    expected: str
    found: str
    verdict: str


@dataclass(frozen=True)
class Target:
    """A file: its address, what its first byte may be (none: anything), its bytes as published, about; 0 if unknown."""

    what: str
    url: str
    first: bytes = b""
    size: int = 0
    about: float = 0.0
    hub: bool = False


def targets() -> list[Target]:
    """All files that `get` reads, with one slide for all slides."""
    published = [
        Target("reference", url_of(REFERENCE), b"i\xef"),
        Target("checksums", url_of(CHECKSUMS), b"0123456789abcdefABCDEF"),
        Target(f"slide {DEMO}", slide_url(DEMO), TIFF, 546_437_217),
        Target(f"mask {DEMO}", url_of(key_of("masks", DEMO)), TIFF, 8_357_394),
        Target(f"annotation {DEMO}", url_of(key_of("annotations", DEMO)), XML, 85_520),
    ]
    for s in SETS.values():
        first = GZIP if s.is_archive else HDF5
        published.append(Target(f"features {s.name}", s.url, first, s.size, about=0.01, hub=True))
    for what, path in (("torchmil coords", COORDS), ("torchmil labels", PATCH_LABELS)):
        published.append(Target(what, hub_url(TORCHMIL, path), GZIP, hub=True))
    return published


def ask(target: Target) -> Finding:
    """One header and one byte of a file."""
    expected = f"{target.size:,} bytes" if target.size else "a file"
    if target.about:
        expected = f"about {expected}"
    try:
        head, byte = remote_size(target.url), read_range(target.url, 0, 1)
    except DataError as error:
        return Finding(target.what, expected, _in_short(error, target.url), BAD)
    found = f"{head.size:,} bytes"
    if target.first and byte not in [target.first[i : i + 1] for i in range(len(target.first))]:
        return Finding(target.what, expected, f"{found}, begins with {byte!r}: another kind of file", BAD)
    if target.hub and not (head.linked_etag and head.commit):
        return Finding(target.what, f"{expected}, SHA-256 and version", f"{found}, without them", OTHER)
    if target.size and abs(head.size - target.size) > target.about * target.size:
        return Finding(target.what, expected, found, OTHER)
    return Finding(target.what, expected, found + _version(head), GOOD)


def _version(head: Head) -> str:
    return f", version {head.commit[:8]}" if head.commit else ""


def _count(prefix: str) -> Finding:
    what, expected = f"listing of {prefix}", f"{COUNTS[prefix]} files"
    try:
        keys = [key for key in list_keys(prefix) if not key.endswith("/")]
    except DataError as error:
        return Finding(what, expected, _in_short(error, bucket()), BAD)
    verdict = GOOD if len(keys) == COUNTS[prefix] else OTHER if keys else BAD
    return Finding(what, expected, f"{len(keys)} files", verdict)


def _pixels() -> Finding:
    what = f"header of {DEMO}"
    try:
        found = "{} x {}".format(*read_slide_size(slide_url(DEMO)))
    except DataError as error:
        return Finding(what, DEMO_SIZE, _in_short(error, slide_url(DEMO)), BAD)
    return Finding(what, DEMO_SIZE, found, GOOD if found == DEMO_SIZE else OTHER)


def _layout(features: FeatureSet) -> Finding:
    """Whether an HDF5 file has a group for a slide, and whether its values lie in one piece: some KB are read."""
    what, expected = f"layout of {features.name}", f"{DEMO}: (n, {features.dim}) float16, in one piece"
    try:
        with open_remote_h5(features.url, remote_size(features.url)) as file:
            if DEMO not in file:
                return Finding(what, expected, f"no such group; the first one is {next(iter(file), 'none')!r:.60}", BAD)
            place = place_of(file[DEMO], features.url)
    except DataError as error:
        return Finding(what, expected, _in_short(error, features.url), BAD)
    lies = "compressed or in chunks" if place.ranges is None else "in one piece"
    found = f"{place.shape} {np.dtype(place.feat_type).name}, {lies}"
    as_expected = place.shape[1] == features.dim and place.feat_type == "<f2" and place.ranges is not None
    return Finding(what, expected, found, GOOD if as_expected else OTHER)


def _in_short(error: DataError, url: str) -> str:
    return str(error).removeprefix(f"{url}: ").splitlines()[0][:110]


def probe() -> tuple[str, bool]:
    """Ask, and lay the answers out as a table; True unless something fails that `get` needs.

    What merely differs from what was published, such as another size, is said and lets `get` work.
    """
    questions: list[Callable[[], Finding]] = [
        *(lambda t=t: ask(t) for t in targets()),
        *(lambda p=p: _count(p) for p in COUNTS),
        _pixels,
        *(lambda s=s: _layout(s) for s in SETS.values() if not s.is_archive),
    ]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        findings = list(pool.map(lambda question: question(), questions))
    wide = [max(len(getattr(f, key)) for f in findings) for key in ("what", "verdict", "expected")]
    lines = [f"{'what':<{wide[0]}}  {'verdict':<{wide[1]}}  {'expected':<{wide[2]}}  found"]
    lines += [f"{f.what:<{wide[0]}}  {f.verdict:<{wide[1]}}  {f.expected:<{wide[2]}}  {f.found}" for f in findings]
    bad, other = (sum(f.verdict == verdict for f in findings) for verdict in (BAD, OTHER))
    good = len(findings) - bad - other
    hub = hub_url("", "").partition("/datasets")[0]
    lines.append(f"\n{bucket()} and {hub}: {good} as expected, {other} different, {bad} failed")
    return "\n".join(lines), not bad
