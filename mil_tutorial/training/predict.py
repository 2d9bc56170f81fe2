"""Put bags through a trained model: probabilities and attention, or the mean loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, SequentialSampler

from mil_tutorial.devices import pick_device
from mil_tutorial.errors import Found, require
from mil_tutorial.training.checks import bag_names, check_loader, explain_nan
from mil_tutorial.training.step import Step, accepted, pick_precision


@dataclass(frozen=True)
class Predictions:
    """What a model says of bags, one entry a bag.

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
        DataError: the loader has no bags, or an answer is NaN (the bag is named).
    """
    check_loader("loader", loader)
    in_order = isinstance(getattr(loader, "sampler", None), SequentialSampler) and not loader.drop_last
    expected = "one in order, with shuffle=False and drop_last=False, so that names and predictions match"
    require(in_order, "loader", Found("one that shuffles or drops bags"), expected)
    device = pick_device(device)
    model.to(device).eval()
    step = Step(model, device, pick_precision(precision, device))
    takes = accepted(model.forward)
    found = Found(f"{type(model).__name__} without `return_att`")
    require("return_att" in takes, "model", found, "a model that gives its attention")
    labels, probabilities, attention = [], [], []
    for batch in loader:
        batch = step.move(batch)
        with step.precision(), step.threads(batch):
            if "offsets" in batch.keys():
                found = Found(f"{type(model).__name__} without `forward_packed`, and packed batches")
                require(
                    hasattr(model, "forward_packed"), "model", found, "padded batches for this model: use `collate_fn`"
                )
                logits, raw = step.model.forward_packed(batch["X"], batch["offsets"], return_att=True)
                attention += [a.float().cpu().numpy() for a in raw.split(batch["offsets"].diff().tolist())]
            else:
                entries = {k: batch[k] for k in batch.keys() if k in takes}
                logits, raw = model(**entries, return_att=True)
                real = batch["mask"].bool() if "mask" in batch.keys() else torch.ones_like(raw, dtype=torch.bool)
                attention += [a[m].float().cpu().numpy() for a, m in zip(raw, real, strict=True)]
        if not torch.isfinite(logits).all():
            raise explain_nan(step, loader)
        probabilities.append(torch.sigmoid(logits.float()).cpu())
        labels.append(batch["Y"].cpu())
    Y, prob = torch.cat(labels).numpy().astype(np.int64), torch.cat(probabilities).numpy()
    return Predictions(bag_names(loader), Y, prob, attention)


def mean_loss(
    model: torch.nn.Module, loader: DataLoader, *, device: str | torch.device | None = None
) -> tuple[float, float]:
    """Mean loss over the bags of a loader, and their AUC, NaN if only one class is there. Dropout is off."""
    check_loader("loader", loader)
    return mean_loss_of(Step(model, pick_device(device)), loader)


def mean_loss_of(step: Step, loader: DataLoader) -> tuple[float, float]:
    """`mean_loss` with the device and precision of a step."""
    step.model.eval()
    total, logits, labels = 0.0, [], []
    with torch.inference_mode():
        for batch in loader:
            batch = step.move(batch)
            with step.threads(batch):
                out, loss = step(batch)
            if not torch.isfinite(loss):
                raise explain_nan(step, loader)
            total += loss.item() * len(batch["Y"])
            logits.append(out.cpu())
            labels.append(batch["Y"].cpu())
    y, score = torch.cat(labels).numpy(), torch.cat(logits).numpy()
    return total / len(y), float(roc_auc_score(y, score)) if 0 < y.sum() < len(y) else float("nan")
