"""What training and prediction refuse, with the name of the bag."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader

from mil_tutorial.errors import DataError, Found, require
from mil_tutorial.training.step import Step


def check_loader(name: str, loader: Any) -> None:
    """A parameter `name` must be a loader of batches, with at least one batch.

    Raises:
        ParameterError: it is something else, such as a dataset.
        DataError: it is empty.
    """
    good = all(hasattr(loader, a) for a in ("__iter__", "__len__", "dataset"))
    require(good, name, Found(f"a {type(loader).__name__}"), "a loader of batches, such as make_loader(bags)")
    if len(loader) == 0:
        raise DataError(f"{name}: the loader has no batches. Put at least one bag into the split.")


def bag_names(loader: DataLoader) -> list[str]:
    """Names of the loader's bags in the order of its dataset."""
    dataset: Any = loader.dataset
    if hasattr(dataset, "get_bag_names"):
        return dataset.get_bag_names()
    return [f"bag {i}" for i in range(len(dataset))]


def _labels(loader: DataLoader) -> list[int] | None:
    return loader.dataset.get_bag_labels() if hasattr(loader.dataset, "get_bag_labels") else None


def check_training(model: torch.nn.Module, train: DataLoader, val: DataLoader | None, monitor: str) -> None:
    """What can be seen before the first epoch: labels, classes, the size of features.

    Raises:
        DataError: a loader has no batches, a label is not 0 or 1, one class only where two are needed, features of
            another size.
    """
    check_loader("train", train)
    if val is not None:
        check_loader("val", val)
    for loader in (train, val):
        labels = None if loader is None else _labels(loader)
        if loader is None or labels is None:
            continue
        odd = next((i for i, y in enumerate(labels) if y not in (0, 1)), None)
        if odd is not None:
            name = bag_names(loader)[odd]
            raise DataError(f"{name}: its label is {labels[odd]!r}, expected 0 or 1. Correct the label file.")
        if loader is train and len(set(labels)) < 2:
            raise DataError(
                f"all {len(labels)} training bags, such as {bag_names(loader)[0]}, have the label {labels[0]}, so"
                " there is nothing to learn. Check the label file and the split."
            )
        if loader is val and monitor == "auc" and len(set(labels)) < 2:
            raise DataError(
                f"all {len(labels)} validation bags have the label {labels[0]}, so their AUC is not defined"
                " and cannot choose the epoch. Use a stratified split, or monitor='loss'."
            )
    if hasattr(model, "in_dim"):
        first = train.dataset[0]
        if isinstance(first, (Mapping, TensorDict)) and "X" in first.keys():  # else the first batch shows what is wrong
            check_width(model, first["X"], bag_names(train)[0])


def check_width(model: torch.nn.Module, X: torch.Tensor, name: str) -> None:
    """The features of bag `name` must have the size that the model was made for, if it knows that.

    Raises:
        DataError: another size.
    """
    wanted = getattr(model, "in_dim", X.shape[-1])
    if X.shape[-1] != wanted:
        raise DataError(f"{name}: has {X.shape[-1]} features for each patch, the model was made for {wanted}.")


def check_helpers(model: Any, optimizer: Any, logger: Any, checkpoint: Any, resume: Any) -> None:
    """What `fit` is given to work with must be of the right kind, and must fit together.

    Raises:
        ParameterError: one of them is something else.
    """
    require(isinstance(model, torch.nn.Module), "model", Found(f"a {type(model).__name__}"), "a torch.nn.Module")
    if optimizer is not None:
        kind = Found(f"a {type(optimizer).__name__}")
        require(isinstance(optimizer, torch.optim.Optimizer), "optimizer", kind, "a torch.optim.Optimizer")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        other = Found("one that holds none of the model's parameters, so that nothing would be trained")
        require(any(id(p) in held for p in model.parameters()), "optimizer", other, "one made for this model")
    good = logger is None or hasattr(logger, "add_scalar") or hasattr(logger, "log")
    require(good, "logger", logger, "a SummaryWriter, or an object with `.log(dict)`")
    good = checkpoint is None or (isinstance(checkpoint, (str, os.PathLike)) and os.fspath(checkpoint) != "")
    require(good, "checkpoint", checkpoint, "the path of a folder")
    require(isinstance(resume, bool), "resume", resume, "True or False")
    require(
        checkpoint is not None or not resume, "checkpoint", checkpoint, "the folder to go on from, with resume=True"
    )


@torch.inference_mode()
def explain_nan(step: Step, loader: DataLoader) -> DataError:
    """Find the bag that made the loss NaN."""
    names, dataset = bag_names(loader), loader.dataset
    for i, name in enumerate(names):
        if bad := int((~torch.isfinite(dataset[i]["X"])).sum()):
            return DataError(f"{name}: {bad} of its features are NaN or infinite. Make its features again.")
    for i, name in enumerate(names):
        logits, loss = step(step.move(loader.collate_fn([dataset[i]]), loader="loader"))
        if not (torch.isfinite(logits).all() and torch.isfinite(loss)):
            return DataError(
                f"{name}: the model's answer for it is {logits.item():g}, though its features are finite."
                " Training diverged. Lower the learning rate."
            )
    return DataError("the loss was NaN or infinite, though all features are finite. Lower the learning rate.")
