"""Train a MIL model and keep its best weights.

Works with our models and with torchmil's, on padded and on packed batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mil_tutorial.devices import pick_device
from mil_tutorial.errors import require, require_integer, require_number
from mil_tutorial.process import give_back_memory
from mil_tutorial.training.ahead import batches_of
from mil_tutorial.training.checkpoint import History, TrainState, describe, order_generators
from mil_tutorial.training.checks import check_helpers, check_training, explain_nan
from mil_tutorial.training.predict import mean_loss_of
from mil_tutorial.training.recipe import EPOCHS, LEARNING_RATE, WEIGHT_DECAY
from mil_tutorial.training.step import PRECISIONS, Step, pick_precision

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on


@dataclass(frozen=True)
class FitOptions:
    """How `fit` trains. The defaults are the recipe of the course.

    Attributes:
        epochs: how often every training bag is seen.
        lr, weight_decay: of AdamW, unless an optimizer is given.
        patience: stop after this many epochs without improvement; never by default.
        monitor: `loss` (lowest) or `auc` (highest) of the validation bags chooses the best epoch.
        seed: seeds torch before the first epoch, for dropout and for the order of a shuffling loader.
        pos_weight: weight of tumour bags in the training loss, see `positive_weight`; or use `balanced_sampler` in
            the loader. The validation loss stays unweighted, so that runs can be compared.
        accumulate: batches whose gradients are averaged for one step.
        schedule: `cosine` lets the learning rate fall to 0 over the epochs; or a function from the optimizer to a
            scheduler that steps once an epoch.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the device gains from it.

    Raises:
        ParameterError: a value that one of them cannot take.
    """

    epochs: int = EPOCHS
    lr: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    patience: int | None = None
    monitor: str = "loss"
    seed: int | None = None
    pos_weight: float | None = None
    accumulate: int = 1
    schedule: str | Callable[[torch.optim.Optimizer], Any] | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        require_integer("epochs", self.epochs, low=1)
        require_integer("accumulate", self.accumulate, low=1)
        require_number("lr", self.lr, low=0, open_low=True)
        require_number("weight_decay", self.weight_decay, low=0)
        if self.patience is not None:
            require_integer("patience", self.patience, low=1)
        if self.seed is not None:
            require_integer("seed", self.seed, low=0, high=2**64 - 1)
        if self.pos_weight is not None:
            require_number("pos_weight", self.pos_weight, low=0, open_low=True)
        require(self.monitor in ("loss", "auc"), "monitor", self.monitor, "'loss' or 'auc'")
        require(self.precision in PRECISIONS, "precision", self.precision, "'float32', 'bfloat16' or 'auto'")
        good = self.schedule in (None, "cosine") or callable(self.schedule)
        require(good, "schedule", self.schedule, "'cosine' or a function from the optimizer to a scheduler")
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # a checkpoint that holds NumPy's numbers could not be read again
                object.__setattr__(self, name, value.item())

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The learning-rate scheduler, or None."""
        if callable(self.schedule):
            return self.schedule(optimizer)
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs) if self.schedule else None

    def settings(self, dtype: torch.dtype) -> dict[str, Any]:
        """What a run that goes on must have in common with its beginning. More epochs are fine, but for the cosine."""
        names = ("lr", "weight_decay", "monitor", "pos_weight", "accumulate", "seed")
        cosine_epochs = self.epochs if self.schedule == "cosine" else None
        return {**{n: getattr(self, n) for n in names}, "precision": str(dtype), "cosine_epochs": cosine_epochs}


class MoreOptions(TypedDict, total=False):
    """The rarer fields of `FitOptions`, so that editors complete them."""

    weight_decay: float
    patience: int | None
    monitor: str
    seed: int | None
    pos_weight: float | None
    accumulate: int
    schedule: str | Callable[[torch.optim.Optimizer], Any] | None
    precision: str


def fit(
    model: torch.nn.Module,
    train: DataLoader,
    val: DataLoader | None,
    *,
    epochs: int = EPOCHS,
    lr: float = LEARNING_RATE,
    device: str | torch.device | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    logger: Any = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **options: Unpack[MoreOptions],
) -> History:
    """Train a model and leave it with the weights of its best validation epoch.

    Args:
        model: has `compute_loss(Y, X, ...) -> (logits, {name: loss})`, which gets those entries of a batch that it has
            parameters for; for packed batches one of them is `offsets`.
        train, val: loaders of batches; `val` never holds test slides. Without validation bags, None, the last epoch
            counts.
        epochs, lr: and every other field of `FitOptions`: weight_decay, patience, monitor, seed, pos_weight,
            accumulate, schedule, precision.
        device: a GPU if there is one, by default.
        optimizer: in place of AdamW; made for this model.
        logger: TensorBoard's SummaryWriter, or anything with `.log(dict)`.
        progress: show a bar.
        checkpoint: folder for `last.pt`, written after each epoch, and `best.pt`; each is whole or absent.
        resume: go on from `last.pt` if it is there. On a CPU the weights at the end are those of an uninterrupted
            run, to the last bit: the run keeps to the number of threads that it began with, whatever torch has now.

    Small batches are computed on one thread, where handing out the work would cost more than it brings; large ones on
    all that torch has. Afterwards torch has as many threads as before.

    Raises:
        ParameterError: a value that a parameter cannot take.
        DataError: a loader has no batches, a label is not 0 or 1, only one class is in `train`, the loss is NaN (the
            bag is named), or the checkpoint is damaged or was made with other settings.

    >>> from mil_tutorial import ABMIL, bags_from_arrays, make_loader
    >>> bags = bags_from_arrays([np.full((3, 2), float(i % 2)) for i in range(8)], [i % 2 for i in range(8)])
    >>> history = fit(ABMIL(2), make_loader(bags, seed=0), make_loader(bags), epochs=2, progress=False)
    >>> len(history.val_loss)
    2
    """
    choices = FitOptions(epochs=epochs, lr=lr, **options)
    require(val is not None or choices.patience is None, "patience", choices.patience, "None, without validation bags")
    check_helpers(model, optimizer, logger, checkpoint, resume)
    check_training(model, train, val, choices.monitor)
    if choices.seed is not None:
        torch.manual_seed(choices.seed)
    place = pick_device(device)
    dtype = pick_precision(choices.precision, place)
    model.to(place)
    if optimizer is None:
        fused = place.type in ("cpu", "cuda")  # one pass over the weights in place of a dozen
        optimizer = torch.optim.AdamW(model.parameters(), lr=choices.lr, weight_decay=choices.weight_decay, fused=fused)
    scheduler = choices.scheduler(optimizer)
    settings = {**choices.settings(dtype), **describe(optimizer, scheduler, train)}
    folder = None if checkpoint is None else Path(checkpoint)
    state = TrainState(model, optimizer, scheduler, order_generators(train), settings, torch.get_num_threads(), folder)
    if resume:
        state.load()
    _run(state, choices, train, val, dtype, logger, progress)
    give_back_memory()
    return state.finish()


def _run(
    state: TrainState,
    options: FitOptions,
    train: DataLoader,
    val: DataLoader | None,
    dtype: torch.dtype,
    logger: Any,
    progress: bool,
) -> None:
    """The epochs that are left."""
    step = Step(state.model, state.device, dtype, pos_weight=options.pos_weight, large=state.threads)
    unweighted = Step(state.model, state.device, dtype, large=state.threads)
    first = options.epochs if state.history.stopped else state.epoch
    epochs = range(first, options.epochs)
    bar_options = {"initial": first, "total": options.epochs, "disable": not progress}
    with tqdm(epochs, desc="Training", unit="epoch", **bar_options) as bar:
        for epoch in bar:
            values = {"train_loss": _train_epoch(step, train, state.optimizer, options.accumulate, progress)}
            loss, auc = mean_loss_of(unweighted, val, name="val") if val is not None else (float("nan"), float("nan"))
            values |= {"val_loss": loss, "val_auc": auc}
            if state.scheduler:
                state.scheduler.step()
            state.record(values, monitor=options.monitor, patience=options.patience, validated=val is not None)
            _log(logger, epoch, values)
            bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()})
            state.save()
            if state.history.stopped:
                break


def _train_epoch(
    step: Step, train: DataLoader, optimizer: torch.optim.Optimizer, accumulate: int, progress: bool
) -> float:
    """One pass over the training bags; the mean loss over bags."""
    step.model.train()
    total, seen, batches = 0.0, 0, len(train)
    # The bar does not wrap the loader: tqdm would ask it for an iterator once more, and so change the order of the
    # bags.
    batch_bar = tqdm(total=batches, desc="  batches", leave=False, delay=5, disable=not progress)
    with step.loading(), batch_bar as bar:
        for i, batch in enumerate(batches_of(train)):
            batch = step.move(batch, loader="train")
            with step.threads(batch):
                _, loss = step(batch)
                value = loss.item()
                if not np.isfinite(value):
                    raise explain_nan(step, train)
                if i % accumulate == 0:
                    step.model.zero_grad()
                group = min(accumulate, batches - i // accumulate * accumulate)  # the last group may be smaller
                (loss / group if group > 1 else loss).backward()
                if (i + 1) % accumulate == 0 or i + 1 == batches:
                    optimizer.step()
            total, seen = total + value * len(batch["Y"]), seen + len(batch["Y"])
            bar.update()
    return total / seen


def _log(logger: Any, epoch: int, values: dict[str, float]) -> None:
    """To TensorBoard's SummaryWriter, or to anything with `.log(dict)`."""
    if hasattr(logger, "add_scalar"):
        for key, value in values.items():
            logger.add_scalar(key, value, epoch)
    elif logger is not None:
        logger.log({"epoch": epoch, **values})
