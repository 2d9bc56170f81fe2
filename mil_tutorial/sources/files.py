"""Read what others share of a slide: features and coordinates as HDF5, PyTorch tensors or NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.geometry import as_coords
from mil_tutorial.hdf5 import count_bad, get_dataset, open_h5, read_rows
from mil_tutorial.trident import read_features, read_how

# What the datasets of CLAM and of TRIDENT may say of their patches.
ATTRIBUTES = (
    *("patch_size", "patch_level", "downsample", "level_dim"),
    *("patch_size_level0", "target_magnification", "level0_magnification", "level0_width", "level0_height"),
)


def has_dataset(path: Path, key: str) -> bool:
    """Whether an HDF5 file has it; of other files, False."""
    if path.suffix != ".h5":
        return False
    with open_h5(path) as file:
        return key in file


def read_attributes(path: Path) -> dict[str, Any]:
    """Those of `ATTRIBUTES` that an HDF5 file's datasets carry; of other files, none."""
    return read_how(path, ATTRIBUTES) if path.suffix == ".h5" else {}


def read_corners(path: Path) -> np.ndarray:
    """Corners int64 (n, 2) of an HDF5 file's dataset `coords`, or of a .npy file.

    Raises:
        DataError: they are not whole numbers (n, 2), or the file is damaged.
    """
    if path.suffix == ".npy":
        values = _load_array(path)
    else:
        with open_h5(path) as file:
            values = read_rows(get_dataset(file, "coords", path))
    try:
        corners = as_coords(values)
    except ParameterError as error:
        raise DataError(f"{path}: as coordinates, {error.sentence}") from error
    if not np.array_equal(corners, values.reshape(corners.shape)):
        raise DataError(f"{path}: its coordinates are fractions, expected whole level-0 pixels, as CLAM writes them.")
    return corners


def read_values(path: Path) -> np.ndarray:
    """Features (n, D), float16 or float32, of a .h5, .pt or .npy file.

    Raises:
        DataError: they are not finite floats (n, D), or the file is damaged.
    """
    if path.suffix == ".h5":
        values = read_features(path, coords=False)[0]
    else:
        values = _load_tensor(path) if path.suffix == ".pt" else _load_array(path)
    if values.ndim == 3 and len(values) == 1:  # a batch of one bag
        values = values[0]
    if values.ndim != 2 or values.dtype.kind != "f":
        raise DataError(
            f"{path}: its features have shape {values.shape} and type {values.dtype}, expected (n, D) of floats."
            " Is it another file, such as its coordinates?"
        )
    if bad := count_bad(values):
        raise DataError(f"{path}: {bad} features are NaN or infinite. Ask for whole ones, or leave the slide out.")
    return values if values.dtype in (np.float16, np.float32) else values.astype(np.float32)


def _load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # NumPy parses a damaged header as Python, which may raise anything
        raise DataError(f"{path}: cannot be read as an array ({error!s:.120}). Copy it again.") from error


def _load_tensor(path: Path) -> np.ndarray:
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # not a file of PyTorch, damaged, or code that must not run: many kinds of error
        raise DataError(
            f"{path}: cannot be read as a tensor ({error!s:.120}). Expected what torch.save writes of a tensor (n, D)."
        ) from error
    if not isinstance(value, torch.Tensor) or value.is_sparse:
        keys = f" of {', '.join(map(str, value))[:80]}" if isinstance(value, dict) else ""
        raise DataError(f"{path}: holds a {type(value).__name__}{keys}, expected one dense tensor (n, D).")
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def first_with(paths: Iterable[Path], key: str) -> Path | None:
    """The first file that holds `key`, "features" or "coords"; what is not HDF5 holds what its name says."""
    return next((path for path in paths if path.suffix != ".h5" or has_dataset(path, key)), None)
