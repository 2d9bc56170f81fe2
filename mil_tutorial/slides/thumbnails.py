"""What `prepare_slide` leaves for the eye, as TRIDENT lays it out: a thumbnail, the tissue's outlines, the patches."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from openslide import AbstractSlide

from mil_tutorial.files import written_whole
from mil_tutorial.slides.plots import encode_jpeg, outline_patches, to_rgb
from mil_tutorial.slides.reading import read_overview
from mil_tutorial.slides.tissue import tissue_outlines
from mil_tutorial.style import ACCENT, NORMAL, TUMOR
from mil_tutorial.trident import Patches

LONGEST = 1000  # longer side of the images in pixels

TISSUE_COLOR = [0, 158, 115]  # in QuPath

# Of the picture of the tissue: colour, and how much of it lies over the slide's own.
PARTS = {"tissue": (ACCENT, 0.4), "pen": (TUMOR, 0.8), "hole": (NORMAL, 0.6)}


def write_thumbnails(slide: AbstractSlide, patches: Patches, tissue: np.ndarray, *, job_dir: Path, run: Path) -> None:
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


def tissue_picture(job_dir: Path, name: str) -> Path:
    """Where the picture of a slide's tissue is."""
    return job_dir / "tissue" / f"{name}.jpg"


def write_tissue_picture(slide: AbstractSlide, tissue: np.ndarray, pen: np.ndarray, path: Path) -> None:
    """Write a thumbnail with its tissue, pen and holes in three colours, and a line that says which is which.

    Args:
        slide: the open slide.
        tissue, pen: (h, w), not 0 where there is tissue or pen.
        path: the JPEG to write.
    """
    filled = tissue.copy()
    contours, _ = cv2.findContours(tissue, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    masks = {"tissue": tissue > 0, "pen": pen > 0, "hole": (filled > 0) & (tissue == 0) & (pen == 0)}
    image = read_overview(slide, max(1.0, max(slide.dimensions) / LONGEST))
    legend = np.full((40, max(image.shape[1], 560), 3), 255, np.uint8)
    for i, (part, (color, weight)) in enumerate(PARTS.items()):
        mask = cv2.resize(masks[part].astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        image[mask > 0] = (1 - weight) * image[mask > 0] + weight * np.array(to_rgb(color))
        text = f"{part} {masks[part].mean():.1%}"
        cv2.putText(legend, text, (8 + 190 * i, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, to_rgb(color), 2, cv2.LINE_AA)
    wide = cv2.copyMakeBorder(
        image, 0, 0, 0, legend.shape[1] - image.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    _write_jpeg(path, np.vstack([wide, legend]))


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
