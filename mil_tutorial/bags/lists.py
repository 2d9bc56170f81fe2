"""Bags in a list: made from plain arrays, or read from a dataset once and kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from tensordict import TensorDict
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from mil_tutorial.bags.memory import first_twice, off_heap, pick_indices
from mil_tutorial.errors import DataError, Found, ParameterError, require, require_integer


class ListOfBags(Dataset):
    """Bags that are in memory already; see `bags_from_arrays`."""

    def __init__(self, bags: list[TensorDict], names: list[str]):
        self.bags, self.bag_names = bags, names

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> TensorDict:
        return self.bags[index].copy()

    def get_bag_names(self) -> list[str]:
        """Names of the bags."""
        return list(self.bag_names)

    def get_bag_labels(self) -> list[int]:
        """Labels of the bags."""
        return [int(bag["Y"]) for bag in self.bags]

    def subset(self, indices: Iterable[int]) -> ListOfBags:
        """The bags of these numbers, in this order.

        Raises:
            ParameterError: a number that is not in the dataset.
        """
        chosen = pick_indices(indices, len(self))
        return ListOfBags([self.bags[i] for i in chosen], [self.bag_names[i] for i in chosen])


def bags_in_memory(
    dataset: Any, device: str | torch.device = "cpu", *, patches: int | None = None, progress: bool = True
) -> ListOfBags:
    """All bags of a dataset read once and kept: then no step of training waits for a disk or a bus.

    Args:
        dataset: a `TridentWSIDataset`, or another dataset of bags with `get_bag_names()`.
        device: where they are kept, such as "cuda".
        patches: at most so many of each bag, at equal distances in its order, which for TRIDENT's files spreads them
            over the slide; all by default. A small lesion may be lost between them.
        progress: show a progress bar.

    Raises:
        ParameterError: not a dataset of bags, no such device, or `patches` is below 1, or bags have an adjacency, which
            needs all of them.
    """
    found, expected = Found(f"a {type(dataset).__name__}"), "a dataset of bags, such as TridentWSIDataset(...)"
    require(hasattr(dataset, "get_bag_names"), "dataset", found, expected)
    if patches is not None:
        require_integer("patches", patches, low=1)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError):  # AssertionError: a PyTorch without CUDA
        raise ParameterError("device", device, "a device that PyTorch can use here, such as 'cpu'") from None
    source = dataset.with_memory(0) if hasattr(dataset, "with_memory") else dataset
    bags = tqdm(source, desc="Loading bags", unit="bag", total=len(dataset), disable=not progress)
    return ListOfBags([_thinned(bag, patches).to(device) for bag in bags], dataset.get_bag_names())


def _thinned(bag: TensorDict, patches: int | None) -> TensorDict:
    """The bag with at most so many of its patches."""
    n = len(bag["X"])
    if patches is None or n <= patches:
        return bag
    require(
        "adj" not in bag.keys(), "patches", patches, "None for bags with 'adj': a part of them has other neighbours"
    )
    rows = torch.arange(patches) * n // patches
    thinned = {key: bag[key] if bag[key].ndim == 0 else off_heap(bag[key][rows]) for key in bag.keys()}
    return TensorDict(thinned)


def bags_from_arrays(
    arrays: Sequence[ArrayLike], labels: Sequence[int], names: Sequence[str] | None = None
) -> ListOfBags:
    """A dataset from plain arrays: one (n, D) array and one label (0 or 1) for each bag.

    Args:
        arrays: features of each bag, n patches by D numbers; n may differ, D may not.
        labels: 0 or 1 for each bag.
        names: a name for each bag; "bag 0", "bag 1", … by default.

    Raises:
        ParameterError: an argument is not a list.
        DataError: a bag is empty, not two-dimensional, of another D or not finite, its label is not 0 or 1, or its name
            is there twice. The bag is named.

    >>> bags = bags_from_arrays([np.ones((3, 8)), np.zeros((5, 8))], labels=[1, 0])
    >>> bags[1]["X"].shape
    torch.Size([5, 8])
    """
    arrays, labels = _as_list("arrays", arrays), _as_list("labels", labels)
    names = [f"bag {i}" for i in range(len(arrays))] if names is None else list(map(str, _as_list("names", names)))
    if not len(arrays) == len(labels) == len(names):
        raise DataError(
            f"{len(arrays)} bags, {len(labels)} labels and {len(names)} names: give one of each for every bag."
        )
    if (twice := first_twice(names)) is not None:
        raise DataError(f"{twice}: two bags have this name. Give each bag its own.")
    bags: list[TensorDict] = []
    for name, array, label in zip(names, arrays, labels, strict=True):
        X = _features(name, array)
        if bags and X.shape[1] != bags[0]["X"].shape[1]:
            raise DataError(
                f"{name}: has {X.shape[1]} features, {names[0]} has {bags[0]['X'].shape[1]}."
                " Use one encoder for all bags."
            )
        bags.append(TensorDict({"X": X, "Y": torch.tensor(_label(name, label))}))
    return ListOfBags(bags, names)


def _as_list(parameter: str, values: Any) -> list:
    found, expected = Found(f"a {type(values).__name__}"), "a list with one entry for each bag"
    require(not isinstance(values, (str, bytes, dict)), parameter, found, expected)
    try:
        return list(values)
    except TypeError:
        raise ParameterError(parameter, found, expected) from None


def _features(name: str, array: Any) -> torch.Tensor:
    """Features (n, D) float32 of a bag."""
    try:
        X = array.detach().cpu() if isinstance(array, torch.Tensor) else torch.as_tensor(np.asarray(array))
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{name}: its features are not numbers in rows of equal length. Expected an array (n, D)."
        ) from None
    if X.ndim != 2 or len(X) == 0 or X.is_complex():
        kind = " of complex numbers" if X.is_complex() else ""
        raise DataError(
            f"{name}: has shape {tuple(X.shape)}{kind}, expected (n, D) with n at least 1. Leave empty bags out."
        )
    X = X.to(torch.float32)
    if not torch.isfinite(X).all():
        raise DataError(f"{name}: holds NaN or infinite features. Make its features again.")
    return X


def _label(name: str, label: Any) -> float:
    try:
        good = not isinstance(label, (str, bytes)) and float(label) in (0, 1)
    except (TypeError, ValueError, RuntimeError):  # not one number
        good = False
    if not good:
        raise DataError(f"{name}: its label is {label!r:.80}, expected 0 or 1.")
    return float(label)
