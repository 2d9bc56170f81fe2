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
from mil_tutorial.files import written_whole


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--checkpoint", default="build/abmil.pt")
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--json", action="store_true", help="for programs")
    p.add_argument("--out", help="folder for predictions (CSV), metrics (JSON), a figure and one HTML report")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.bags.collate import one_by_one
    from mil_tutorial.commands.record import Record
    from mil_tutorial.evaluation.metrics import as_json, bag_metrics
    from mil_tutorial.training.fit import predict

    model, state = _load_checkpoint(args.checkpoint)
    args.encoder = state["encoder"]
    data, encoder = _encoder_and_data(args)
    dataset = _dataset(data, encoder, "test")
    _check_dim(dataset, state, args.checkpoint)
    if args.out:
        record = Record(args.out, "evaluate", _options(args), [args.checkpoint, *data.inputs(encoder, "test")])
    found = predict(model, one_by_one(dataset))
    metrics = bag_metrics(found.Y, found.prob, threshold=state["threshold"])
    if args.out:
        record.refuse_changes()
        _write_evaluation(Path(args.out), found, metrics, state, args.checkpoint, data)
        record.write()
    if args.json:
        print(json.dumps(as_json(metrics), indent=1))
    else:
        print(
            f"{len(found.names)} test slides, threshold {state['threshold']:.3f} chosen on validation slides; 95 % intervals over slides"
        )
        width = max(map(len, metrics))
        print("\n".join(f"{name:>{width}}  {estimate}" for name, estimate in metrics.items()))
        if args.out:
            print(f"predictions, metrics, figure and report in {Path(args.out).resolve()}")
    return 0


def _write_evaluation(out: Path, found, metrics, state, checkpoint, data) -> None:
    """predictions.csv, metrics.json, figure.png and report.html."""
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    from mil_tutorial.commands import report
    from mil_tutorial.evaluation.metrics import as_json, metrics_by_group

    called = found.prob > state["threshold"]
    table = pd.DataFrame(
        {"wsi_name": found.names, "wsi_label": found.Y, "probability": found.prob, "called": called.astype(int)}
    )
    with written_whole(out / "predictions.csv") as temporary:
        table.to_csv(temporary, index=False)
    with written_whole(out / "metrics.json") as temporary:
        text = json.dumps({"threshold": state["threshold"], "metrics": as_json(metrics)}, indent=1)
        temporary.write_text(text, encoding="utf-8")
    image = report.png(report.evaluation_figure(found.Y, found.prob, state["threshold"]))
    with written_whole(out / "figure.png") as temporary:
        temporary.write_bytes(image)
    source = "synthetic slides" if data.synthetic else str(data.root)
    parts = [
        report.table(("what", "value"), [("data", source), ("checkpoint", Path(checkpoint).resolve()), ("encoder", state["encoder"]),
                     ("test slides", len(found.names)), ("with tumour", int(found.Y.sum())),
                     ("threshold, from validation slides", f"{state['threshold']:.3f}")]),
        report.metrics_table(metrics), report.picture(image, "ROC curve, reliability and every slide's probability"),
    ]  # fmt: skip
    if data.reference is not None:
        known = data.reference.set_index("wsi_name")["lesion_size"].to_dict()
        groups = ["" if y == 0 else str(known.get(n, "unknown")) for n, y in zip(found.names, found.Y, strict=True)]
        by_size = metrics_by_group(found.Y, found.prob, groups, state["threshold"])
        rows = [(size, m["sensitivity"], m["auc"]) for size, m in by_size.items()]
        parts.append(
            "<h2>By lesion size</h2>" + report.table(("size", "sensitivity", "AUC against all normal slides"), rows)
        )
    wrong = table[table["called"] != table["wsi_label"]]
    rows = [(r.wsi_name, "tumour" if r.wsi_label else "normal", f"{r.probability:.3f}") for r in wrong.itertuples()]
    parts.append(f"<h2>Called wrongly: {len(rows)}</h2>" + report.table(("slide", "is", "said probability"), rows))
    parts.append(_provenance(checkpoint))
    report.write_page(out / "report.html", "Evaluation on the test slides", parts)
