"""`mil-tutorial evaluate`: score a checkpoint on the test slides, as notebook 5 does, and write a report."""

from __future__ import annotations

import argparse
import json
import sys
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from mil_tutorial.asking.trained import TrainedModel, load_checkpoint
from mil_tutorial.bags.collate import make_loader
from mil_tutorial.commands import report
from mil_tutorial.commands.checkpoints import provenance
from mil_tutorial.commands.common import add_data_options, asked, open_root
from mil_tutorial.commands.model_card import model_card
from mil_tutorial.commands.record import Record
from mil_tutorial.data import DataRoot
from mil_tutorial.evaluation.metrics import Estimate, as_json, bag_metrics, metrics_by_group
from mil_tutorial.files import written_whole
from mil_tutorial.training.predict import Predictions, predict


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--checkpoint", default="build/abmil.pt", help="written by `mil-tutorial train`")
    add_data_options(parser, encoder=None)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--out", help="folder for predictions (CSV), metrics (JSON), a figure, one HTML report and a model card"
    )


def run(args: argparse.Namespace) -> int:
    """Predict the test slides once, print the metrics, write the report."""
    trained = load_checkpoint(args.checkpoint)
    args.encoder = trained.encoder
    data = open_root(args)
    bags = data.bags("test", encoder=trained.encoder)
    trained.check_features(bags, args.checkpoint)
    inputs = [args.checkpoint, *data.inputs(trained.encoder, "test")]
    record = Record(args.out, "evaluate", asked(args), inputs) if args.out else None
    predictions = predict(trained.model, make_loader(bags))
    metrics = bag_metrics(predictions.Y, predictions.prob, threshold=trained.threshold)
    warning = warn_of_seen_slides(trained, data, predictions.names)
    if record:
        record.refuse_changes()
        _write(Path(args.out), predictions, metrics, trained, args.checkpoint, data, warning)
        record.write()
    if args.json:
        print(json.dumps(as_json(metrics), indent=1))
        return 0
    print(
        f"{len(predictions.names)} test slides, threshold {trained.threshold:.3f} chosen on validation slides;"
        " 95 % intervals over slides"
    )
    width = max(map(len, metrics))
    print("\n".join(f"{name:>{width}}  {estimate}" for name, estimate in metrics.items()))
    if args.out:
        print(f"predictions, metrics, figure, report and model card in {Path(args.out).resolve()}")
    return 0


def warn_of_seen_slides(trained: TrainedModel, data: DataRoot, names: list[str]) -> str:
    """Say so, on stderr, if test slides were trained on; the warning, "" if there is none."""
    seen, why = trained.seen(names), "the model was trained or validated on them"
    if not seen:
        seen, why = sorted(set(names) & set(data.split("train")["wsi_name"])), "they are in train.csv, too"
    if not seen:
        return ""
    warning = (
        f"{data.root / 'test.csv'}: {len(seen)} of {len(names)} test slides, such as {seen[0]}, are no test: {why}."
        " The scores say nothing about new slides. Take them out of one of the two tables."
    )
    print(f"warning: {warning}", file=sys.stderr)
    return warning


def _write(
    out: Path,
    predictions: Predictions,
    metrics: dict[str, Estimate],
    trained: TrainedModel,
    checkpoint: str,
    data: DataRoot,
    warning: str,
) -> None:
    """predictions.csv, metrics.json, figure.png, report.html and model_card.md."""
    threshold = trained.threshold
    table = pd.DataFrame(
        {
            "wsi_name": predictions.names,
            "wsi_label": predictions.Y,
            "probability": predictions.prob,
            "called": (predictions.prob > threshold).astype(int),
        }
    )
    with written_whole(out / "predictions.csv") as temporary:
        table.to_csv(temporary, index=False)
    with written_whole(out / "metrics.json") as temporary:
        text = json.dumps({"threshold": threshold, "metrics": as_json(metrics)}, indent=1)
        temporary.write_text(text, encoding="utf-8")
    image = report.png(report.evaluation_figure(predictions.Y, predictions.prob, threshold))
    with written_whole(out / "figure.png") as temporary:
        temporary.write_bytes(image)
    facts = [
        ("data", "synthetic slides" if data.synthetic else str(data.root)),
        ("checkpoint", Path(checkpoint).resolve()),
        ("encoder", trained.encoder),
        ("test slides", len(predictions.names)),
        ("with tumour", int(predictions.Y.sum())),
        ("threshold, from validation slides", f"{threshold:.3f}"),
    ]
    parts = [
        f"<p><strong>{escape(warning)}</strong></p>" if warning else "",
        report.table(("what", "value"), facts),
        report.metrics_table(metrics),
        report.picture(image, "ROC curve, reliability and every slide's probability"),
        _by_size(predictions, threshold, data),
        _errors(table),
        provenance(checkpoint),
    ]
    report.write_page(out / "report.html", "Evaluation on the test slides", parts)
    with written_whole(out / "model_card.md") as temporary:
        card = model_card(trained, checkpoint, data, predictions, metrics, warning)
        temporary.write_text(card, encoding="utf-8")


def _by_size(predictions: Predictions, threshold: float, data: DataRoot) -> str:
    """Sensitivity and AUC for each lesion size, where the sizes are known."""
    if data.reference is None:
        return ""
    known = data.reference.set_index("wsi_name")["lesion_size"].to_dict()
    pairs = zip(predictions.names, predictions.Y, strict=True)
    groups = ["" if y == 0 else str(known.get(name, "unknown")) for name, y in pairs]
    by_size = metrics_by_group(predictions.Y, predictions.prob, groups, threshold)
    rows = [(size, m["sensitivity"], m["auc"]) for size, m in by_size.items()]
    return "<h2>By lesion size</h2>" + report.table(("size", "sensitivity", "AUC against all normal slides"), rows)


def _errors(table: pd.DataFrame) -> str:
    """The slides on the wrong side of the threshold."""
    wrong = table[table["called"] != table["wsi_label"]]
    is_tumor, names, prob = (np.asarray(wrong[c]) for c in ("wsi_label", "wsi_name", "probability"))
    rows = [(n, "tumour" if y else "normal", f"{p:.3f}") for n, y, p in zip(names, is_tumor, prob, strict=True)]
    heading = f"<h2>Predicted wrongly: {len(rows)}</h2>"
    return heading + report.table(("slide", "truth", "predicted probability"), rows)
