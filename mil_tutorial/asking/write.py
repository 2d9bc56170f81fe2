"""Write an answer to a folder: one page to read, and files for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mil_tutorial.asking.answer import CONTRIBUTION, SHARE, SlideAnswer
from mil_tutorial.asking.page import draw_page
from mil_tutorial.files import written_whole
from mil_tutorial.localization.detections import write_detections
from mil_tutorial.localization.geojson import write_geojson
from mil_tutorial.localization.viewer import view_heatmap

FILES = (
    (
        "heatmap.html",
        "the slide to zoom into, with the scores; a large slide has its tiles in the folder heatmap_tiles beside it",
    ),
    ("prediction.json", "the answer for programs: probabilities, thresholds, comparisons"),
    ("patches.csv", "each patch: place in level-0 pixels, contribution, attention"),
    ("patches.geojson", "the same for QuPath: drag it onto the slide"),
    ("detections.csv", "places that the model marks: score, x, y, as the CAMELYON16 challenge took them"),
)


def write_answer(answer: SlideAnswer, folder: Path) -> Path:
    """Write all files of a slide; the page comes last, so that where it is, the others are whole.

    Raises:
        DataError: the folder cannot be written to.
    """
    coords, side = answer.patches.coords, answer.patches.geometry.patch_size_level0
    shown = {key: answer.scores[key] for key in (CONTRIBUTION, SHARE)}
    table = pd.DataFrame({"x": coords[:, 0], "y": coords[:, 1], **shown})
    with written_whole(folder / "patches.csv") as temporary:
        table.to_csv(temporary, index_label="patch")
    write_geojson(folder / "patches.geojson", coords, side, shown, mpp=answer.mpp)
    write_detections(folder / "detections.csv", answer.detections)
    with written_whole(folder / "prediction.json") as temporary:
        temporary.write_text(json.dumps(as_json(answer), indent=1), encoding="utf-8")
    title = f"{answer.name}: tumour probability {answer.probability:.2f}"
    view_heatmap(answer.slide, coords, side, shown, title=title, html=folder / "heatmap.html")
    page = folder / "report.html"
    with written_whole(page) as temporary:
        temporary.write_text(draw_page(answer, FILES), encoding="utf-8")
    return page


def as_json(answer: SlideAnswer) -> dict[str, Any]:
    """The answer as plain values; what each patch has is in patches.csv."""
    return {
        "slide": str(answer.slide),
        "name": answer.name,
        "probability": answer.probability,
        "threshold": answer.threshold,
        "tumour": answer.tumour,
        "spread": answer.spread,
        "checkpoints": [{**asdict(a), "tumour": a.tumour} for a in answer.answers],
        "patches": len(answer.patches.coords),
        "mpp": answer.mpp,
        "like_training": None if not answer.comparisons else not any(c.warns for c in answer.comparisons),
        "comparisons": [asdict(c) for c in answer.comparisons],
        "warnings": answer.warnings,
        "notes": list(answer.notes),
    }
