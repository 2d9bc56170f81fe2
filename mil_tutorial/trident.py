"""TRIDENT's files: read, write and compare them. Format as measured from TRIDENT 0.3.0's own output.

A job folder holds, for each magnification, patch size and overlap, a run folder such as `20x_512px_0px_overlap` with
`patches/<slide>_patches.h5` and `features_<encoder>/<slide>.h5`; `patch_labels/<slide>.h5` is this course's addition.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mil_tutorial.files import DataError, written_whole
from mil_tutorial.geometry import Geometry


@dataclass(frozen=True)
class Patches:
    """The patches of one slide: `coords` int64 (n, 2) x, y of the top-left corners in level-0 pixels, and their geometry."""

    name: str
    coords: np.ndarray
    geometry: Geometry


def run_folder(job_dir: str | os.PathLike, magnification: float, patch_size: int, overlap: int) -> Path:
    """TRIDENT's folder of one run, such as `<job_dir>/20x_512px_0px_overlap`."""
    return Path(job_dir) / f"{magnification:g}x_{patch_size}px_{overlap}px_overlap"


@contextmanager
def open_h5(path: str | os.PathLike):
    """Open an HDF5 file for reading; whatever is wrong with it becomes a `DataError` that names it."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Run the step that writes it, or check the slide's name.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except PermissionError as error:
        raise DataError(f"{path}: you may not read this file. Ask for the right to.") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read as HDF5 ({str(error)[:160]}). The file is damaged or was never finished."
            " Delete it and run the step that writes it again."
        ) from error


def coords_digest(coords: np.ndarray) -> str:
    """A short fingerprint of patch corners and their order, to notice that they have changed."""
    return hashlib.blake2b(np.ascontiguousarray(coords, "<i8").tobytes(), digest_size=8).hexdigest()


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    if not isinstance(file.get(key), h5py.Dataset):
        found = ", ".join(file) or "nothing"
        raise DataError(f"{path}: dataset '{key}' is missing, found {found}. Is this the right folder?")
    return file[key]


def read_patches(path: str | os.PathLike) -> Patches:
    """Read `<slide>_patches.h5`.

    Raises:
        DataError: no such file, damaged, no dataset `coords` of shape (n, 2), or attributes missing.
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset = _dataset(file, "coords", path)
        if dataset.ndim != 2 or dataset.shape[1] != 2:
            raise DataError(f"{path}: 'coords' has shape {dataset.shape}, expected (n, 2). Make the coordinates again.")
        geometry = Geometry.from_attributes(dataset.attrs, path)
        return Patches(path.stem.removesuffix("_patches"), dataset[:].astype(np.int64), geometry)


def read_features(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Read `features_<encoder>/<slide>.h5`.

    Returns:
        Features (n, D) in the file's own float type, and the coordinates (n, 2) int64 beside them, None if there are none.

    Raises:
        DataError: no such file, damaged, or no dataset `features` of shape (n, D).
    """
    path = Path(path)
    with open_h5(path) as file:
        features = _dataset(file, "features", path)[:]
        coords = file["coords"][:].astype(np.int64) if "coords" in file else None
    if features.ndim == 3 and features.shape[0] == 1:  # some old TRIDENT files carry a leading axis
        features = features[0]
    if features.size == 0:
        features = features.reshape(0, features.shape[1] if features.ndim == 2 else 0)
    if features.ndim != 2:
        raise DataError(f"{path}: 'features' has shape {features.shape}, expected (n, D). Make the features again.")
    return features, coords


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


def _write_coords(file: h5py.File, name: str, coords: np.ndarray, geometry: Geometry, folder: Path) -> None:
    dataset = file.create_dataset("coords", data=np.asarray(coords, np.int64).reshape(-1, 2))
    dataset.attrs.update(
        patch_size=geometry.patch_size,
        patch_size_level0=geometry.patch_size_level0,
        level0_magnification=int(geometry.level0_magnification),
        target_magnification=geometry.target_magnification,
        overlap=geometry.overlap,
        level0_width=geometry.width,
        level0_height=geometry.height,
        name=name,
        savetodir=str(folder),
    )


def write_patches(path: str | os.PathLike, coords: np.ndarray, geometry: Geometry) -> None:
    """Write `<slide>_patches.h5` as TRIDENT does. `coords` is (n, 2), n may be 0."""
    path = Path(path)
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        _write_coords(file, path.stem.removesuffix("_patches"), coords, geometry, path.parent.name)


def write_features(
    path: str | os.PathLike, features: np.ndarray, patches: Patches, encoder: str, compress: bool = False
) -> None:
    """Write `features_<encoder>/<slide>.h5` as TRIDENT does: `features` (n, D), and the coordinates beside them.

    Rows lie one behind the other in one block, which reads many times faster than TRIDENT's one chunk a row. `compress`
    makes small files with gzip, which h5py reads without being told.
    """
    path = Path(path)
    small = {
        "compression": "gzip",
        "compression_opts": 9,
        "shuffle": True,
        "chunks": (max(1, len(features)), features.shape[1]),
    }
    with written_whole(path) as temporary, h5py.File(temporary, "w", libver="latest" if compress else None) as file:
        dataset = file.create_dataset("features", data=features, **(small if compress and len(features) else {}))
        dataset.attrs.update(name=patches.name, savetodir=path.parent.name, encoder=encoder)
        _write_coords(file, patches.name, patches.coords, patches.geometry, path.parent.name)
