"""From patch scores to places: comparable scores, detections, and files that other programs read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.special import softmax

from mil_tutorial.files import DataError, written_whole


def attention_times_n(raw: np.ndarray) -> np.ndarray:
    """Softmax of the raw attention times the number of patches: 1 is a patch's fair share. (n,) -> (n,).

    Unlike min-max scaling, which makes some patch of every slide look guilty, an even slide stays at 1 everywhere.
    """
    raw = np.asarray(raw, np.float64)
    return softmax(raw) * len(raw)


def scale_rank(score: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1], ties averaged: for a picture of the order, not of the size. (n,) -> (n,)."""
    from scipy.stats import rankdata

    score = np.asarray(score, np.float64)
    return (rankdata(score) - 1) / max(1, len(score) - 1)


def scale_min_max(score: np.ndarray) -> np.ndarray:
    """Smallest 0, largest 1, constant scores 0.5: what the original tutorial draws. (n,) -> (n,)."""
    score = np.asarray(score, np.float64)
    span = np.ptp(score) if len(score) else 0.0
    return (score - score.min()) / span if span > 0 else np.full(len(score), 0.5)


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
    score, coords = np.asarray(score, np.float64).ravel(), np.asarray(coords, np.float64).reshape(-1, 2)
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


def write_geojson(
    path: str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    measurements: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    name: str = "patch",
) -> None:
    """Write patches as GeoJSON that QuPath opens (drag the file onto the slide): one square each, with measurements.

    Args:
        coords: (n, 2) x, y in level-0 pixels.
        patch_size_level0: side of a patch.
        measurements: name -> (n,) values, shown by QuPath under "Measurement maps".
        labels: (n,) 1 tumour, 0 normal, -1 unknown: sets the class and colour.

    Raises:
        ValueError: a measurement has another length, or is NaN or infinite.
    """  # fmt: skip
    coords = np.asarray(coords, np.int64).reshape(-1, 2)
    for key, values in measurements.items():
        if len(values) != len(coords) or not np.isfinite(values).all():
            raise ValueError(
                f"measurement {key!r}: {len(values)} values for {len(coords)} patches, all must be finite."
            )
    classes = {1: ("Tumor", [200, 30, 40]), 0: ("Normal", [60, 130, 80]), -1: ("Unknown", [128, 128, 128])}
    features = []
    for i, (x, y) in enumerate(coords.tolist()):
        x2, y2 = x + patch_size_level0, y + patch_size_level0
        properties = {
            "objectType": "tile",
            "name": f"{name} {i}",
            "measurements": {key: float(values[i]) for key, values in measurements.items()},
        }
        if labels is not None:
            label, color = classes[int(labels[i])]
            properties["classification"] = {"name": label, "color": color}
        ring = [[x, y], [x2, y], [x2, y2], [x, y2], [x, y]]
        features.append(
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
        )
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
