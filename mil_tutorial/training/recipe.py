"""The recipe of the course, in one place: what notebooks 4 to 6, the commands and the benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import WeightedRandomSampler

from mil_tutorial.errors import DataError, require_integer, require_number

EPOCHS = 20
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 1e-3
BATCH_SIZE = 4  # bags; the default of `make_loader`, too
VAL_FRACTION = 0.2  # of the training slides; they choose the epoch and the threshold

Bags = TypeVar("Bags", bound="_Bags")


class _Bags(Protocol):
    """What a dataset of bags must be able to do to be split."""

    def __len__(self) -> int: ...
    def get_bag_labels(self) -> list[int]: ...
    def subset(self: Bags, indices: Sequence[int]) -> Bags: ...


def split_bags(bags: Bags, *, seed: int = 0, val_fraction: float = VAL_FRACTION) -> tuple[Bags, Bags]:
    """Split whole bags in two, with the same fraction of tumour bags on both sides.

    Args:
        bags: a dataset with `get_bag_labels()` and `subset(indices)`.
        seed: another seed, another split.
        val_fraction: of the bags that go into the second part.

    Returns:
        Training bags and validation bags.

    Raises:
        DataError: too few bags for both labels on both sides.

    >>> from mil_tutorial import bags_from_arrays
    >>> train, val = split_bags(bags_from_arrays([np.ones((2, 3))] * 10, [0, 1] * 5))
    >>> len(train), sorted(val.get_bag_labels())
    (8, [0, 1])
    """
    require_integer("seed", seed, low=0)
    require_number("val_fraction", val_fraction, low=0, high=1, open_low=True)
    labels = bags.get_bag_labels()
    try:
        train, val = train_test_split(range(len(bags)), test_size=val_fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        counts = {label: labels.count(label) for label in sorted(set(labels))}
        raise DataError(
            f"{len(bags)} bags (by label: {counts}) cannot be split {1 - val_fraction:.0%} to {val_fraction:.0%} with"
            f" both labels on both sides ({error}). Add slides to the training split."
        ) from error
    return bags.subset(train), bags.subset(val)


def balanced_sampler(labels: Sequence[int], seed: int) -> WeightedRandomSampler:
    """A sampler for `DataLoader(sampler=...)` that draws both classes equally often, with replacement."""
    classes = torch.as_tensor(labels).long()
    weights = 1.0 / torch.bincount(classes, minlength=2)[classes]
    return WeightedRandomSampler(weights.tolist(), len(classes), generator=torch.Generator().manual_seed(seed))


def positive_weight(labels: Sequence[int]) -> float:
    """Negatives for each positive bag: with this `pos_weight` both classes weigh the same in the loss.

    >>> positive_weight([0, 0, 0, 1])
    3.0

    Raises:
        DataError: one class is missing.
    """
    classes = np.asarray(labels)
    negative, positive = int((classes == 0).sum()), int((classes == 1).sum())
    if not (negative and positive):
        raise DataError(f"{negative} normal and {positive} tumour bags: the weight needs both. Check the split.")
    return negative / positive
