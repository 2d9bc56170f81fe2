"""TRIDENT's files: read, write and compare them. Format as measured from TRIDENT 0.3.0's own output.

A job folder holds, for each magnification, patch size and overlap, a run folder such as `20x_512px_0px_overlap` with
`patches/<slide>_patches.h5` and `features_<encoder>/<slide>.h5`; `patch_labels/<slide>.h5` is this course's addition.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.geometry import Geometry, as_coords
from mil_tutorial.hdf5 import _blocks, _compare, _row_runs, count_bad, create_h5, get_dataset, open_h5, read_rows


@dataclass(frozen=True)
class Patches:
    """The patches of one slide: `coords` int64 (n, 2) x, y of the top-left corners in level-0 pixels, and their geometry."""

    name: str
    coords: np.ndarray
    geometry: Geometry


def run_folder(job_dir: str | os.PathLike, magnification: float, patch_size: int, overlap: int) -> Path:
    """TRIDENT's folder of one run, such as `<job_dir>/20x_512px_0px_overlap`."""
    return Path(job_dir) / f"{magnification:g}x_{patch_size}px_{overlap}px_overlap"


def coords_digest(coords: np.ndarray) -> str:
    """A short fingerprint of patch corners and their order, to notice that they have changed."""
    return hashlib.blake2b(np.ascontiguousarray(coords, "<i8").tobytes(), digest_size=8).hexdigest()


def read_patches(path: str | os.PathLike) -> Patches:
    """Read `<slide>_patches.h5`.

    Raises:
        DataError: no such file, damaged, no dataset `coords` of shape (n, 2), or attributes missing.
    """
    path = Path(path)
    with open_h5(path) as file:
        coords = _coords(file, path, "Make the coordinates again.")
        return Patches(path.stem.removesuffix("_patches"), coords, Geometry.from_attributes(file["coords"].attrs, path))


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
            f"{path}: 'features' has shape {dataset.shape} and type {dataset.dtype}, expected (n, D) of floats. Make the features again."
        )
    return dataset, shape


def _feature_coords(file: h5py.File, path: Path) -> np.ndarray | None:
    return _coords(file, path, "Make the features again.") if "coords" in file else None


def features_header(
    path: str | os.PathLike, coords: bool = True
) -> tuple[tuple[int, int], np.dtype, np.ndarray | None]:
    """Shape (n, D), type and, if asked for, coordinates (n, 2) of a feature file, without its features. Raises as `read_features`."""
    path = Path(path)
    with open_h5(path) as file:
        dataset, shape = _features(file, path)
        return shape, dataset.dtype, _feature_coords(file, path) if coords else None


def read_features(path: str | os.PathLike, coords: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Read `features_<encoder>/<slide>.h5`.

    Args:
        path: the file.
        coords: whether to read the coordinates beside the features.

    Returns:
        Features (n, D) in the file's own float type, and the coordinates (n, 2) int64 beside them, None if there are none.

    Raises:
        DataError: no such file, damaged, or no dataset `features` of shape (n, D).
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset, shape = _features(file, path)
        return read_rows(dataset).reshape(shape), _feature_coords(file, path) if coords else None


def count_bad_features(path: str | os.PathLike, block: int = 1 << 24) -> int:
    """How many features of a file are NaN or infinite; about `block` bytes are in memory at once. Raises as `read_features`."""
    path = Path(path)
    with open_h5(path) as file:
        dataset, (n, dim) = _features(file, path)
        runs = _row_runs(dataset)
        step = max(1, block // max(1, dim * dataset.dtype.itemsize))
        if runs is None or len(runs) > n // 16:
            if dataset.chunks and dataset.chunks[0] > step:
                step = dataset.chunks[0]  # a compressed chunk is unpacked whole
            flat = dataset if dataset.ndim == 2 else dataset[0]
            pieces = (flat[i : i + step] for i in range(0, n, step))
        else:
            pieces = _blocks(path, runs, step, np.empty((min(step, n), dim), dataset.dtype))
        bad, checksum, ours = 0, 0, "crc32" in dataset.attrs
        for rows in pieces:
            bad += count_bad(rows)
            checksum = zlib.crc32(rows, checksum) if ours else 0
        if ours:
            _compare(dataset, checksum)
        return bad


def match_rows(
    features_path: str | os.PathLike, feature_coords: np.ndarray | None, n: int, patches: Patches
) -> np.ndarray | None:
    """Check that features and patches are the same patches, row for row.

    Returns:
        None if the rows agree, else the order `o` such that `features[o]` belongs to `patches.coords`.

    Raises:
        DataError: different numbers of patches, or different coordinates.
    """
    if n != len(patches.coords):
        raise DataError(
            f"{features_path}: {n} feature rows, but {len(patches.coords)} patches of slide {patches.name}."
            " They come from different runs. Make the features again from these coordinates."
        )
    if feature_coords is None or np.array_equal(feature_coords, patches.coords):
        return None
    here, there = (np.lexsort(c.T) for c in (feature_coords, patches.coords))
    if not np.array_equal(feature_coords[here], patches.coords[there]):
        raise DataError(
            f"{features_path}: its coordinates are not those of the patches of slide {patches.name}."
            " They come from different runs. Make the features again from these coordinates."
        )
    order = np.empty(n, np.int64)
    order[there] = here
    return order


def read_how(path: str | os.PathLike, names: Sequence[str]) -> dict[str, object]:
    """Those of the attributes `names` that an HDF5 file's datasets carry: how `mil-tutorial` made it, and from what."""
    with open_h5(path) as file:
        found = {}
        for dataset in (d for d in file.values() if isinstance(d, h5py.Dataset)):
            found |= {n: dataset.attrs[n] for n in names if n in dataset.attrs}
    return {n: v.item() if isinstance(v, np.generic) else v for n, v in found.items()}


def _write_coords(file: h5py.File, patches: Patches, folder: Path) -> h5py.Dataset:
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
        savetodir=str(folder),
    )
    return dataset


def write_patches(path: str | os.PathLike, coords: np.ndarray, geometry: Geometry, **how: object) -> None:
    """Write `<slide>_patches.h5` as TRIDENT does.

    Args:
        coords: (n, 2) x, y in level-0 pixels; n may be 0.
        how: more attributes, which say how the patches were chosen; None is left out.
    """
    path = Path(path)
    patches = Patches(path.stem.removesuffix("_patches"), coords, geometry)
    with create_h5(path) as file:
        dataset = _write_coords(file, patches, path.parent.name)
        dataset.attrs.update({k: v for k, v in how.items() if v is not None})


@contextmanager
def new_features(
    path: str | os.PathLike, patches: Patches, encoder: str, dim: int, dtype: str
) -> Iterator[h5py.Dataset]:
    """Write `features_<encoder>/<slide>.h5` piece by piece: gives the dataset (n, dim) to fill; the file appears when it is full.

    Rows lie one behind the other in one block, which reads many times faster than TRIDENT's one chunk a row.
    """
    path = Path(path)
    with create_h5(path) as file:
        dataset = file.create_dataset("features", (len(patches.coords), dim), dtype)
        dataset.attrs.update(name=patches.name, savetodir=path.parent.name, encoder=encoder)
        _write_coords(file, patches, path.parent.name)
        yield dataset


def write_features(
    path: str | os.PathLike, features: np.ndarray, patches: Patches, encoder: str, compress: bool = False
) -> None:
    """Write `features_<encoder>/<slide>.h5` as TRIDENT does: `features` (n, D), and the coordinates beside them.

    `compress` makes small files with gzip, which h5py reads without being told.
    """
    path = Path(path)
    if not (compress and len(features)):
        with new_features(path, patches, encoder, features.shape[1], features.dtype) as dataset:
            dataset[:] = features
        return
    with create_h5(path) as file:
        dataset = file.create_dataset(
            "features", data=features, chunks=features.shape, shuffle=True, compression="gzip", compression_opts=9
        )
        dataset.attrs.update(name=patches.name, savetodir=path.parent.name, encoder=encoder)
        _write_coords(file, patches, path.parent.name)


@dataclass(frozen=True)
class PatchLabels:
    """Labels of one slide's patches.

    Attributes:
        fraction: float32 (n,), share of tumour pixels; the part of a patch beyond the slide counts as not tumour.
        label: int8 (n,), 1 tumour, 0 not, -1 unknown.
        threshold: a patch is 1 if its fraction is larger.
    """

    fraction: np.ndarray
    label: np.ndarray
    threshold: float


def write_patch_labels(path: str | os.PathLike, labels: PatchLabels, **how: object) -> None:
    """Write `patch_labels/<slide>.h5`: dataset `patch_labels` int8 (n,), `tumor_fraction` float32 (n,) beside it.

    Args:
        how: attributes that say how the labels were made; None is left out.
    """
    with create_h5(path) as file:
        dataset = file.create_dataset("patch_labels", data=labels.label)
        dataset.attrs.update(threshold=labels.threshold, **{k: v for k, v in how.items() if v is not None})
        file.create_dataset("tumor_fraction", data=labels.fraction)


def read_patch_labels(path: str | os.PathLike, n: int | None = None) -> np.ndarray:
    """Read `patch_labels/<slide>.h5`, also those of the original script: int64 (n,).

    Raises:
        DataError: no such file, damaged, or not `n` labels.
    """
    with open_h5(path) as file:
        labels = read_rows(get_dataset(file, "patch_labels", path, "Run `mil-tutorial labels`."))
    if n is not None and labels.shape != (n,):
        raise DataError(
            f"{path}: {labels.shape} labels for {n} patches. Run `mil-tutorial labels` again with these coordinates."
        )
    if not np.isin(labels, (-1, 0, 1)).all():
        raise DataError(f"{path}: labels other than -1, 0 and 1. Delete the file and run `mil-tutorial labels` again.")
    return labels.astype(np.int64)
