"""Which patches of a bag are neighbours, as a sparse matrix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from mil_tutorial.errors import Found, require, require_number
from mil_tutorial.geometry import as_numbers

OFF_GRID = 1.05  # times the distance counts off the grid: some programs round corners

EDGES_AT_ONCE = 4096  # so that the features of both ends of many edges are not in memory at once


def build_adjacency(
    places: ArrayLike,
    *,
    distance: float = np.sqrt(2),
    features: np.ndarray | None = None,
    normalize: bool = True,
) -> torch.Tensor:
    """Which patches are neighbours in the grid.

    Args:
        places: (n, 2) grid column and row of each patch; fractions where pieces of tissue have grids of their own.
        distance: patches at most this far apart are neighbours; sqrt(2) takes the eight around a patch, and, off the
            grid, all that touch it. There, 5 % more counts as the same.
        features: if given, (n, D): an edge weighs `exp(-|x_i - x_j| / D)` in place of 1.
        normalize: divide by the square roots of both degrees.

    Returns:
        Sparse COO float32 (n, n), coalesced. A bag of one patch is its own neighbour.

    Raises:
        ParameterError: places of another shape or NaN, a distance that is not above 0, or features that do not fit.

    >>> build_adjacency([[0, 0], [1, 0], [2, 0]], normalize=False).to_dense()
    tensor([[0., 1., 0.],
            [1., 0., 1.],
            [0., 1., 0.]])
    """
    places = _as_places(places)
    require_number("distance", distance, low=0, open_low=True)
    n, distance = len(places), distance + 1e-6
    if features is not None:
        shape = np.shape(features)
        require(
            len(shape) == 2 and shape[0] == n, "features", Found(f"shape {shape}"), f"({n}, D), a row for each patch"
        )
    if n < 2:
        row, column, weight = np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n)
    else:
        on_grid = places.dtype == np.int64
        found = pairs_by_grid(places, distance) if on_grid else None
        row, column = found or pairs_by_tree(places, distance if on_grid else distance * OFF_GRID)
        weight = np.ones(len(row)) if features is None else _similarity(features, row, column)
        if normalize:
            root = np.sqrt(np.bincount(row, weight, n))
            weight = weight / (root[row] * root[column])
    index, values = torch.from_numpy(np.stack([row, column])), torch.from_numpy(weight.astype(np.float32))
    return torch.sparse_coo_tensor(index, values, (n, n), is_coalesced=True, check_invariants=False)


def _as_places(places: ArrayLike) -> np.ndarray:
    """Grid places (n, 2), int64 if all are whole numbers, else float64; an empty array becomes (0, 2)."""
    expected = "numbers of shape (n, 2): the grid column and row of each patch"
    array = as_numbers(places, "places", expected)
    if array.size == 0:
        return np.empty((0, 2), np.int64)
    require(array.ndim == 2 and array.shape[1] == 2, "places", Found(f"shape {array.shape}"), expected)
    require(bool(np.isfinite(array).all()), "places", Found("values that are NaN or infinite"), expected)
    whole = array.astype(np.int64)
    return whole if np.array_equal(whole, array) else array


def _similarity(features: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """`exp(-|x_i - x_j| / D)` of each edge, float64."""
    pieces = len(row) // EDGES_AT_ONCE + 1
    weights = [
        np.exp(-np.linalg.norm(features[i].astype(np.float64) - features[j], axis=1) / features.shape[1])
        for i, j in zip(np.array_split(row, pieces), np.array_split(column, pieces), strict=True)
    ]
    return np.concatenate(weights)


def pairs_by_grid(places: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Neighbours (row, column), sorted, by looking around each patch on the grid.

    None where the grid would be too wide to keep, or where a place is taken twice.
    """
    n, reach = len(places), int(distance)
    first = places.min(0)
    width, height = (int(v) + 2 * reach + 1 for v in places.max(0) - first)
    if width * height > 64 * n + 1_000_000:
        return None
    x, y = (places - first).T + reach
    grid = np.full((height, width), n, np.int32)  # n: nobody is there
    grid[y, x] = np.arange(n)
    if (grid[y, x] != np.arange(n)).any():
        return None
    dx, dy = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    near = (dx**2 + dy**2 <= distance**2) & ((dx != 0) | (dy != 0))
    around = np.sort(grid.ravel()[(y * width + x)[:, None] + (dy * width + dx)[near]], axis=1)  # (n, 8)
    real = np.flatnonzero(around < n)
    return real // around.shape[1], around.ravel()[real]


def pairs_by_tree(places: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for any places."""
    pairs = cKDTree(places).query_pairs(distance, output_type="ndarray")
    row, column = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort((column, row))
    return row[order], column[order]
