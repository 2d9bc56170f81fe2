"""The checkpoint file of `train`, which `evaluate` and `localize` read: weights, threshold, and what they rest on."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mil_tutorial.bags.dataset import TridentWSIDataset
from mil_tutorial.commands import report
from mil_tutorial.commands.record import changed_inputs, read_record, record_path
from mil_tutorial.errors import DataError
from mil_tutorial.files import digest, written_whole
from mil_tutorial.models import ABMIL
from mil_tutorial.training.checkpoint import load_tensors


@dataclass(frozen=True)
class TrainedModel:
    """A model with its threshold.

    Attributes:
        model: `ABMIL` with the weights of the best epoch.
        gated: whether its attention is gated.
        encoder: name of the features that it takes.
        threshold: a slide is predicted to hold tumour above it; chosen on validation slides.
        seed: of the split and of the first weights.
        slides: names of the slides that it was trained and validated on; empty if the file is older than this entry.
    """

    model: ABMIL
    gated: bool
    encoder: str
    threshold: float
    seed: int
    slides: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it appears when it is complete."""
        state = {
            "model": self.model.cpu().state_dict(),
            "in_dim": self.model.in_dim,
            "gated": self.gated,
            "encoder": self.encoder,
            "threshold": self.threshold,
            "seed": self.seed,
            "slides": list(self.slides),
        }
        with written_whole(path) as temporary:
            torch.save(state, temporary)

    def check_features(self, bags: TridentWSIDataset, path: str | os.PathLike[str]) -> None:
        """The bags must have features of the size that the model takes.

        Raises:
            DataError: they have another one.
        """
        dim = bags[0]["X"].shape[1]
        if dim != self.model.in_dim:
            raise DataError(
                f"{path}: was trained on {self.model.in_dim} features for each patch, {bags.features_path} has {dim}."
                " Train again."
            )

    def seen(self, names: list[str]) -> list[str]:
        """Those of the slides that the model was trained or validated on."""
        return sorted(set(names) & set(self.slides))


def load_checkpoint(path: str | os.PathLike[str]) -> TrainedModel:
    """Read what `mil-tutorial train` wrote.

    Raises:
        DataError: no such file, it may not be read, or it is not a whole checkpoint.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such checkpoint. Make one with `mil-tutorial train`.")
    try:
        state = load_tensors(path)
        model = ABMIL(state["in_dim"], gated=state["gated"])
        model.load_state_dict(state["model"])
        slides = tuple(str(n) for n in state.get("slides", ()))
        return TrainedModel(
            model, bool(state["gated"]), str(state["encoder"]), float(state["threshold"]), int(state["seed"]), slides
        )
    except PermissionError as error:
        raise DataError(f"{path}: you may not read this file. Ask for the right to.") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path}: is not a checkpoint of `mil-tutorial train` ({str(error)[:160]}). Train again."
        ) from error


def origin(checkpoint: str | os.PathLike[str]) -> list[tuple[str, object]] | str:
    """How the checkpoint came about, as its record says it: what and value; or a sentence that says what is missing."""
    path = record_path(Path(checkpoint).parent, f"train-{Path(checkpoint).stem}")
    if not path.is_file():
        return f"There is no record {path.name} beside it."
    record = read_record(path)
    if digest(checkpoint) not in record.get("results", {}).values():
        return f"The record {path.name} beside it is of another checkpoint."
    changed = [str(change) for change in changed_inputs(record)]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return [
        ("record", path.resolve()),
        ("made", record["ended"]),
        ("options", ", ".join(f"{k} {v}" for k, v in record["options"].items() if v not in (None, False))),
        ("inputs", len(record["inputs"])),
        ("changed since", changed[0] + more if changed else "none"),
        *((f"version of {name}", version) for name, version in record["versions"].items()),
    ]


def provenance(checkpoint: str | os.PathLike[str]) -> str:
    """The same for a report, in HTML."""
    known = origin(checkpoint)
    what = f"<p>{html.escape(known)}</p>" if isinstance(known, str) else report.table(("what", "value"), known)
    return "<h2>Where the checkpoint comes from</h2>" + what
