"""Train a MIL model, keep its best weights, predict. Works with our models and with torchmil's, padded or packed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, SequentialSampler
from tqdm.auto import tqdm

from mil_tutorial.encoders import pick_device
from mil_tutorial.files import DataError


@dataclass
class History:
    """What happened in each epoch, one entry each; `best_epoch` counts from 0."""

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_auc: list[float] = field(default_factory=list)
    best_epoch: int = -1


@dataclass(frozen=True)
class Predictions:
    """One entry a bag: `names`, labels `Y` (bags,) int64, tumour probability `prob` (bags,), `attention`: raw scores (n,) each."""

    names: list[str]
    Y: np.ndarray
    prob: np.ndarray
    attention: list[np.ndarray]


def _call(function: Callable, batch, **more):
    """Call a model's method with those entries of the batch that it has parameters for, as torchmil does."""
    wanted = inspect.signature(function).parameters
    return function(**{k: batch[k] for k in batch.keys() if k in wanted}, **more)


def _loss(model, batch):
    """Logits (B,) and the loss of a batch."""
    if "offsets" in batch.keys():
        logits = model.forward_packed(batch["X"], batch["offsets"])
        return logits, torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["Y"])
    logits, losses = _call(model.compute_loss, batch)
    return logits, sum(losses.values())


def _explain_nan(loader: DataLoader) -> DataError:
    """Find the bag that made the loss NaN."""
    names = bag_names(loader)
    for i in range(len(loader.dataset)):
        X = loader.dataset[i]["X"]
        if not torch.isfinite(X).all():
            return DataError(
                f"{names[i]}: {int((~torch.isfinite(X)).sum())} of its features are NaN or infinite. Make its features again."
            )
    return DataError("the loss is NaN or infinite, and all features are finite. Lower the learning rate.")


def bag_names(loader: DataLoader) -> list[str]:
    """Names of the loader's bags in the order of its dataset."""
    if hasattr(loader.dataset, "get_bag_names"):
        return loader.dataset.get_bag_names()
    return [f"bag {i}" for i in range(len(loader.dataset))]


@torch.inference_mode()
def evaluate_loss(model: torch.nn.Module, loader: DataLoader, device: torch.device) -> tuple[float, float]:
    """Mean loss over bags and AUC (NaN if only one class is there); dropout off, no gradients."""
    model.eval()
    total, logits, labels = 0.0, [], []
    for batch in loader:
        batch = batch.to(device)
        out, loss = _loss(model, batch)
        if not torch.isfinite(loss):
            raise _explain_nan(loader)
        total += loss.item() * len(batch["Y"])
        logits.append(out.float().cpu())
        labels.append(batch["Y"].cpu())
    y, score = torch.cat(labels).numpy(), torch.cat(logits).numpy()
    return total / len(y), float(roc_auc_score(y, score)) if 0 < y.sum() < len(y) else float("nan")


def fit(
    model: torch.nn.Module, train: DataLoader, val: DataLoader, epochs: int = 20, lr: float = 2e-4, weight_decay: float = 1e-3,
    patience: int | None = None, monitor: str = "loss", device: str | torch.device | None = None, seed: int | None = None,
    optimizer: torch.optim.Optimizer | None = None, logger: object | None = None, progress: bool = True,
) -> History:  # fmt: skip
    """Train a model and leave it with the weights of its best validation epoch.

    Args:
        model: has `compute_loss(Y, X, mask) -> (logits, {name: loss})`, or `forward_packed` for packed batches.
        train, val: loaders of batches; `val` never holds test slides.
        epochs: how often every training bag is seen.
        lr, weight_decay: of AdamW, unless an `optimizer` is given.
        patience: stop after this many epochs without improvement; never by default.
        monitor: `loss` (lowest) or `auc` (highest) of the validation bags chooses the best epoch.
        device: a GPU if there is one, by default.
        seed: seeds torch before the first epoch, for dropout and for the order of a shuffling loader.
        logger: anything with `.log(dict)`.
        progress: show a bar.

    Raises:
        DataError: a loader has no batches, only one class is in `train`, or the loss is NaN (the bag is named).
        ValueError: another `monitor`.
    """
    if monitor not in ("loss", "auc"):
        raise ValueError(f"monitor={monitor!r}, expected 'loss' or 'auc'.")
    for name, loader in (("train", train), ("val", val)):
        if len(loader) == 0:
            raise DataError(f"the loader {name} has no batches. Put at least one bag into the split.")
    if hasattr(train.dataset, "get_bag_labels") and len(set(train.dataset.get_bag_labels())) < 2:
        raise DataError(
            "all training bags have the same label, so there is nothing to learn. Check the label file and the split."
        )
    if seed is not None:
        torch.manual_seed(seed)
    device = pick_device(device)
    model.to(device)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    history, best_weights, best = History(), None, np.inf
    with tqdm(range(epochs), desc="Training", unit="epoch", disable=not progress) as bar:
        for epoch in bar:
            model.train()
            total, seen = 0.0, 0
            for batch in train:
                batch = batch.to(device)
                optimizer.zero_grad(set_to_none=True)
                _, loss = _loss(model, batch)
                if not torch.isfinite(loss):
                    raise _explain_nan(train)
                loss.backward()
                optimizer.step()
                total, seen = total + loss.item() * len(batch["Y"]), seen + len(batch["Y"])
            val_loss, val_auc = evaluate_loss(model, val, device)
            history.train_loss.append(total / seen)
            history.val_loss.append(val_loss)
            history.val_auc.append(val_auc)
            record = {"train_loss": total / seen, "val_loss": val_loss, "val_auc": val_auc}
            if logger is not None:
                logger.log({"epoch": epoch, **record})
            bar.set_postfix({k: f"{v:.3f}" for k, v in record.items()})
            cost = val_loss if monitor == "loss" else -val_auc
            if best_weights is None or cost < best:
                best, best_weights, history.best_epoch = cost, copy.deepcopy(model.state_dict()), epoch
            elif patience is not None and epoch - history.best_epoch >= patience:
                break
    if best_weights is not None:
        model.load_state_dict(best_weights)
    model.eval()
    return history


@torch.inference_mode()
def predict(model: torch.nn.Module, loader: DataLoader, device: str | torch.device | None = None) -> Predictions:
    """Probabilities and attention of all bags of a loader, in order.

    Raises:
        ValueError: the loader shuffles, so that names and bags would not match.
    """
    if not isinstance(getattr(loader, "sampler", None), SequentialSampler):
        raise ValueError(
            "this loader shuffles its bags. Make one with shuffle=False, so that names and predictions match."
        )
    device = pick_device(device)
    model.to(device).eval()
    labels, probabilities, attention = [], [], []
    for batch in loader:
        batch = batch.to(device)
        if "offsets" in batch.keys():
            logits, raw = model.forward_packed(batch["X"], batch["offsets"], return_att=True)
            attention += [a.float().cpu().numpy() for a in raw.split(batch["offsets"].diff().tolist())]
        else:
            logits, raw = _call(model.forward, batch, return_att=True)
            real = (
                batch["mask"].bool()
                if "mask" in batch.keys()
                else torch.ones(raw.shape, dtype=torch.bool, device=raw.device)
            )
            attention += [a[m].float().cpu().numpy() for a, m in zip(raw, real, strict=True)]
        if not torch.isfinite(logits).all():
            raise _explain_nan(loader)
        probabilities.append(torch.sigmoid(logits.float()).cpu())
        labels.append(batch["Y"].cpu())
    return Predictions(
        bag_names(loader), torch.cat(labels).numpy().astype(np.int64), torch.cat(probabilities).numpy(), attention
    )
