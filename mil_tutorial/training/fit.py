"""Train a MIL model, keep its best weights, predict. Works with our models and with torchmil's, padded or packed."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, SequentialSampler, WeightedRandomSampler
from tqdm.auto import tqdm

from mil_tutorial.devices import pick_device
from mil_tutorial.errors import DataError
from mil_tutorial.training.checkpoint import History, _generators, _load, _save
from mil_tutorial.training.step import _call, _Step, pick_precision


@dataclass(frozen=True)
class Predictions:
    """One entry a bag: `names`, labels `Y` (bags,) int64, tumour probability `prob` (bags,), `attention`: raw scores (n,) each."""

    names: list[str]
    Y: np.ndarray
    prob: np.ndarray
    attention: list[np.ndarray]


def balanced_sampler(labels: Sequence[int], seed: int) -> WeightedRandomSampler:
    """A sampler for `DataLoader(sampler=...)` that draws both classes equally often, with replacement."""
    labels = torch.as_tensor(labels).long()
    weights = 1.0 / torch.bincount(labels, minlength=2)[labels]
    return WeightedRandomSampler(weights.tolist(), len(labels), generator=torch.Generator().manual_seed(seed))


def positive_weight(labels: Sequence[int]) -> float:
    """Negatives for each positive bag: with this `pos_weight` both classes weigh the same in the loss."""
    labels = np.asarray(labels)
    return float((labels == 0).sum() / (labels == 1).sum())


def bag_names(loader: DataLoader) -> list[str]:
    """Names of the loader's bags in the order of its dataset."""
    if hasattr(loader.dataset, "get_bag_names"):
        return loader.dataset.get_bag_names()
    return [f"bag {i}" for i in range(len(loader.dataset))]


@torch.inference_mode()
def _explain_nan(step: _Step, loader: DataLoader) -> DataError:
    """Find the bag that made the loss NaN."""
    names = bag_names(loader)
    for i in range(len(loader.dataset)):
        X = loader.dataset[i]["X"]
        if bad := int((~torch.isfinite(X)).sum()):
            return DataError(f"{names[i]}: {bad} of its features are NaN or infinite. Make its features again.")
    for i in range(len(loader.dataset)):
        logits, loss = step(step.move(loader.collate_fn([loader.dataset[i]])))
        if not (torch.isfinite(logits).all() and torch.isfinite(loss)):
            return DataError(
                f"{names[i]}: the model's answer for it is {logits.item():g}, though its features are finite."
                " The weights have run away. Lower the learning rate."
            )
    return DataError("the loss was NaN or infinite once, and all features are finite. Lower the learning rate.")


def _check_loaders(model, train: DataLoader, val: DataLoader | None) -> None:
    for name, loader in (("train", train), ("val", val)):
        if loader is None:
            continue
        if len(loader) == 0:
            raise DataError(f"the loader {name} has no batches. Put at least one bag into the split.")
        if not hasattr(loader.dataset, "get_bag_labels"):
            continue
        labels = loader.dataset.get_bag_labels()
        odd = next((i for i, y in enumerate(labels) if y not in (0, 1)), None)
        if odd is not None:
            raise DataError(
                f"{bag_names(loader)[odd]}: its label is {labels[odd]!r}, expected 0 or 1. Correct the label file."
            )
        if name == "train" and len(set(labels)) < 2:
            raise DataError(
                f"all {len(labels)} training bags, such as {bag_names(loader)[0]}, have the label {labels[0]}, so there is"
                " nothing to learn. Check the label file and the split."
            )
    if hasattr(model, "in_dim"):
        dim = train.dataset[0]["X"].shape[-1]
        if dim != model.in_dim:
            raise DataError(
                f"{bag_names(train)[0]}: has {dim} features for each patch, the model was made for {model.in_dim}."
            )


def _mean_loss(step: _Step, loader: DataLoader) -> tuple[float, float]:
    """Mean loss over bags and AUC (NaN if only one class is there); dropout off, no gradients."""
    step.model.eval()
    total, logits, labels = 0.0, [], []
    with torch.inference_mode():
        for batch in loader:
            batch = step.move(batch)
            out, loss = step(batch)
            if not torch.isfinite(loss):
                raise _explain_nan(step, loader)
            total += loss.item() * len(batch["Y"])
            logits.append(out.cpu())
            labels.append(batch["Y"].cpu())
    y, score = torch.cat(labels).numpy(), torch.cat(logits).numpy()
    return total / len(y), float(roc_auc_score(y, score)) if 0 < y.sum() < len(y) else float("nan")


def evaluate_loss(model: torch.nn.Module, loader: DataLoader, device: torch.device) -> tuple[float, float]:
    """Mean loss over bags and AUC (NaN if only one class is there); dropout off, no gradients."""
    return _mean_loss(_Step(model, device, torch.float32), loader)


def _log(logger, epoch: int, record: dict) -> None:
    """To TensorBoard's SummaryWriter, or to anything with `.log(dict)`."""
    if hasattr(logger, "add_scalar"):
        for key, value in record.items():
            logger.add_scalar(key, value, epoch)
    elif logger is not None:
        logger.log({"epoch": epoch, **record})


def fit(
    model: torch.nn.Module, train: DataLoader, val: DataLoader | None, epochs: int = 20, lr: float = 2e-4, weight_decay: float = 1e-3,
    patience: int | None = None, monitor: str = "loss", device: str | torch.device | None = None, seed: int | None = None,
    optimizer: torch.optim.Optimizer | None = None, logger: object | None = None, progress: bool = True,
    pos_weight: float | None = None, accumulate: int = 1, schedule: str | Callable | None = None, precision: str = "float32",
    checkpoint: str | os.PathLike | None = None, resume: bool = False,
) -> History:  # fmt: skip
    """Train a model and leave it with the weights of its best validation epoch.

    Args:
        model: has `compute_loss(Y, X, mask) -> (logits, {name: loss})`, or `forward_packed` for packed batches.
        train, val: loaders of batches; `val` never holds test slides. Without validation bags, None, the last epoch counts.
        epochs: how often every training bag is seen.
        lr, weight_decay: of AdamW, unless an `optimizer` is given.
        patience: stop after this many epochs without improvement; never by default.
        monitor: `loss` (lowest) or `auc` (highest) of the validation bags chooses the best epoch.
        device: a GPU if there is one, by default.
        seed: seeds torch before the first epoch, for dropout and for the order of a shuffling loader.
        logger: TensorBoard's SummaryWriter, or anything with `.log(dict)`.
        progress: show a bar.
        pos_weight: weight of tumour bags in the loss, see `positive_weight`; or use `balanced_sampler` in the loader.
        accumulate: batches whose gradients are averaged for one step.
        schedule: `cosine` lets the learning rate fall to 0 over the epochs; or a function from the optimizer to a scheduler
            that steps once an epoch.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the device gains from it.
        checkpoint: folder for `last.pt`, written after each epoch, and `best.pt`; each is whole or absent.
        resume: go on from `last.pt` if it is there. The weights at the end are those of an uninterrupted run.

    Raises:
        DataError: a loader has no batches, a label is not 0 or 1, only one class is in `train`, the loss is NaN (the bag is
            named), or the checkpoint is damaged or was made with other settings.
        ValueError: another `monitor`, `precision` or `schedule`.
    """
    if monitor not in ("loss", "auc"):
        raise ValueError(f"monitor={monitor!r}, expected 'loss' or 'auc'.")
    if not (schedule in (None, "cosine") or callable(schedule)):
        raise ValueError(f"schedule={schedule!r}, expected 'cosine' or a function from the optimizer to a scheduler.")
    if val is None and patience is not None:
        raise ValueError("patience needs validation bags: give a loader as val.")
    if epochs < 1 or accumulate < 1:
        raise ValueError(f"epochs is {epochs} and accumulate {accumulate}, expected at least 1.")
    _check_loaders(model, train, val)
    if seed is not None:
        torch.manual_seed(seed)
    device = pick_device(device)
    model.to(device)
    step = _Step(model, device, pick_precision(precision, device), pos_weight)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    scheduler = schedule(optimizer) if callable(schedule) else None
    if schedule == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    settings = {"lr": lr, "weight_decay": weight_decay, "monitor": monitor, "pos_weight": pos_weight, "accumulate": accumulate,
                "precision": str(step.dtype), "cosine_epochs": epochs if schedule == "cosine" else None, "seed": seed}  # fmt: skip
    folder, history, best_weights = Path(checkpoint) if checkpoint else None, History(), None
    generators = _generators(train)
    if folder and resume and (folder / "last.pt").exists():
        state = _load(folder / "last.pt", settings)
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise DataError(
                f"{folder / 'last.pt'}: holds another model than is trained now. Use another folder."
            ) from error
        optimizer.load_state_dict(state["optimizer"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])
        for generator, value in zip(generators, state["generators"], strict=True):
            generator.set_state(value)
        torch.set_rng_state(state["rng"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], device)
        history, best_weights = History(**state["history"]), state["best"]

    first = len(history.val_loss) if not history.stopped else epochs
    with tqdm(
        range(first, epochs), desc="Training", unit="epoch", initial=first, total=epochs, disable=not progress
    ) as bar:
        for epoch in bar:
            train_loss = _train_epoch(step, train, optimizer, accumulate, progress)
            val_loss, val_auc = _mean_loss(step, val) if val else (float("nan"), float("nan"))
            if scheduler:
                scheduler.step()
            record = {"train_loss": train_loss, "val_loss": val_loss, "val_auc": val_auc}
            for key, value in record.items():
                getattr(history, key).append(value)
            _log(logger, epoch, record)
            bar.set_postfix({k: f"{v:.3f}" for k, v in record.items()})
            costs = history.val_loss if monitor == "loss" else [-auc for auc in history.val_auc]
            improved = val is None or best_weights is None or costs[-1] < costs[history.best_epoch]
            if improved:
                best_weights, history.best_epoch = copy.deepcopy(model.state_dict()), epoch
            history.stopped = patience is not None and epoch - history.best_epoch >= patience
            if folder:
                if improved:
                    _save(folder, "best.pt", {"model": best_weights, "epoch": epoch, **record})
                _save(folder, "last.pt", {
                    "model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": best_weights,
                    "scheduler": scheduler.state_dict() if scheduler else None, "history": asdict(history), "settings": settings,
                    "generators": [g.get_state() for g in generators], "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                })  # fmt: skip
            if history.stopped:
                break
    model.load_state_dict(best_weights)
    model.eval()
    return history


def _train_epoch(
    step: _Step, train: DataLoader, optimizer: torch.optim.Optimizer, accumulate: int, progress: bool
) -> float:
    """One pass over the training bags; the mean loss over bags."""
    step.model.train()
    total, seen, batches = 0.0, 0, len(train)
    # The bar does not wrap the loader: tqdm would ask it for an iterator once more, and so change the order of the bags.
    with tqdm(total=batches, desc="  batches", leave=False, delay=5, disable=not progress) as bar:
        for i, batch in enumerate(train):
            batch = step.move(batch)
            _, loss = step(batch)
            value = loss.item()
            if not np.isfinite(value):
                raise _explain_nan(step, train)
            if i % accumulate == 0:
                optimizer.zero_grad(set_to_none=True)
            group = min(accumulate, batches - i // accumulate * accumulate)  # the last group may be smaller
            (loss / group if group > 1 else loss).backward()
            if (i + 1) % accumulate == 0 or i + 1 == batches:
                optimizer.step()
            total, seen = total + value * len(batch["Y"]), seen + len(batch["Y"])
            bar.update()
    return total / seen


@torch.inference_mode()
def predict(
    model: torch.nn.Module, loader: DataLoader, device: str | torch.device | None = None, precision: str = "float32"
) -> Predictions:
    """Probabilities and attention of all bags of a loader, in order.

    Raises:
        ValueError: the loader shuffles or drops bags, so that names and bags would not match.
        DataError: it has no bags, or an answer is NaN (the bag is named).
    """
    if not isinstance(getattr(loader, "sampler", None), SequentialSampler) or loader.drop_last:
        raise ValueError(
            "this loader shuffles or drops bags. Make one with shuffle=False and drop_last=False, so that names and predictions match."
        )
    if len(loader) == 0:
        raise DataError("the loader has no bags. Put at least one into the split.")
    device = pick_device(device)
    model.to(device).eval()
    step = _Step(model, device, pick_precision(precision, device))
    labels, probabilities, attention = [], [], []
    for batch in loader:
        batch = step.move(batch)
        with step.precision():
            if "offsets" in batch.keys():
                logits, raw = model.forward_packed(batch["X"], batch["offsets"], return_att=True)
                attention += [a.float().cpu().numpy() for a in raw.split(batch["offsets"].diff().tolist())]
            else:
                logits, raw = _call(model.forward, batch, return_att=True)
                real = batch["mask"].bool() if "mask" in batch.keys() else torch.ones_like(raw, dtype=torch.bool)
                attention += [a[m].float().cpu().numpy() for a, m in zip(raw, real, strict=True)]
        if not torch.isfinite(logits).all():
            raise _explain_nan(step, loader)
        probabilities.append(torch.sigmoid(logits.float()).cpu())
        labels.append(batch["Y"].cpu())
    return Predictions(
        bag_names(loader), torch.cat(labels).numpy().astype(np.int64), torch.cat(probabilities).numpy(), attention
    )
