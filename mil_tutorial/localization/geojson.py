"""GeoJSON for QuPath: patches with their measurements, and regions of patches that touch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from shapely import Polygon, STRtree, box, union_all
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from mil_tutorial.errors import Found, require, require_integer, require_number
from mil_tutorial.files import written_whole
from mil_tutorial.geometry import as_coords, as_labels, as_named_scores, as_scores

CLASSES = {1: ("Tumor", [213, 94, 0]), 0: ("Normal", [0, 114, 178]), -1: ("Unknown", [128, 128, 128])}


def merge_patches(
    coords: ArrayLike, patch_size_level0: int, score: ArrayLike, threshold: float, *, mpp: float | None = None
) -> list[tuple[Polygon, dict[str, float]]]:
    """Patches above a threshold that touch, merged into regions.

    Args:
        coords, patch_size_level0: of the patches, in level-0 pixels; they may overlap.
        score: (n,) of the patches.
        threshold: patches above it are taken.
        mpp: µm per level-0 pixel, for the area in mm².

    Returns:
        For each region its outline, a shapely Polygon in level-0 pixels, and its measurements: patches, mean and
        largest score, and area. Largest score first.

    Raises:
        ParameterError: not one finite score for each patch, bad coordinates, or an option that is NaN or out of range.
    """
    require_integer("patch_size_level0", patch_size_level0, low=1)
    require_number("threshold", threshold, finite=False)
    if mpp is not None:
        require_number("mpp", mpp, low=0, open_low=True)
    coords = as_coords(coords)
    score = as_scores(score, len(coords))
    coords, score = coords[score > threshold], score[score > threshold]
    squares = box(coords[:, 0], coords[:, 1], coords[:, 0] + patch_size_level0, coords[:, 1] + patch_size_level0)
    merged = union_all(squares)
    pieces = [orient(p) for p in getattr(merged, "geoms", [merged]) if not p.is_empty]
    tree = STRtree(squares)
    regions = []
    for piece in pieces:
        members = tree.query(piece, predicate="covers")
        measured = {
            "patches": float(len(members)),
            "mean score": float(score[members].mean()),
            "largest score": float(score[members].max()),
        }
        if mpp is not None:
            measured["area mm2"] = piece.area * (mpp / 1000) ** 2
        regions.append((piece, measured))
    return sorted(regions, key=lambda r: -r[1]["largest score"])


def write_geojson(
    path: str | os.PathLike[str],
    coords: ArrayLike,
    patch_size_level0: int,
    measurements: Mapping[str, ArrayLike],
    *,
    labels: ArrayLike | None = None,
    name: str = "patch",
    regions: tuple[str, float] | None = None,
    mpp: float | None = None,
) -> None:
    """Write patches as GeoJSON that QuPath opens (drag the file onto the slide): one square each, with measurements.

    Args:
        path: file to write.
        coords: (n, 2) x, y in level-0 pixels.
        patch_size_level0: side of a patch.
        measurements: name -> (n,) values, shown by QuPath under "Measurement maps".
        labels: (n,) 1 tumour, 0 normal, -1 unknown: sets the class and colour.
        name: of the patches; each gets a number.
        regions: (measurement, threshold): also merges the patches above it into annotations of class "Tumor".
        mpp: µm per level-0 pixel, for the regions' area.

    Raises:
        ParameterError: bad coordinates, a measurement has another length or is NaN or infinite, a label is none of 1,
            0, -1, `regions` names no measurement, or an option is NaN or out of range.
    """
    require_integer("patch_size_level0", patch_size_level0, low=1)
    if mpp is not None:
        require_number("mpp", mpp, low=0, open_low=True)
    coords = as_coords(coords)
    n = len(coords)
    values = as_named_scores(measurements, n, parameter="measurements")
    known = None if labels is None else as_labels(labels, n)
    features: list[dict[str, Any]] = []
    if regions is not None:
        features += _regions(coords, patch_size_level0, values, regions, mpp)
    for i, (x, y) in enumerate(coords.tolist()):
        x2, y2 = x + int(patch_size_level0), y + int(patch_size_level0)
        properties: dict[str, Any] = {
            "objectType": "tile",
            "name": f"{name} {i}",
            "measurements": {key: float(v[i]) for key, v in values.items()},
        }
        if known is not None:
            properties["classification"] = _classification(int(known[i]))
        # Whole pixels, where shapely would write floats.
        square = {"type": "Polygon", "coordinates": [[[x, y], [x2, y], [x2, y2], [x, y2], [x, y]]]}
        features.append({"type": "Feature", "geometry": square, "properties": properties})
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _classification(label: int) -> dict[str, Any]:
    name, color = CLASSES[label]
    return {"name": name, "color": color}


def _regions(
    coords: np.ndarray, side: int, values: Mapping[str, np.ndarray], regions: tuple[str, float], mpp: float | None
) -> list[dict[str, Any]]:
    """The merged patches as annotations."""
    pair = isinstance(regions, tuple) and len(regions) == 2
    require(pair, "regions", regions, "a pair of a measurement's name and a threshold, such as ('attention x n', 3.0)")
    key, threshold = regions
    require(key in values, "regions", Found(f"the measurement {key!r}"), f"one of {', '.join(map(repr, values))}")
    require_number("regions", threshold, finite=False, expected="a number as its threshold")
    features = []
    for i, (piece, measured) in enumerate(merge_patches(coords, side, values[key], threshold, mpp=mpp)):
        properties = {
            "objectType": "annotation",
            "name": f"region {i}",
            "classification": _classification(1),
            "measurements": {f"{key}: {k}" if "score" in k else k: v for k, v in measured.items()},
        }
        features.append({"type": "Feature", "geometry": mapping(piece), "properties": properties})
    return features
