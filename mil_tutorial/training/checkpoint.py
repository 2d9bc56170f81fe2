"""What training remembers from epoch to epoch, and the files that let it go on after a stop."""

from __future__ import annotations

import copy
import os
import zipfile
from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from mil_tutorial.errors import DataError, refuse_other
from mil_tutorial.files import written_whole


@dataclass(kw_only=True)
class History:
    """What happened in each epoch, one entry each; `best_epoch` counts from 0, `stopped` says that patience ran out.

    `val_loss` is the plain mean loss of the validation bags, also where training weighs the classes.
    """

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_auc: list[float] = field(default_factory=list)
    best_epoch: int = -1
    stopped: bool = False


@dataclass
class TrainState:
    """A training run: everything that changes from epoch to epoch.

    Attributes:
        model, optimizer, scheduler: as they are now; the scheduler may be None.
        generators: those that decide on the order of the bags.
        settings: how the run is made; a run that goes on must have the same.
        threads: for steps of much work. A run that goes on takes the number it began with, so that it adds in the
            same order.
        folder: of `last.pt` and `best.pt`, None to write nothing.
        history: of the epochs so far.
        best: weights of the best epoch.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    generators: list[torch.Generator]
    settings: dict[str, Any]
    threads: int
    folder: Path | None = None
    history: History = field(default_factory=History)
    best: dict[str, torch.Tensor] | None = None

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history.val_loss)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def record(self, values: Mapping[str, float], *, monitor: str, patience: int | None, validated: bool) -> None:
        """Take up the values of an epoch, and keep the weights if it is the best so far.

        Raises:
            DataError: the AUC is to choose the epoch, and is not defined.
        """
        for key, value in values.items():
            getattr(self.history, key).append(value)
        history = self.history
        costs = history.val_loss if monitor == "loss" else [-auc for auc in history.val_auc]
        epoch = len(costs) - 1
        if validated and costs[-1] != costs[-1]:
            raise DataError(
                "the validation bags hold one class only, so their AUC is not defined and cannot choose the epoch."
                " Use a stratified split, or monitor='loss'."
            )
        if not validated or self.best is None or costs[-1] < costs[history.best_epoch]:
            self.best, history.best_epoch = copy.deepcopy(self.model.state_dict()), epoch
        history.stopped = patience is not None and epoch - history.best_epoch >= patience

    def save(self) -> None:
        """Write `best.pt` if the last epoch is the best one, and `last.pt`; each is whole or absent."""
        if self.folder is None:
            return
        history, cuda = self.history, self.device.type == "cuda"
        if history.best_epoch == self.epoch - 1:
            values = {key: getattr(history, key)[-1] for key in ("train_loss", "val_loss", "val_auc")}
            _save(self.folder / "best.pt", {"model": self.best, "epoch": history.best_epoch, **values})
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "history": asdict(history),
            "settings": self.settings,
            "threads": self.threads,
            "generators": [g.get_state() for g in self.generators],
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        _save(self.folder / "last.pt", state)

    def load(self) -> None:
        """Go on from `last.pt` if it is there.

        Raises:
            DataError: it is damaged, was made with other settings, or holds another model.
        """
        if self.folder is None or not (path := self.folder / "last.pt").exists():
            return
        state = load_state(path, self.settings)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler:
                self.scheduler.load_state_dict(state["scheduler"])
            for generator, value in zip(self.generators, state["generators"], strict=True):
                generator.set_state(value)
        except (RuntimeError, ValueError, TypeError) as error:  # other shapes, other groups, none
            raise DataError(
                f"{path}: holds another model, optimizer or schedule than is trained now, or another loader's order."
                " Use another folder."
            ) from error
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:  # None: it began on another device
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.threads = state.get("threads", self.threads)  # files of earlier versions do not say it
        self.history, self.best = History(**state["history"]), state["best"]

    def finish(self) -> History:
        """Put the best weights into the model, ready to predict."""
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history


def order_generators(loader: DataLoader) -> list[torch.Generator]:
    """The generators that decide on a loader's order; torch's own is saved apart."""
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    distinct = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
    return list(distinct.values())


def describe(optimizer: torch.optim.Optimizer, scheduler: Any, train: DataLoader) -> dict[str, Any]:
    """What settings a run has by what it is given, in words that a message can say."""
    schedule = None if scheduler is None else type(scheduler).__name__
    kinds = {"optimizer": type(optimizer).__name__, "schedule": schedule, "seeded order": bool(order_generators(train))}
    return {**kinds, "training bags": len(cast(Sized, train.dataset)), "batches": len(train)}


def _save(path: Path, state: dict[str, Any]) -> None:
    with written_whole(path) as temporary:
        torch.save(state, temporary)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of `torch.save` to the CPU, without running code that it may carry.

    Raises:
        Exception: of any kind, if it is damaged. torch itself would take flipped bits for weights; the checksums are
            compared here.
    """
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise ValueError(f"the checksum of its part {bad} does not fit")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_state(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read `last.pt`, which must have been made with these settings.

    Raises:
        DataError: it is damaged, or was made with others.
    """
    try:
        state = load_tensors(path)
        before = dict(state["settings"])  # of an earlier version it may say less
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path}: is not a whole checkpoint of `fit` ({error!s:.120}). Delete it and train again."
        ) from error
    refuse_other(path, before, settings, "Use another folder.")
    return state
