"""The record of a fetched data root: addresses, sizes, checksums, licences, versions.

It holds no times, so that a root that was fetched in one go and one that was stopped ten times are the same.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mil_tutorial import __version__
from mil_tutorial.errors import DataError
from mil_tutorial.files import read_json, write_json
from mil_tutorial.remote import Head
from mil_tutorial.sources.archives import archives_of
from mil_tutorial.sources.bucket import CHECKSUMS, REFERENCE, key_of, parse_checksums, url_of
from mil_tutorial.sources.plan import Plan
from mil_tutorial.sources.sets import SLIDES_LICENCE, FeatureSet

RECORD = "record-get.json"

PACKAGES = ("h5py", "numpy", "tifffile", "urllib3")

PIECE = 1 << 20

CITE = "B. Ehteshami Bejnordi et al., JAMA 2017, doi:10.1001/jama.2017.14585"


def covers(root: Path, names: Iterable[str]) -> bool:
    """Whether a whole record tells of these slides and the tables are there: then nothing was stopped half way."""
    with suppress(OSError, ValueError):  # there is none yet, or it was cut off: it is written again
        return set(read_json(root / RECORD).get("slides", ())) >= set(names) and (root / "wsi_labels.csv").is_file()
    return False


def write_provenance(plan: Plan, heads: Mapping[str, Mapping[str, Head]]) -> None:
    """Write `record-get.json`.

    Args:
        plan: what was done.
        heads: what the servers say of each set's files.

    Raises:
        DataError: it cannot be written, or a file of the root cannot be read.
    """
    root = plan.root
    sources: dict[str, dict[str, Any]] = {}
    for part in plan.sets:
        sources |= _of_set(part.features, heads[part.features.name])
    sources |= _of_bucket(root, [REFERENCE, CHECKSUMS], plan.table["wsi_name"])
    versions = {"mil_tutorial": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # installed in another way, such as from conda
            versions[name] = metadata.version(name)
    record: dict[str, Any] = {
        "command": "get",
        "dataset": "CAMELYON16",
        "cite": CITE,
        "options": {"features": [p.features.name for p in plan.sets], "labels_from": plan.labels_from},
        "versions": versions,
        "inputs": {},
        "reference_as_published": plan.official,
        "slides": plan.names,
        "sources": sources,
        "results": {p.relative_to(root).as_posix(): _file(p) for p in _results(root)},
    }
    write_json(root / RECORD, record)


def _of_set(features: FeatureSet, heads: Mapping[str, Head]) -> dict[str, dict[str, Any]]:
    urls = archives_of(features) if features.is_archive else {"features": features.url}
    return {
        urls[kind]: {
            "what": f"{kind} ({features.name}: {features.encoder})",
            "bytes": head.size,
            "sha256": head.linked_etag,
            "etag": head.etag,
            "version": head.commit,
            "compared": "not with its SHA-256, as only parts of the file are fetched",
            "licence": features.licence,
            "terms": features.terms,
        }
        for kind, head in sorted(heads.items())
    }


def _of_bucket(root: Path, keys: Iterable[str], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The bucket's whole files that are in the root; the sizes of the slides come from their headers."""
    names = list(names)
    keys = [*keys, *(key_of(kind, n) for kind in ("masks", "annotations") for n in names)]
    listed = root / CHECKSUMS
    md5 = parse_checksums(listed.read_text(encoding="utf-8", errors="replace")) if listed.is_file() else {}
    here = {key: root / key for key in keys if (root / key).is_file()}
    return {
        url_of(key): {
            "what": key.partition("/")[0],
            "bytes": path.stat().st_size,
            "md5": md5.get(key),
            "compared": "with md5" if key in md5 else "no",
            "licence": SLIDES_LICENCE,
        }
        for key, path in here.items()
    } | {url_of("images"): {"what": "size of each slide in pixels, from its header", "licence": SLIDES_LICENCE}}


def _results(root: Path) -> list[Path]:
    """What was made here: tables, and TRIDENT's files."""
    return sorted([*root.glob("*.csv"), *(root / "trident_processed").rglob("[!.]*.h5")])


def _file(path: Path) -> dict[str, Any]:
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                sha256.update(piece)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the disk and your rights.") from error
    return {"bytes": path.stat().st_size, "sha256": sha256.hexdigest()}
