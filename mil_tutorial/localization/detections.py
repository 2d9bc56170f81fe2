"""From patch scores to places: comparable scores, detections, and files that other programs read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.geometry import as_coords


def find_detections(
    score: np.ndarray, coords: np.ndarray, patch_size_level0: int, radius: float | None = None, least: float = 0.0
) -> np.ndarray:
    """Detections by non-maximum suppression: the best patch, without its neighbours, then the next best.

    Args:
        score: (n,) probability-like scores of the patches.
        coords: (n, 2) x, y of their top-left corners in level-0 pixels.
        patch_size_level0: their side.
        radius: patches within this many level-0 pixels of a better one are dropped; 1.5 sides by default.
        least: scores at or below are no detections.

    Returns:
        (k, 3) score, x, y of patch centres in level-0 pixels, best first.

    Raises:
        ValueError: different lengths, or scores NaN or infinite.
    """
    score, coords = np.asarray(score, np.float64).ravel(), as_coords(coords)
    if len(score) != len(coords) or not np.isfinite(score).all():
        raise ValueError(
            f"{len(score)} scores ({int((~np.isfinite(score)).sum())} not finite) for {len(coords)} patches."
        )
    centers = coords + patch_size_level0 / 2
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > least]
    if not len(order):
        return np.empty((0, 3))
    tree = cKDTree(centers)
    radius = radius or 1.5 * patch_size_level0
    dropped, kept = np.zeros(len(score), bool), []
    for i in order:
        if not dropped[i]:
            kept.append(i)
            dropped[tree.query_ball_point(centers[i], radius)] = True
    return np.column_stack([score[kept], centers[kept]])


def write_detections(path: str | os.PathLike, detections: np.ndarray) -> None:
    """Write one slide's detections as the CAMELYON16 challenge took them: CSV of probability, x, y, with no header."""
    table = pd.DataFrame(np.asarray(detections).reshape(-1, 3))
    with written_whole(path) as temporary:
        table.to_csv(temporary, header=False, index=False, float_format="%.8g")


def read_detections(path: str | os.PathLike) -> np.ndarray:
    """Read one slide's detections, (k, 3) probability, x, y; the file may be empty.

    Raises:
        DataError: no such file, or not three numbers in a line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of detections.")
    try:
        table = pd.read_csv(path, header=None)
    except pd.errors.EmptyDataError:
        return np.empty((0, 3))
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no readable CSV ({error}). Expected probability,x,y in each line.") from error
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if values.shape[1] != 3 or not np.isfinite(values).all():
        raise DataError(
            f"{path}: expected three numbers, probability,x,y, in each line and no header. Correct the file."
        )
    return values
