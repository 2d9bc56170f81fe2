"""Patches back from the GeoJSON that `write_geojson` wrote, for the viewer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.localization.geojson import CLASSES


def read_geojson(path: str | os.PathLike[str]) -> tuple[np.ndarray, int, dict[str, np.ndarray], np.ndarray | None]:
    """The patches of a file that `write_geojson` wrote; its regions are left out.

    Returns:
        coords (n, 2), patch_size_level0, name -> (n,) measurements, and labels (n,), None if no patch has a class.

    Raises:
        DataError: the file cannot be read, or its patches are no squares of one size with the same measurements.
    """
    try:
        tiles = [f for f in json.loads(Path(path).read_text("utf-8"))["features"] if _kind(f) == "tile"]
        corners = np.array([f["geometry"]["coordinates"][0][:4] for f in tiles], float).reshape(-1, 4, 2)
        measured = [f["properties"]["measurements"] for f in tiles]
        names = list(measured[0]) if measured else []
        values = {name: np.array([m[name] for m in measured], float) for name in names}
        classes = [f["properties"].get("classification", {}).get("name") for f in tiles]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path and your rights.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path}: is no GeoJSON of patches ({type(error).__name__}: {error!s:.80}). Expected what write_geojson"
            " or `mil-tutorial localize` writes."
        ) from error
    sides = corners.max(1) - corners.min(1)
    if not len(corners) or not (sides == sides[0, 0]).all() or not np.isfinite(corners).all():
        raise DataError(f"{path}: has {len(corners)} patches, expected at least one, all squares of one size.")
    numbers = {text: label for label, (text, _) in CLASSES.items()}
    labels = None if not any(classes) else np.array([numbers.get(str(text), -1) for text in classes])
    return corners.min(1).astype(np.int64), int(sides[0, 0]), values, labels


def _kind(feature: dict[str, Any]) -> str:
    return feature["properties"].get("objectType", "")
