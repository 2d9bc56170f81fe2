"""Detections: the places of one slide that a model marks, found among its patches, and their files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number
from mil_tutorial.files import written_whole
from mil_tutorial.geometry import as_coords, as_numbers, as_scores


def as_detections(detections: ArrayLike, *, slide: str | None = None) -> np.ndarray:
    """Detections of one slide as float64 (k, 3): probability, x, y; an empty array becomes (0, 3).

    Raises:
        ParameterError: another shape, not numbers, NaN or infinite; it names `slide`.
    """
    expected = "numbers (k, 3): probability, x and y in level-0 pixels" + (f", on slide {slide}" if slide else "")
    points = as_numbers(detections, "detections", expected)
    if points.size == 0:
        return np.empty((0, 3))
    require(points.ndim == 2 and points.shape[1] == 3, "detections", Found(f"shape {points.shape}"), expected)
    bad = np.count_nonzero(~np.isfinite(points))
    require(not bad, "detections", Found(f"{bad} values that are NaN or infinite"), expected)
    return points


def find_detections(
    score: ArrayLike,
    coords: ArrayLike,
    patch_size_level0: int,
    *,
    radius: float | None = None,
    least: float = 0.0,
) -> np.ndarray:
    """Detections by non-maximum suppression: the best patch, without its neighbours, then the next best.

    >>> find_detections([0.5, 0.9, 0.3], [[0, 0], [1024, 0], [5120, 0]], 1024).tolist()
    [[0.9, 1536.0, 512.0], [0.3, 5632.0, 512.0]]

    Args:
        score: (n,) probability-like scores of the patches, see `detection_score`.
        coords: (n, 2) x, y of their top-left corners in level-0 pixels.
        patch_size_level0: their side.
        radius: patches within this many level-0 pixels of a better one are dropped; 1.5 sides by default.
        least: scores at or below are no detections.

    Returns:
        (k, 3) score, x, y of patch centres in level-0 pixels, best first.

    Raises:
        ParameterError: not one finite score for each patch, coordinates that are NaN or not (n, 2), or an option out of
            range.
    """
    require_integer("patch_size_level0", patch_size_level0, low=1)
    radius = 1.5 * patch_size_level0 if radius is None else radius
    require_number("radius", radius, low=0)
    require_number("least", least, finite=False)
    coords = as_coords(coords)
    score = as_scores(score, len(coords))
    centers = coords + patch_size_level0 / 2
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > least]
    if not len(order):
        return np.empty((0, 3))
    tree = cKDTree(centers)
    dropped, kept = np.zeros(len(score), bool), []
    for i in order:
        if not dropped[i]:
            kept.append(i)
            dropped[tree.query_ball_point(centers[i], radius)] = True
    return np.column_stack([score[kept], centers[kept]])


def write_detections(path: str | os.PathLike[str], detections: ArrayLike) -> None:
    """Write one slide's detections as the CAMELYON16 challenge took them: CSV of probability, x, y, with no header.

    Raises:
        ParameterError: not (k, 3), or not finite numbers.
    """
    table = pd.DataFrame(as_detections(detections))
    with written_whole(path) as temporary:
        table.to_csv(temporary, header=False, index=False, float_format="%.8g")


def read_detections(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one slide's detections, (k, 3) probability, x, y; the file may be empty.

    Raises:
        DataError: no such file, or not three numbers in a line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file of detections. `mil-tutorial localize` writes one for each slide."
        )
    try:
        table = pd.read_csv(path, header=None)
    except pd.errors.EmptyDataError:
        return np.empty((0, 3))
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: is not a readable CSV ({error}). Expected probability,x,y in each line. Correct the file."
        ) from error
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if values.shape[1] != 3 or not np.isfinite(values).all():
        raise DataError(
            f"{path}: expected three numbers, probability,x,y, in each line and no header. Correct the file."
        )
    return values
