"""Bags: all patches of one slide as a TensorDict, with one label for the whole.

The keys are torchmil's: `X` features, `Y` bag label, `y_inst` patch labels, `adj` which patches touch, `coords` grid places.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree


def _pairs_of_grid(cells: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Neighbours (row, column), sorted, by looking into a picture of the grid; None where the grid is too wide or a place is taken twice."""
    n, reach = len(cells), int(distance)
    x, y = (cells - cells.min(0)).T + reach
    width, height = int(x.max()) + reach + 1, int(y.max()) + reach + 1
    if width * height > 64 * n + 1_000_000:
        return None
    picture = np.full((height, width), n, np.int32)  # n: nobody is there
    picture[y, x] = np.arange(n)
    if (picture[y, x] != np.arange(n)).any():
        return None
    dx, dy = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    near = (dx**2 + dy**2 <= distance**2) & ((dx != 0) | (dy != 0))
    around = np.sort(picture.ravel()[(y * width + x)[:, None] + (dy * width + dx)[near]], axis=1)  # (n, 8)
    real = around < n
    return np.repeat(np.arange(n), real.sum(1)), around[real]


def _pairs_of_tree(cells: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for any places."""
    pairs = cKDTree(cells).query_pairs(distance, output_type="ndarray")
    row, column = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort((column, row))
    return row[order], column[order]


def build_adjacency(
    cells: np.ndarray, distance: float = np.sqrt(2), features: np.ndarray | None = None, normalize: bool = True
) -> torch.Tensor:
    """Which patches are neighbours in the grid.

    Args:
        cells: (n, 2) grid places.
        distance: patches at most this far apart are neighbours; sqrt(2) takes the eight around a patch.
        features: if given, (n, D): an edge weighs `exp(-|x_i - x_j| / D)` in place of 1.
        normalize: divide by the square roots of both degrees.

    Returns:
        Sparse COO float32 (n, n), coalesced. A bag of one patch is its own neighbour.
    """
    cells = np.asarray(cells, np.int64).reshape(-1, 2)
    n, distance = len(cells), distance + 1e-6
    if n == 1:
        row, column, weight = np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1)
    elif n == 0:
        row, column, weight = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    else:
        row, column = _pairs_of_grid(cells, distance) or _pairs_of_tree(cells, distance)
        weight = np.ones(len(row))
        if features is not None:
            weight = np.concatenate(
                [
                    np.exp(-np.linalg.norm(features[r].astype(np.float64) - features[c], axis=1) / features.shape[1])
                    for r, c in zip(*(np.array_split(v, len(v) // 4096 + 1) for v in (row, column)), strict=True)
                ]
            )
        if normalize:
            root = np.sqrt(np.bincount(row, weight, n))
            weight = weight / (root[row] * root[column])
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([row, column])), torch.from_numpy(weight.astype(np.float32)), (n, n),
        is_coalesced=True, check_invariants=False,
    )  # fmt: skip
