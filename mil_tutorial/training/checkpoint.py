"""Train a MIL model, keep its best weights, predict. Works with our models and with torchmil's, padded or packed."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole


@dataclass
class History:
    """What happened in each epoch, one entry each; `best_epoch` counts from 0, `stopped` says that patience ran out."""

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_auc: list[float] = field(default_factory=list)
    best_epoch: int = -1
    stopped: bool = False


def _generators(loader: DataLoader) -> list[torch.Generator]:
    """Those that decide on a loader's order; torch's own is saved apart."""
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
    return list(found.values())


def _save(folder: Path, name: str, state: dict) -> None:
    with written_whole(folder / name) as temporary:
        torch.save(state, temporary)


def load_tensors(path: str | os.PathLike) -> dict:
    """Read a file of `torch.save` to the CPU, without running code that it may carry.

    Raises:
        Exception: of any kind, if it is damaged. torch itself would take flipped bits for weights; the checksums are compared here.
    """
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise ValueError(f"the checksum of its part {bad} does not fit")
    return torch.load(path, map_location="cpu", weights_only=True)


def _load(path: Path, settings: dict) -> dict:
    try:
        state = load_tensors(path)
        changed = [k for k, v in settings.items() if state["settings"][k] != v]
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path}: is no whole checkpoint of `fit` ({error!s:.120}). Delete it and train again."
        ) from error
    if changed:
        key = changed[0]
        raise DataError(
            f"{path}: was made with {key} {state['settings'][key]}, now it is {settings[key]}. Use another folder."
        )
    return state
