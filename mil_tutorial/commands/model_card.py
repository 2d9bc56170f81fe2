"""A model card: one Markdown page beside a model's results that says what it is, how good it is, and for whom.

What the files know is filled in; what only its makers know is left open, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mil_tutorial.asking.trained import TrainedModel
from mil_tutorial.commands.checkpoints import origin
from mil_tutorial.data import DataRoot
from mil_tutorial.evaluation.metrics import Estimate, metrics_by_group
from mil_tutorial.training.predict import Predictions
from mil_tutorial.training.recipe import VAL_FRACTION

OPEN = "*Not filled in. Only its makers know this.*"

SHOWN = ("auc", "accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "calibration_error")


def model_card(
    trained: TrainedModel,
    checkpoint: str,
    data: DataRoot,
    predictions: Predictions,
    metrics: Mapping[str, Estimate],
    warning: str = "",
) -> str:
    """The card of a checkpoint that was scored on the test slides, as Markdown.

    Args:
        trained, checkpoint: the model and its file.
        data: the root that the slides come from.
        predictions, metrics: of its test slides.
        warning: what is wrong with this test, "" if nothing is.

    Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019 (arXiv:1810.03993).
    """
    parts = [
        f"# Model card: {Path(checkpoint).name}",
        "**Research and teaching only. Not for clinical use, and not a medical device.**",
        *([f"**Warning.** {warning.replace(str(data.root), data.root.name)}"] if warning else []),
        "## Model\n\n" + _model(trained, checkpoint),
        "## Intended use\n\n" + OPEN,
        "## Data and split\n\n" + _data(trained, data, predictions),
        f"## Results on {len(predictions.names)} test slides\n\nValue and 95 % interval over slides.\n\n"
        + _table(("measure", "value"), [(name, metrics[name]) for name in SHOWN if name in metrics]),
        *_groups(trained, data, predictions),
        "## Limits\n\n" + _limits(data, predictions),
        "## Ethics\n\n"
        "A missed tumour and a false alarm harm different people. The threshold above weighs both the same. "
        "Who is not in the data is not in the score. Whoever reads an output must be able to see the slide, too.",
        "## Who to ask\n\n" + OPEN,
    ]
    return "\n\n".join(parts) + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Rows as Markdown; a bar in a value would end its cell."""
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _model(trained: TrainedModel, checkpoint: str) -> str:
    """What the model is, and its recipe as the training record has it."""
    rows: list[tuple[str, object]] = [
        ("kind", f"attention-based MIL{', gated' if trained.gated else ''}"),
        ("input", f"{trained.model.in_dim} features a patch, of {trained.encoder}"),
        ("output", "probability of tumour on the slide, and the attention of each patch"),
        ("threshold", f"{trained.threshold:.3f}, chosen on validation slides"),
        ("seed", trained.seed),
    ]
    known = origin(checkpoint)
    if isinstance(known, str):
        return _table(("what", "value"), rows) + f"\n\nRecipe: {known}"
    return _table(("what", "value"), rows + [(k, _without_paths(v)) for k, v in known if k != "record"])


def _without_paths(value: object) -> str:
    """A card is published: it names no folder of the machine that wrote it."""
    parts = str(value).split(", ")
    return ", ".join(p for p in parts if "/" not in p and "\\" not in p) or "see report.html"


def _data(trained: TrainedModel, data: DataRoot, predictions: Predictions) -> str:
    """Where the slides come from and how they were split."""
    origin_of = "synthetic slides, drawn by a program: no patient, no scanner" if data.synthetic else data.root.name
    known = f"{len(trained.slides)}, of which {VAL_FRACTION:.0%} for validation" if trained.slides else "not recorded"
    tumour = int(predictions.Y.sum())
    rows = [
        ("slides", origin_of),
        ("trained and validated on", known),
        ("test slides", f"{len(predictions.names)}: {tumour} with tumour, {len(predictions.names) - tumour} without"),
    ]
    return _table(("what", "value"), rows)


def _groups(trained: TrainedModel, data: DataRoot, predictions: Predictions) -> list[str]:
    """Results by lesion size and by scanner, where the root knows them."""
    if data.reference is None:
        return []
    reference, parts = data.reference.set_index("wsi_name"), []
    for column, title in (("lesion_size", "lesion size"), ("scanner", "scanner")):
        if column not in reference:
            continue
        known = reference[column].to_dict()
        pairs = list(zip(predictions.names, predictions.Y, strict=True))
        by_size = column == "lesion_size"  # a normal slide has no lesion: it belongs to every size
        groups = ["" if by_size and y == 0 else str(known.get(name, "unknown")) for name, y in pairs]
        found = metrics_by_group(predictions.Y, predictions.prob, groups, trained.threshold)
        rows = [(name, groups.count(name), m["auc"], m["sensitivity"], m["specificity"]) for name, m in found.items()]
        header = (title, "tumour slides" if by_size else "slides", "AUC", "sensitivity", "specificity")
        parts.append(f"### By {title}\n\n" + _table(header, rows))
    return parts


def _limits(data: DataRoot, predictions: Predictions) -> str:
    """What the numbers above do not say."""
    lines = [
        f"- {len(predictions.names)} test slides: read the intervals, not the values.",
        "- One run. Another seed gives other numbers, and another attention map.",
        "- Attention says where the model looked, not why it answered.",
        "- Other hospitals, scanners, stains, organs and encoders were not tested, unless a table above names them.",
    ]
    if data.synthetic:
        lines.insert(0, "- The slides are synthetic: nothing here holds for tissue of patients.")
    return "\n".join(lines)
