"""`mil-tutorial localize`: where the tumour is on the test slides, as in notebook 6, and files for other programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mil_tutorial.asking.trained import TrainedModel, load_checkpoint
from mil_tutorial.bags.dataset import TridentWSIDataset
from mil_tutorial.commands import report
from mil_tutorial.commands.checkpoints import provenance
from mil_tutorial.commands.common import add_data_options, asked, open_root
from mil_tutorial.commands.record import Record
from mil_tutorial.data import DataRoot
from mil_tutorial.errors import DataError, require_integer, require_number
from mil_tutorial.evaluation.patches import patch_metrics
from mil_tutorial.files import written_whole
from mil_tutorial.localization.detections import write_detections
from mil_tutorial.localization.froc import froc
from mil_tutorial.localization.geojson import write_geojson
from mil_tutorial.localization.lesions import lesions_from_mask
from mil_tutorial.localization.scores import SlideLocalization, localize_slide
from mil_tutorial.localization.viewer import view_heatmap
from mil_tutorial.slides.heatmaps import draw_scores
from mil_tutorial.slides.plots import encode_jpeg
from mil_tutorial.trident import Patches, read_patch_labels

SCORES = ("attention x n", "logit contribution", "raw attention")  # written and shown, the first one first


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("slides", nargs="*", help="test slides; all by default")
    parser.add_argument("--checkpoint", default="build/abmil.pt", help="written by `mil-tutorial train`")
    add_data_options(parser, encoder=None)
    parser.add_argument("--out", default="build/localization", help="folder to write to")
    parser.add_argument(
        "--html", action="store_true", help="also write a viewer page for each slide, and images in the report"
    )
    parser.add_argument("--pictures", type=int, default=20, help="how many slides are drawn in the report")
    regions = "patches with more than this many fair shares of attention form regions"
    parser.add_argument("--region_threshold", type=float, default=3.0, help=regions)
    parser.add_argument("--froc", action="store_true", help="score the detections against the masks, as in CAMELYON16")
    parser.add_argument("--tumor_value", type=int, default=2, help="the masks' value for tumour, for --froc")


@dataclass(frozen=True)
class _Slide:
    """One localized slide: its name, patches, patch labels if there are any, and what the model says."""

    name: str
    patches: Patches
    labels: np.ndarray | None
    result: SlideLocalization

    @property
    def share(self) -> np.ndarray:
        """Fair shares of attention, (n,)."""
        return self.result.scores["attention x n"]

    @property
    def side(self) -> int:
        """Side of a patch in level-0 pixels."""
        return self.patches.geometry.patch_size_level0

    def row(self) -> dict[str, object]:
        """Its line in localization.csv."""
        row = {"wsi_name": self.name, "probability": self.result.probability, "patches": len(self.share)}
        row["largest share"] = self.share.max()
        return row | (patch_metrics(self.labels, self.share) if self.labels is not None else {})


def run(args: argparse.Namespace) -> int:
    """Localize each slide, write its files, then the table, the FROC and the report."""
    require_number("region_threshold", args.region_threshold, low=0)
    require_integer("pictures", args.pictures, low=0)
    require_integer("tumor_value", args.tumor_value, low=0, high=255)
    trained = load_checkpoint(args.checkpoint)
    args.encoder = trained.encoder
    data = open_root(args)
    bags = data.bags("test", encoder=trained.encoder)
    trained.check_features(bags, args.checkpoint)
    names = args.slides or bags.get_bag_names()
    unknown = [n for n in names if n not in bags.get_bag_names()]
    if unknown:
        raise DataError(f"{data.root / 'test.csv'}: no test slide {unknown[0]}. Choose one of its names.")
    out = Path(args.out)
    record = Record(out, "localize", asked(args), [args.checkpoint, *data.inputs(trained.encoder, "test")])
    slides = []
    for name in tqdm(names, desc="Localizing", unit="slide"):
        slide = _localize(name, bags, trained)
        _write_slide(slide, out, args.region_threshold)
        if args.html:
            _write_viewer(slide, data, out)
        slides.append(slide)
    record.refuse_changes()
    table = pd.DataFrame([slide.row() for slide in slides])
    with written_whole(out / "localization.csv") as temporary:
        table.to_csv(temporary, index=False)
    parts = [report.table(table.columns, table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else v).to_numpy())]
    if args.froc:
        parts.insert(0, _score(slides, bags, data, out, args.tumor_value))
    if args.html:
        parts += _images(slides[: args.pictures], max(slide.share.max() for slide in slides), data)
    parts.append(provenance(args.checkpoint))
    report.write_page(out / "report.html", "Localization on the test slides", parts)
    record.write()
    print(
        f"{len(slides)} slides: detections (CSV), patches and regions for QuPath (GeoJSON), report"
        f"{', viewers (HTML)' if args.html else ''} in {out.resolve()}"
    )
    return 0


def _localize(name: str, bags: TridentWSIDataset, trained: TrainedModel) -> _Slide:
    """Read one bag and ask the model."""
    patches = bags.read_patches(name)
    result = localize_slide(trained.model, bags[bags.get_bag_names().index(name)]["X"], patches)
    file = bags.patch_labels_path / f"{name}.h5"
    return _Slide(name, patches, read_patch_labels(file, len(patches.coords)) if file.exists() else None, result)


def _shown(slide: _Slide) -> Mapping[str, np.ndarray]:
    return {key: slide.result.scores[key] for key in SCORES}


def _write_slide(slide: _Slide, out: Path, region_threshold: float) -> None:
    """Detections, and patches with their scores for QuPath."""
    write_detections(out / "detections" / f"{slide.name}.csv", slide.result.detections)
    write_geojson(
        out / "geojson" / f"{slide.name}.geojson",
        slide.patches.coords,
        slide.side,
        _shown(slide),
        labels=slide.labels,
        regions=(SCORES[0], region_threshold),
    )


def _write_viewer(slide: _Slide, data: DataRoot, out: Path) -> None:
    view_heatmap(
        data.slide_path(slide.name),
        slide.patches.coords,
        slide.side,
        _shown(slide),
        slide.labels,
        title=f"{slide.name}: tumour probability {slide.result.probability:.2f}",
        html=out / "html" / f"{slide.name}.html",
    )


def _score(slides: list[_Slide], bags: TridentWSIDataset, data: DataRoot, out: Path, tumor_value: int) -> str:
    """FROC of the detections: printed, written, and as HTML for the report."""
    is_tumor = dict(zip(bags.get_bag_names(), bags.get_bag_labels(), strict=True))
    sizes = {s.name: (s.patches.geometry.width, s.patches.geometry.height) for s in slides}
    lesions = {
        n: lesions_from_mask(data.mask_path(n), tumor_value, size=size) if is_tumor[n] else None
        for n, size in sizes.items()
    }
    try:
        curve = froc({s.name: s.result.detections for s in slides}, lesions, n_bootstrap=500)
    except ValueError as error:
        raise DataError(f"{data.root}: no FROC: {error} The other files are written.") from error
    text = f"FROC score {curve.score:.3f}, 95 % interval over slides {curve.low:.3f} to {curve.high:.3f}"
    if curve.left_out:
        text += f"; left out, because not all their lesions are annotated: {', '.join(curve.left_out)}"
    print(text)
    result = {
        "score": curve.score,
        "low": curve.low,
        "high": curve.high,
        "fp_per_slide": curve.fp_per_slide.tolist(),
        "sensitivity": curve.sensitivity.tolist(),
    }
    with written_whole(out / "froc.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return f"<p>{text}</p>"


def _images(slides: list[_Slide], largest: float, data: DataRoot) -> list[str]:
    """Slides with their attention on one scale, for the report."""
    top, parts = max(float(largest), 2.0), []
    for slide in slides:
        drawn = draw_scores(data.slide_path(slide.name), slide.patches.coords, slide.side, slide.share, 0, top)
        caption = f"{slide.name}: attention x n, one scale for all slides, 0 (violet) to {top:.0f} (yellow)"
        parts.append(report.picture(encode_jpeg(drawn), caption, "jpeg"))
    return parts
