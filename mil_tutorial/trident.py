"""TRIDENT's files and patch-label files: read, write and compare them. Format as measured from TRIDENT 0.3.0's output.

A job folder holds, for each magnification, patch size and overlap, a run folder such as `20x_512px_0px_overlap` with
`patches/<slide>_patches.h5` and `features_<encoder>/<slide>.h5`; `patch_labels/<slide>.h5` is this course's addition.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mil_tutorial.errors import DataError, Found, require
from mil_tutorial.geometry import Geometry, as_coords, as_labels, as_scores
from mil_tutorial.hdf5 import compare_values, count_bad, create_h5, get_dataset, open_h5, read_blocks, read_rows


@dataclass(frozen=True)
class Patches:
    """The patches of one slide: `coords` int64 (n, 2) x, y of the top-left corners in level-0 pixels, and the grid."""

    name: str
    coords: np.ndarray
    geometry: Geometry


def run_folder(job_dir: str | os.PathLike[str], magnification: float, patch_size: int, overlap: int) -> Path:
    """TRIDENT's folder of one run.

    >>> run_folder("job", 20, 512, 0).as_posix()
    'job/20x_512px_0px_overlap'
    """
    return Path(job_dir) / f"{float(magnification):g}x_{patch_size}px_{overlap}px_overlap"


def coords_digest(coords: np.ndarray) -> str:
    """A short fingerprint of patch corners and their order, to notice that they have changed."""
    return hashlib.blake2b(np.ascontiguousarray(coords, "<i8").tobytes(), digest_size=8).hexdigest()


def read_patches(path: str | os.PathLike[str]) -> Patches:
    """Read `<slide>_patches.h5`.

    Raises:
        DataError: no such file, damaged, no dataset `coords` of shape (n, 2), or attributes missing.
    """
    path = Path(path)
    with open_h5(path) as file:
        coords = _coords(file, path, "Make the coordinates again.")
        return Patches(path.stem.removesuffix("_patches"), coords, Geometry.from_attributes(file["coords"].attrs, path))


def read_features(path: str | os.PathLike[str], *, coords: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Read `features_<encoder>/<slide>.h5`.

    Args:
        path, coords: the file, and whether to read the coordinates beside the features.

    Returns:
        Features (n, D) in the file's own float type, and the coordinates (n, 2) int64 beside them or None.

    Raises:
        DataError: no such file, damaged, or no dataset `features` of shape (n, D).
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset, shape = _features(file, path)
        corners = _coords(file, path, "Make the features again.") if coords and "coords" in file else None
        return read_rows(dataset).reshape(shape), corners


def features_header(
    path: str | os.PathLike[str], *, coords: bool = True
) -> tuple[tuple[int, int], np.dtype, np.ndarray | None]:
    """Shape (n, D), type and, if asked for, coordinates (n, 2) of a feature file, without its features.

    It raises what `read_features` raises.
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset, shape = _features(file, path)
        corners = _coords(file, path, "Make the features again.") if coords and "coords" in file else None
        return shape, dataset.dtype, corners


def count_bad_features(path: str | os.PathLike[str], *, block: int = 1 << 24) -> int:
    """How many features of a file are NaN or infinite; about `block` bytes are in memory at once.

    It raises what `read_features` raises.
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset, _ = _features(file, path)
        return sum(count_bad(rows) for rows in read_blocks(dataset, size=block))


def compare_features(path: str | os.PathLike[str]) -> None:
    """Compare a file's features with their checksum, if they have one: `DamagedFile` if they have changed."""
    path = Path(path)
    with open_h5(path) as file:
        compare_values(_features(file, path)[0])


def _coords(file: h5py.File, path: Path, remedy: str) -> np.ndarray:
    dataset = get_dataset(file, "coords", path)
    if dataset.ndim != 2 or dataset.shape[1] != 2:
        raise DataError(f"{path}: 'coords' has shape {dataset.shape}, expected (n, 2). {remedy}")
    return read_rows(dataset).astype(np.int64, copy=False)


def _features(file: h5py.File, path: Path) -> tuple[h5py.Dataset, tuple[int, int]]:
    """The dataset `features` and its shape (n, D); D is 0 where an empty slide does not say it."""
    dataset = get_dataset(file, "features", path)
    shape = dataset.shape[1:] if dataset.ndim == 3 and dataset.shape[0] == 1 else dataset.shape  # some old files
    if dataset.size == 0:
        shape = (0, shape[1] if len(shape) == 2 else 0)
    if len(shape) != 2 or dataset.dtype.kind != "f":
        raise DataError(
            f"{path}: 'features' has shape {dataset.shape} and type {dataset.dtype}, expected (n, D) of floats."
            " Make the features again."
        )
    return dataset, shape


def match_rows(
    features_path: str | os.PathLike[str], feature_coords: np.ndarray | None, n: int, patches: Patches
) -> np.ndarray | None:
    """Check that features and patches are the same patches, row for row.

    Args:
        features_path, feature_coords, n: the feature file, the corners (n, 2) in it if any, its number of rows.
        patches: those of the slide.

    Returns:
        None if the rows agree, else the order `o` such that `features[o]` belongs to `patches.coords`.

    Raises:
        DataError: different numbers of patches, or different coordinates.
    """
    remedy = "They come from different runs. Make the features again from these coordinates."
    if n != len(patches.coords):
        raise DataError(
            f"{features_path}: {n} feature rows, but {len(patches.coords)} patches of slide {patches.name}. {remedy}"
        )
    if feature_coords is None or np.array_equal(feature_coords, patches.coords):
        return None
    here, there = (np.lexsort(c.T) for c in (feature_coords, patches.coords))
    if not np.array_equal(feature_coords[here], patches.coords[there]):
        raise DataError(
            f"{features_path}: its coordinates are not those of the patches of slide {patches.name}. {remedy}"
        )
    order = np.empty(n, np.int64)
    order[there] = here
    return order


def read_how(path: str | os.PathLike[str], names: Iterable[str]) -> dict[str, object]:
    """Those of the attributes `names` that a file's datasets carry: how it was made, and from what."""
    names = list(names)
    how: dict[str, object] = {}
    with open_h5(path) as file:
        for dataset in (d for d in file.values() if isinstance(d, h5py.Dataset)):
            how |= {n: dataset.attrs[n] for n in names if n in dataset.attrs}
    return {n: v.item() if isinstance(v, np.generic) else v for n, v in how.items()}


def write_patches(path: str | os.PathLike[str], coords: np.ndarray, geometry: Geometry, **how: object) -> None:
    """Write `<slide>_patches.h5` as TRIDENT does.

    Args:
        path, coords, geometry: the file, the corners (n, 2) in level-0 pixels, n may be 0, and their grid.
        how: more attributes, which say how the patches were chosen; None is left out.
    """
    path = Path(path)
    patches = Patches(path.stem.removesuffix("_patches"), coords, geometry)
    with create_h5(path) as file:
        dataset = _write_coords(file, patches, path.parent.name)
        dataset.attrs.update({k: v for k, v in how.items() if v is not None})


def _write_coords(file: h5py.File, patches: Patches, folder: str) -> h5py.Dataset:
    geometry = patches.geometry
    dataset = file.create_dataset("coords", data=as_coords(patches.coords))
    dataset.attrs.update(
        patch_size=geometry.patch_size,
        patch_size_level0=geometry.patch_size_level0,
        level0_magnification=int(geometry.level0_magnification),
        target_magnification=geometry.target_magnification,
        overlap=geometry.overlap,
        level0_width=geometry.width,
        level0_height=geometry.height,
        name=patches.name,
        savetodir=folder,
    )
    return dataset


@contextmanager
def new_features(
    path: str | os.PathLike[str], patches: Patches, encoder: str, *, dim: int, dtype: str | np.dtype
) -> Iterator[h5py.Dataset]:
    """Write `features_<encoder>/<slide>.h5` piece by piece: gives the dataset (n, dim) to fill.

    The file appears when the block ends. Its rows follow one another, which reads much faster than TRIDENT's chunks.
    """
    path = Path(path)
    with create_h5(path) as file:
        dataset = file.create_dataset("features", (len(patches.coords), dim), dtype)
        _finish_features(file, dataset, patches, encoder, path)
        yield dataset


def write_features(
    path: str | os.PathLike[str], features: np.ndarray, patches: Patches, encoder: str, *, compress: bool = False
) -> None:
    """Write `features_<encoder>/<slide>.h5` as TRIDENT does, with the coordinates beside the features.

    Args:
        path, features, patches, encoder: the file, floats (n, D), the n patches, the encoder's name.
        compress: make a small file with gzip, which h5py reads without being told.

    Raises:
        ParameterError: not one row for each patch.
    """
    path, features, n = Path(path), np.asarray(features), len(patches.coords)
    good = features.ndim == 2 and len(features) == n and features.dtype.kind == "f"
    found = Found(f"shape {features.shape} of {features.dtype}")
    require(good, "features", found, f"floats of shape ({n}, D), a row for each patch")
    gzip = {"chunks": features.shape, "shuffle": True, "compression": "gzip", "compression_opts": 9}
    with create_h5(path) as file:
        dataset = file.create_dataset("features", data=features, **(gzip if compress and n else {}))
        _finish_features(file, dataset, patches, encoder, path)


def _finish_features(file: h5py.File, dataset: h5py.Dataset, patches: Patches, encoder: str, path: Path) -> None:
    dataset.attrs.update(name=patches.name, savetodir=path.parent.name, encoder=encoder)
    _write_coords(file, patches, path.parent.name)


@dataclass(frozen=True)
class PatchLabels:
    """Labels of one slide's patches.

    Attributes:
        fraction: float32 (n,), fraction of tumour pixels; the part of a patch beyond the slide counts as not tumour.
        label: int8 (n,), 1 tumour, 0 not, -1 unknown.
        threshold: a patch is 1 if its fraction is larger.
    """

    fraction: np.ndarray
    label: np.ndarray
    threshold: float


def write_patch_labels(path: str | os.PathLike[str], labels: PatchLabels, **how: object) -> None:
    """Write `patch_labels/<slide>.h5`: datasets `patch_labels` int8 (n,) and `tumor_fraction` float32 (n,).

    Args:
        path, labels: the file, the labels of all patches of the slide in their order.
        how: attributes that say how the labels were made; None is left out.

    Raises:
        ParameterError: a label is not 1, 0 or -1, or there is not one fraction for each.
    """
    label = as_labels(labels.label, None).astype(np.int8)
    fraction = as_scores(labels.fraction, len(label), parameter="fraction").astype(np.float32)
    with create_h5(path) as file:
        dataset = file.create_dataset("patch_labels", data=label)
        dataset.attrs.update(threshold=labels.threshold, **{k: v for k, v in how.items() if v is not None})
        file.create_dataset("tumor_fraction", data=fraction)


def read_patch_labels(path: str | os.PathLike[str], n: int | None = None) -> np.ndarray:
    """Read `patch_labels/<slide>.h5`, also those of the original script: int64 (n,), 1 tumour, 0 not, -1 unknown.

    Raises:
        DataError: no such file, damaged, or not `n` labels.
    """
    path = Path(path)
    with open_h5(path) as file:
        labels = read_rows(get_dataset(file, "patch_labels", path, remedy="Run `mil-tutorial labels`."))
    if n is not None and labels.shape != (n,):
        raise DataError(
            f"{path}: labels of shape {labels.shape} for {n} patches."
            " Run `mil-tutorial labels` again with these coordinates."
        )
    if not np.isin(labels, (-1, 0, 1)).all():
        raise DataError(f"{path}: labels other than -1, 0 and 1. Delete the file and run `mil-tutorial labels` again.")
    return labels.astype(np.int64)
