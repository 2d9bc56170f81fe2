"""Put bags through a trained model: probabilities and attention, or the mean loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler

from mil_tutorial.devices import pick_device
from mil_tutorial.errors import Found, require
from mil_tutorial.process import give_back_memory
from mil_tutorial.training.ahead import batches_of
from mil_tutorial.training.checks import bag_names, check_loader, check_width, explain_nan
from mil_tutorial.training.step import Step, pick_precision


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for bags, one entry for each bag.

    Attributes:
        names: of the bags.
        Y: labels, (bags,) int64.
        prob: tumour probability, (bags,) float32.
        attention: raw scores of each bag's patches, (n,) each.
    """

    names: list[str]
    Y: np.ndarray
    prob: np.ndarray
    attention: list[np.ndarray]


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    loader: DataLoader,
    device: str | torch.device | None = None,
    *,
    precision: str = "float32",
) -> Predictions:
    """Probabilities and attention of all bags of a loader, in order.

    Args:
        model: gives logits (B,) and raw attention, with `return_att=True`.
        loader: of padded or packed batches.
        device: a GPU if there is one, by default.
        precision: see `fit`.

    Raises:
        ParameterError: the loader shuffles or drops bags, so that names and bags would not match; the model gives no
            attention.
        DataError: the loader has no bags, their features have another size than the model's, or an answer is NaN (the
            bag is named).
    """
    check_loader("loader", loader)
    in_order = isinstance(getattr(loader, "sampler", None), SequentialSampler) and not loader.drop_last
    expected = "one in order, with shuffle=False and drop_last=False, so that names and predictions match"
    require(in_order, "loader", Found("one that shuffles or drops bags"), expected)
    place = pick_device(device)
    step = Step(model, place, pick_precision(precision, place))
    step.model.eval()
    names = bag_names(loader)
    labels: list[torch.Tensor] = []
    probabilities: list[torch.Tensor] = []
    attention: list[np.ndarray] = []
    with step.loading():
        for batch in batches_of(loader):
            batch = step.move(batch, loader="loader")
            check_width(model, batch["X"], names[len(attention)])
            with step.threads(batch):
                logits, raw = step.scores(batch)
            if not torch.isfinite(logits).all():
                raise explain_nan(step, loader)
            attention += [a.cpu().numpy() for a in raw]
            probabilities.append(torch.sigmoid(logits).cpu())
            labels.append(batch["Y"].cpu())
    give_back_memory()
    Y, prob = torch.cat(labels).numpy().astype(np.int64), torch.cat(probabilities).numpy()
    return Predictions(names, Y, prob, attention)


def mean_loss(
    model: torch.nn.Module, loader: DataLoader, *, device: str | torch.device | None = None
) -> tuple[float, float]:
    """Mean loss over the bags of a loader, and their AUC, NaN if only one class is there. Dropout is off."""
    check_loader("loader", loader)
    return mean_loss_of(Step(model, pick_device(device)), loader, name="loader")


def mean_loss_of(step: Step, loader: DataLoader, *, name: str) -> tuple[float, float]:
    """`mean_loss` with the device and precision of a step; `name` is the loader's as a parameter."""
    step.model.eval()
    total, seen, names = 0.0, 0, bag_names(loader)
    logits: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with torch.inference_mode(), step.loading():
        for batch in batches_of(loader):
            batch = step.move(batch, loader=name)
            check_width(step.model, batch["X"], names[seen])
            with step.threads(batch):
                out, loss = step(batch)
            if not torch.isfinite(loss):
                raise explain_nan(step, loader)
            total, seen = total + loss.item() * len(batch["Y"]), seen + len(batch["Y"])
            logits.append(out.cpu())
            labels.append(batch["Y"].cpu())
    y, score = torch.cat(labels).numpy(), torch.cat(logits).numpy()
    return total / len(y), _auc(y, score)


def _auc(y: np.ndarray, score: np.ndarray) -> float:
    """How often a tumour bag scores above a normal one, ties counting half; NaN if only one class is there.

    Here and not scikit-learn's, whose checks take as long as the validation of a dozen small bags.
    """
    order = np.sign(score[y == 1][:, None] - score[y == 0])  # of all pairs, (tumour, normal)
    return float(order.mean() / 2 + 0.5) if order.size else float("nan")
