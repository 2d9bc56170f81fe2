"""From patch scores to places: comparable scores, detections, and files that other programs read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from mil_tutorial.files import written_whole
from mil_tutorial.geometry import as_coords

CLASSES = {1: ("Tumor", [213, 94, 0]), 0: ("Normal", [0, 114, 178]), -1: ("Unknown", [128, 128, 128])}


def _check_measurements(measurements: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    values = {str(k): np.asarray(v, np.float64).ravel() for k, v in measurements.items()}
    for key, v in values.items():
        if len(v) != n or not np.isfinite(v).all():
            raise ValueError(f"measurement {key!r}: {len(v)} values for {n} patches, all must be finite.")
    return values


def merge_patches(
    coords: np.ndarray, patch_size_level0: int, score: np.ndarray, threshold: float, mpp: float | None = None
) -> list[tuple[object, dict[str, float]]]:
    """Patches above a threshold that touch, merged into regions.

    Args:
        coords, patch_size_level0: of the patches, in level-0 pixels; they may overlap.
        score: (n,) of the patches.
        threshold: patches above it are taken.
        mpp: µm per level-0 pixel, for the area in mm².

    Returns:
        For each region its outline, a shapely (Multi)Polygon in level-0 pixels, and its measurements: patches, mean and
        largest score, and area. Largest score first.
    """
    from shapely import STRtree, box, union_all
    from shapely.geometry.polygon import orient

    coords, score = as_coords(coords), np.asarray(score, np.float64).ravel()
    if len(score) != len(coords) or not np.isfinite(score).all():
        raise ValueError(f"{len(score)} scores for {len(coords)} patches, expected one finite score for each.")
    coords, score = coords[score > threshold], score[score > threshold]
    squares = box(coords[:, 0], coords[:, 1], coords[:, 0] + patch_size_level0, coords[:, 1] + patch_size_level0)
    merged = union_all(squares)
    pieces = [orient(p) for p in getattr(merged, "geoms", [merged]) if not p.is_empty]
    tree = STRtree(squares)
    regions = []
    for piece in pieces:
        members = tree.query(piece, predicate="covers")
        found = {
            "patches": float(len(members)),
            "mean score": float(score[members].mean()),
            "largest score": float(score[members].max()),
        }
        if mpp is not None:
            found["area mm2"] = piece.area * (mpp / 1000) ** 2
        regions.append((piece, found))
    return sorted(regions, key=lambda r: -r[1]["largest score"])


def write_geojson(
    path: str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    measurements: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    name: str = "patch",
    regions: tuple[str, float] | None = None,
    mpp: float | None = None,
) -> None:
    """Write patches as GeoJSON that QuPath opens (drag the file onto the slide): one square each, with measurements.

    Args:
        coords: (n, 2) x, y in level-0 pixels.
        patch_size_level0: side of a patch.
        measurements: name -> (n,) values, shown by QuPath under "Measurement maps".
        labels: (n,) 1 tumour, 0 normal, -1 unknown: sets the class and colour.
        name: of the patches; each gets a number.
        regions: (measurement, threshold): also merges the patches above it into annotations of class "Tumor".
        mpp: µm per level-0 pixel, for the regions' area.

    Raises:
        ValueError: a measurement has another length, or is NaN or infinite; a label is none of 1, 0, -1.
    """
    coords = as_coords(coords)
    values = _check_measurements(measurements, len(coords))
    if labels is not None:
        labels = np.asarray(labels).ravel()
        if len(labels) != len(coords) or not np.isin(labels, (-1, 0, 1)).all():
            raise ValueError(f"{len(labels)} labels for {len(coords)} patches, expected one of 1, 0, -1 for each.")
    if patch_size_level0 < 1:
        raise ValueError(f"patch_size_level0 is {patch_size_level0}, expected at least 1.")
    features = []
    for piece, found in (
        merge_patches(coords, patch_size_level0, values[regions[0]], regions[1], mpp) if regions else ()
    ):
        label, color = CLASSES[1]
        properties = {
            "objectType": "annotation",
            "name": f"region {len(features)}",
            "classification": {"name": label, "color": color},
            "measurements": {f"{regions[0]}: {k}" if "score" in k else k: v for k, v in found.items()},
        }
        rings = [[list(map(float, c)) for c in ring.coords] for ring in (piece.exterior, *piece.interiors)]
        features.append(_feature(rings, properties))
    for i, (x, y) in enumerate(coords.tolist()):
        x2, y2 = x + int(patch_size_level0), y + int(patch_size_level0)
        properties = {
            "objectType": "tile",
            "name": f"{name} {i}",
            "measurements": {key: float(v[i]) for key, v in values.items()},
        }
        if labels is not None:
            label, color = CLASSES[int(labels[i])]
            properties["classification"] = {"name": label, "color": color}
        features.append(_feature([[[x, y], [x2, y], [x2, y2], [x, y2], [x, y]]], properties))
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _feature(rings: list, properties: dict) -> dict:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}
