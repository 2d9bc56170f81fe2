"""What training and prediction refuse, with the name of the bag."""

from __future__ import annotations

from typing import Any

import torch
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
        dim = train.dataset[0]["X"].shape[-1]
        if dim != model.in_dim:
            raise DataError(
                f"{bag_names(train)[0]}: has {dim} features for each patch, the model was made for {model.in_dim}."
            )


@torch.inference_mode()
def explain_nan(step: Step, loader: DataLoader) -> DataError:
    """Find the bag that made the loss NaN."""
    names, dataset = bag_names(loader), loader.dataset
    for i, name in enumerate(names):
        if bad := int((~torch.isfinite(dataset[i]["X"])).sum()):
            return DataError(f"{name}: {bad} of its features are NaN or infinite. Make its features again.")
    for i, name in enumerate(names):
        logits, loss = step(step.move(loader.collate_fn([dataset[i]])))
        if not (torch.isfinite(logits).all() and torch.isfinite(loss)):
            return DataError(
                f"{name}: the model's answer for it is {logits.item():g}, though its features are finite."
                " Training diverged. Lower the learning rate."
            )
    return DataError("the loss was NaN or infinite once, and all features are finite. Lower the learning rate.")
