"""The features of slides out of torchmil's archives: tar.gz with a file `./<slide>.npy` for each slide.

An archive has no table of contents and is compressed as a whole, so it is read from its beginning until all wanted
slides have come. One slide is in memory at a time, and nothing else is kept.

Source: https://huggingface.co/datasets/torchmil/Camelyon16_MIL.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.remote import Head
from mil_tutorial.slides.labels import LabelRule
from mil_tutorial.sources.camelyon16 import partly_annotated
from mil_tutorial.sources.get import Files, nothing, save_patches
from mil_tutorial.sources.pieces import Body
from mil_tutorial.sources.sets import COORDS, PATCH_LABELS, FeatureSet, hub_url
from mil_tutorial.trident import coords_digest, read_patches, write_features, write_patch_labels

BUFFER = 1 << 18  # bytes that are unpacked at once

END = 1 << 20  # bytes that may follow the last file of an archive

LARGEST = 1 << 31  # bytes of one slide; more is no slide


def read_archive(
    url: str, size: int, names: Collection[str], *, told: Callable[[int], object] = nothing
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of the named slides, in the archive's order; it is not read further than the last of them.

    Args:
        url, size: the archive, and its bytes.
        names: of the slides.
        told: is told how many bytes more have been read.

    Raises:
        DataError: no network, the archive is damaged, or it lacks a slide.
    """
    left = set(names)
    if not left:
        return
    with closing(Body(url, size, told=told)) as body:
        try:
            with tarfile.open(fileobj=body, mode="r|gz", bufsize=BUFFER) as archive:
                for member in archive:
                    name = PurePosixPath(member.name).stem
                    if name not in left or not member.isfile() or member.size > LARGEST:
                        continue
                    file = archive.extractfile(member)
                    content = file.read() if file is not None else b""
                    yield name, np.load(io.BytesIO(content), allow_pickle=False)
                    left.remove(name)
                    if not left:
                        return
        except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
            raise DataError(
                f"{url}: cannot be read as a tar.gz of NumPy arrays ({error!s:.120}). The file there is damaged, or"
                " another one than it was."
            ) from error
        if body.left > BUFFER + END:
            raise DataError(
                f"{url}: cannot be read as a tar.gz any more {body.left:,} bytes before its end, and"
                f" {', '.join(sorted(left)[:5])} did not come before. The file there is damaged."
            )
    raise DataError(
        f"{url}: does not have {', '.join(sorted(left)[:5])}{' and more' if len(left) > 5 else ''}."
        " Choose other slides."
    )


def archives_of(features: FeatureSet) -> dict[str, str]:
    """What is read for a set, in this order: addresses by what is in them."""
    return {
        "coords": hub_url(features.repository, COORDS),
        "patch_labels": hub_url(features.repository, PATCH_LABELS),
        "features": features.url,
    }


def get_from_archives(
    labels: Mapping[str, int],
    root: Path,
    features: FeatureSet,
    heads: Mapping[str, Head],
    *,
    told: Callable[[int], object] = nothing,
) -> None:
    """Get slides out of torchmil's archives: corners, patch labels, features. Files that are there are not made again.

    Args:
        labels: 1 with tumour, 0 without, by slide name.
        root: of the data.
        features: the set.
        heads: of the archives, by what is in them, see `archives_of`.
        told: is told how many bytes more have been read; also those that were jumped over.

    Raises:
        DataError: something cannot be fetched or written, or does not fit together.
    """
    places = {name: Files(root, name, features.name) for name in labels}
    urls = archives_of(features)

    def arrays(kind: str, wanted: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        read = 0
        if not wanted:
            return

        def count(n: int) -> None:
            nonlocal read
            read += n
            told(n)

        yield from read_archive(urls[kind], heads[kind].size, wanted, told=count)
        told(heads[kind].size - read)

    for name, coords in arrays("coords", [n for n, f in places.items() if not f.patches.is_file()]):
        save_patches(places[name], coords, urls["coords"])
    for name, patch_labels in arrays("patch_labels", [n for n, f in places.items() if not f.labels.is_file()]):
        _save_labels(places[name], patch_labels, labels[name], urls["patch_labels"])
    for name, values in arrays("features", [n for n, f in places.items() if not f.features.is_file()]):
        patches = read_patches(places[name].patches)
        n = len(patches.coords)
        if values.ndim != 2 or len(values) != n or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise DataError(
                f"{urls['features']}: slide {name} has features of shape {values.shape} and type {values.dtype},"
                f" expected finite floats, a row for each of its {n} patches. Take another set."
            )
        write_features(places[name].features, values, patches, features.name)


def _save_labels(files: Files, values: np.ndarray, wsi_label: int, source: str) -> None:
    """Patch labels as the archive has them; on partly annotated slides those that are not tumour are unknown."""
    coords, values = read_patches(files.patches).coords, np.asarray(values).ravel()
    if len(values) != len(coords) or not np.isin(values, (0, 1)).all():
        raise DataError(f"{source}: slide {files.name} has not a 0 or 1 for each of its {len(coords)} patches.")
    rule = LabelRule(halve=False, partly_annotated=files.name in partly_annotated())
    labels = rule.label(values.astype(np.float32))
    write_patch_labels(
        files.labels,
        labels,
        coords_digest=coords_digest(coords),
        wsi_label=wsi_label,
        source=source,
        partly_annotated=rule.partly_annotated,
    )
