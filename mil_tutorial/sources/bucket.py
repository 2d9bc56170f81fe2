"""The public bucket of CAMELYON16: addresses, what is in it, checksums, and the size of a slide from its header.

Source: the data set on the Registry of Open Data (CC0), https://registry.opendata.aws/camelyon/.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlencode

from defusedxml.ElementTree import ParseError, fromstring

from mil_tutorial.errors import DataError
from mil_tutorial.remote import read_range, remote_size
from mil_tutorial.remote.answers import CONNECTIONS, answer

VARIABLE = "MIL_TUTORIAL_BUCKET"  # a mirror or a test server in place of the bucket

BUCKET = "https://camelyon-dataset.s3.us-west-2.amazonaws.com"

PREFIX = "CAMELYON16"

REFERENCE, CHECKSUMS = "evaluation/reference.csv", "checksums.md5"

REFERENCE_SHA256 = "12c526868219a5c54931ac052057c6e9ad05df3b67d2b5dadf22ec8aa764601c"

KINDS = {"images": "{}.tif", "masks": "{}_mask.tif", "annotations": "{}.xml"}

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"

PAGES = 100  # of a listing; the bucket needs one or two

# TIFF: tag numbers, and how a whole number of each type is packed.
WIDTH, HEIGHT, PACKED = 256, 257, {3: "H", 4: "I", 16: "Q"}


def bucket() -> str:
    """The bucket's address: `$MIL_TUTORIAL_BUCKET`, else the public one."""
    return (os.environ.get(VARIABLE) or BUCKET).rstrip("/")


def key_of(kind: str, name: str) -> str:
    """Where a slide's file lies in the data set, which is also where a data root has it.

    >>> key_of("masks", "tumor_091")
    'masks/tumor_091_mask.tif'
    """
    return f"{kind}/{KINDS[kind].format(name)}"


def url_of(key: str) -> str:
    """The address of a key of the data set, such as `evaluation/reference.csv`."""
    return f"{bucket()}/{PREFIX}/{quote(key)}"


def slide_url(name: str) -> str:
    """The address of a slide."""
    return url_of(key_of("images", name))


def list_keys(prefix: str) -> dict[str, int]:
    """What is in the bucket under a prefix of the data set, such as `images/`: bytes by key.

    Raises:
        DataError: no network, or the answer is no listing.
    """
    found: dict[str, int] = {}
    token = ""
    for _ in range(PAGES):
        query = {"list-type": "2", "prefix": f"{PREFIX}/{prefix}"} | ({"continuation-token": token} if token else {})
        url = f"{bucket()}/?{urlencode(query)}"
        response = answer("GET", url)
        try:
            tree = fromstring(response.read())
            for node in tree.iter(f"{NAMESPACE}Contents"):
                key, size = (node.findtext(NAMESPACE + tag) or "" for tag in ("Key", "Size"))
                found[key.removeprefix(f"{PREFIX}/")] = int(size)
        except (ParseError, ValueError) as error:
            raise DataError(f"{url}: the answer is not a listing ({error!s:.100}). Check {VARIABLE}.") from error
        finally:
            response.close()
        token = tree.findtext(f"{NAMESPACE}NextContinuationToken") or ""
        if not token:
            return found
    raise DataError(f"{bucket()}: the listing of {prefix} has no end. Check {VARIABLE}.")


def parse_checksums(text: str) -> dict[str, str]:
    """The lines of `checksums.md5`: md5 by key; a star before the key means that it was read as bytes.

    >>> parse_checksums("0" * 32 + " *images/normal_001.tif")["images/normal_001.tif"][:4]
    '0000'
    """
    lines = (re.match(r"([0-9a-fA-F]{32})\s+\*?(?:\./)?(.+?)\s*$", line) for line in text.splitlines())
    return {line[2].removeprefix(f"{PREFIX}/"): line[1].lower() for line in lines if line}


def read_slide_size(url: str) -> tuple[int, int]:
    """Width and height of a slide at level 0, from its TIFF header: some hundred bytes are fetched.

    Raises:
        DataError: no such slide, no network, or the file is no TIFF.
    """
    head = read_range(url, 0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack(f"{order}H", head[2:4])[0] if order else 0
    if version not in (42, 43):
        raise DataError(f"{url}: is not a TIFF (it begins with {head[:4]!r}). Check the address.")
    big = version == 43
    start = struct.unpack(f"{order}Q", head[8:16])[0] if big else struct.unpack(f"{order}I", head[4:8])[0]
    counted, entry = (8, 20) if big else (2, 12)
    count = struct.unpack(f"{order}{'Q' if big else 'H'}", read_range(url, start, start + counted))[0]
    if count > 4096:
        raise DataError(f"{url}: its first directory claims {count} entries, so it is not a whole TIFF.")
    entries = read_range(url, start + counted, start + counted + count * entry)
    found: dict[int, int] = {}
    for k in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", entries, k * entry)
        if tag in (WIDTH, HEIGHT) and kind in PACKED:
            found[tag] = struct.unpack_from(order + PACKED[kind], entries, k * entry + (12 if big else 8))[0]
    if not (found.get(WIDTH) and found.get(HEIGHT)):
        raise DataError(f"{url}: its header does not say how many pixels it has. Check the address.")
    return found[WIDTH], found[HEIGHT]


def missing_sizes(root: Path, kind: str, names: Iterable[str]) -> dict[str, int]:
    """Bytes of those whole files of slides that are not there yet; `kind` is `images`, `masks` or `annotations`."""
    wanted = [n for n in names if not (root / key_of(kind, n)).is_file()]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        heads = list(pool.map(lambda name: remote_size(url_of(key_of(kind, name))), wanted))
    return {name: head.size for name, head in zip(wanted, heads, strict=True)}
