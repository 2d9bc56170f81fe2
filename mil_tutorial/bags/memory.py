"""Bags: all patches of one slide as a TensorDict, with one label for the whole.

The keys are torchmil's: `X` features, `Y` bag label, `y_inst` patch labels, `adj` which patches touch, `coords` grid places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError


def bags_in_memory(dataset: Dataset, device: str | torch.device = "cpu", progress: bool = True) -> ListOfBags:
    """All bags of a dataset read once and kept, on a GPU if one is named: then no step of training waits for a disk or a bus."""
    bags = tqdm(dataset, desc="Loading bags", unit="bag", total=len(dataset), disable=not progress)
    return ListOfBags([bag.to(device) for bag in bags], dataset.get_bag_names())


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

    def subset(self, indices: Sequence[int]) -> ListOfBags:
        """The bags of these numbers, in this order."""
        return ListOfBags([self.bags[i] for i in indices], [self.bag_names[i] for i in indices])


def bags_from_arrays(
    arrays: Sequence[np.ndarray], labels: Sequence[int], names: Sequence[str] | None = None
) -> ListOfBags:
    """A dataset from plain arrays: one (n, D) array and one label (0 or 1) for each bag.

    Raises:
        DataError: a bag is empty, not two-dimensional, of another D, not finite, or its label is not 0 or 1. It is named.
    """
    names = [f"bag {i}" for i in range(len(arrays))] if names is None else list(names)
    if not len(arrays) == len(labels) == len(names):
        raise DataError(
            f"{len(arrays)} bags, {len(labels)} labels and {len(names)} names: give one of each for every bag."
        )
    bags = []
    for name, array, label in zip(names, arrays, labels, strict=True):
        X = torch.as_tensor(np.asarray(array), dtype=torch.float32)
        if X.ndim != 2 or len(X) == 0:
            raise DataError(
                f"{name}: has shape {tuple(X.shape)}, expected (n, D) with n at least 1. Leave empty bags out."
            )
        if bags and X.shape[1] != bags[0]["X"].shape[1]:
            raise DataError(
                f"{name}: has {X.shape[1]} features, {names[0]} has {bags[0]['X'].shape[1]}. Use one encoder for all bags."
            )
        if not torch.isfinite(X).all():
            raise DataError(f"{name}: holds NaN or infinite features. Make its features again.")
        if label not in (0, 1):
            raise DataError(f"{name}: its label is {label!r}, expected 0 or 1.")
        bags.append(TensorDict({"X": X, "Y": torch.tensor(float(label))}))
    return ListOfBags(bags, names)
