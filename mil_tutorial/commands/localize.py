"""The command `mil-tutorial`: each step of the course from the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mil_tutorial.commands.common import (
    _check_dim,
    _dataset,
    _encoder_and_data,
    _load_checkpoint,
    _options,
    _provenance,
)
from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("slides", nargs="*", help="test slides; all by default")
    p.add_argument("--checkpoint", default="build/abmil.pt")
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--out", default="build/localization", help="folder to write to")
    p.add_argument(
        "--html", action="store_true", help="also write a viewer page for each slide, and pictures in the report"
    )
    p.add_argument("--pictures", type=int, default=20, help="slides that are drawn in the report")
    p.add_argument(
        "--region_threshold",
        type=float,
        default=3.0,
        help="patches with more than this many fair shares of attention form regions",
    )
    p.add_argument("--froc", action="store_true", help="score the detections against the masks, as CAMELYON16 does")
    p.add_argument("--tumor_value", type=int, default=2, help="the masks' value for tumour, for --froc")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    import torch

    from mil_tutorial.commands import report
    from mil_tutorial.localization.detections import find_detections, write_detections
    from mil_tutorial.localization.geojson import write_geojson
    from mil_tutorial.localization.viewer import view_heatmap
    from mil_tutorial.slides.plots import draw_scores, encode_jpeg

    model, state = _load_checkpoint(args.checkpoint)
    args.encoder = state["encoder"]
    data, encoder = _encoder_and_data(args)
    dataset = _dataset(data, encoder, "test")
    _check_dim(dataset, state, args.checkpoint)
    names = args.slides or dataset.get_bag_names()
    unknown = [n for n in names if n not in dataset.get_bag_names()]
    if unknown:
        raise DataError(f"{data.root / 'test.csv'}: no test slide {unknown[0]}. Choose one of its names.")
    import numpy as np
    import pandas as pd
    from tqdm.auto import tqdm

    from mil_tutorial.commands.record import Record
    from mil_tutorial.evaluation.patches import patch_metrics
    from mil_tutorial.localization.froc import froc
    from mil_tutorial.localization.lesions import lesions_from_mask
    from mil_tutorial.localization.scores import patch_scores
    from mil_tutorial.trident import read_patch_labels

    out = Path(args.out)
    record = Record(out, "localize", _options(args), [args.checkpoint, *data.inputs(encoder, "test")])
    rows, found, lesions, drawable = [], {}, {}, {}
    bags = dict(zip(dataset.get_bag_names(), range(len(dataset)), strict=True))
    for name in tqdm(names, desc="Localizing", unit="slide"):
        bag = dataset[bags[name]]
        with torch.inference_mode():
            probability = float(torch.sigmoid(model.eval()(bag["X"][None]))[0])
        scores = patch_scores(model, bag["X"])
        share = scores["attention x n"]
        patches = dataset.read_patches(name)
        drawable[name] = patches, share
        side = patches.geometry.patch_size_level0
        found[name] = find_detections(share * probability / len(share), patches.coords, side)
        write_detections(out / "detections" / f"{name}.csv", found[name])
        shown = {k: scores[k] for k in ("attention x n", "logit contribution", "raw attention")}
        labels_file = dataset.patch_labels_path / f"{name}.h5"
        labels = read_patch_labels(labels_file, len(share)) if labels_file.exists() else None
        regions = ("attention x n", args.region_threshold)
        write_geojson(out / "geojson" / f"{name}.geojson", patches.coords, side, shown, labels, regions=regions)
        row = {"wsi_name": name, "probability": probability, "patches": len(share), "largest share": share.max()}
        rows.append(row | (patch_metrics(labels, share) if labels is not None else {}))
        if args.html:
            view_heatmap(data.slide_path(name), patches.coords, side, shown, labels,
                         title=f"{name}: tumour probability {probability:.2f}", html=out / "html" / f"{name}.html")  # fmt: skip
        if args.froc:
            lesions[name] = lesions_from_mask(data.mask_path(name), args.tumor_value) if bag["Y"] else None
    record.refuse_changes()
    table = pd.DataFrame(rows)
    with written_whole(out / "localization.csv") as temporary:
        table.to_csv(temporary, index=False)
    parts = [report.table(table.columns, table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else v).to_numpy())]
    if args.froc:
        try:
            curve = froc(found, lesions, n_bootstrap=500)
        except ValueError as error:
            raise DataError(f"{data.root}: no FROC: {error} The other files are written.") from error
        text = f"FROC score {curve.score:.3f}, 95 % interval over slides {curve.low:.3f} to {curve.high:.3f}"
        print(text)
        parts.insert(0, f"<p>{text}</p>")
        result = {"score": curve.score, "low": curve.low, "high": curve.high,
                  "fp_per_slide": curve.fp_per_slide.tolist(), "sensitivity": curve.sensitivity.tolist()}  # fmt: skip
        with written_whole(out / "froc.json") as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if args.html:
        top = max(float(np.max(table["largest share"])), 2.0)
        for name in names[: args.pictures]:
            patches, share = drawable[name]
            side = patches.geometry.patch_size_level0
            drawn = draw_scores(data.slide_path(name), patches.coords, side, share, 0, top)
            caption = f"{name}: attention x n, one scale for all slides, 0 (violet) to {top:.0f} (yellow)"
            parts.append(report.picture(encode_jpeg(drawn), caption, "jpeg"))
    parts.append(_provenance(args.checkpoint))
    report.write_page(out / "report.html", "Localization on the test slides", parts)
    record.write()
    print(
        f"{len(names)} slides: detections (CSV), patches and regions for QuPath (GeoJSON), report"
        f"{', viewers (HTML)' if args.html else ''} in {out.resolve()}"
    )
    return 0
