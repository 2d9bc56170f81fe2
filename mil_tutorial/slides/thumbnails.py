"""What `prepare_slide` leaves for the eye, as TRIDENT lays it out: a thumbnail, the tissue's outlines, the patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide

from mil_tutorial.files import written_whole
from mil_tutorial.slides.plots import encode_jpeg, outline_patches
from mil_tutorial.slides.reading import read_overview
from mil_tutorial.slides.tissue import tissue_outlines
from mil_tutorial.trident import Patches

LONGEST = 1000  # longer side of the images in pixels

TISSUE_COLOR = [0, 158, 115]  # in QuPath


def write_thumbnails(
    slide: openslide.AbstractSlide, patches: Patches, tissue: np.ndarray, *, job_dir: Path, run: Path
) -> None:
    """Write a slide's `thumbnails`, `contours` and `contours_geojson` below `job_dir`, `visualization` below `run`.

    Args:
        slide: the open slide.
        patches: its patches.
        tissue: uint8 (h, w), 1 where there is tissue.
        job_dir, run: TRIDENT's job folder, and that of the run.
    """
    name, size, side = patches.name, slide.dimensions, patches.geometry.patch_size_level0
    pieces = tissue_outlines(tissue, size)
    rings = [ring for piece in pieces for ring in piece]
    thumbnail = read_overview(slide, max(1.0, max(size) / LONGEST))
    _write_jpeg(job_dir / "thumbnails" / f"{name}.jpg", thumbnail)
    for folder, coords in ((job_dir / "contours", []), (run / "visualization", patches.coords)):
        _write_jpeg(folder / f"{name}.jpg", outline_patches(thumbnail, size, coords, side, contours=rings))
    features = [_feature(i, piece) for i, piece in enumerate(pieces)]
    with written_whole(job_dir / "contours_geojson" / f"{name}.geojson") as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _feature(number: int, piece: list[np.ndarray]) -> dict:
    """A piece of tissue as GeoJSON that QuPath reads, in level-0 pixels."""
    properties = {
        "objectType": "annotation",
        "name": f"tissue {number}",
        "tissue_id": number,
        "classification": {"name": "Tissue", "color": TISSUE_COLOR},
    }
    polygon = {"type": "Polygon", "coordinates": [ring.round(1).tolist() for ring in piece]}
    return {"type": "Feature", "properties": properties, "geometry": polygon}


def _write_jpeg(path: Path, rgb: np.ndarray) -> None:
    with written_whole(path) as temporary:
        temporary.write_bytes(encode_jpeg(rgb))
