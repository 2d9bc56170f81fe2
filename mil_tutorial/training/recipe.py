"""The recipe of the course, in one place: what notebooks 4 to 6, the commands and the benchmarks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import WeightedRandomSampler

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number

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
        val_fraction: of the bags, for the second part; between 0 and 1. At least two bags, so that there is one of
            each label.

    Returns:
        Training bags and validation bags.

    Raises:
        ParameterError: `bags` is not a dataset of bags, or another argument cannot be used.
        DataError: too few bags for both labels on both sides.

    >>> from mil_tutorial import bags_from_arrays
    >>> train, val = split_bags(bags_from_arrays([np.ones((2, 3))] * 10, [0, 1] * 5))
    >>> len(train), sorted(val.get_bag_labels())
    (8, [0, 1])
    """
    good = hasattr(bags, "get_bag_labels") and hasattr(bags, "subset")
    require(good, "bags", Found(f"a {type(bags).__name__}"), "a dataset of bags, such as bags_from_arrays(...)")
    require_integer("seed", seed, low=0, high=2**32 - 1)
    fraction = "a number between 0 and 1"
    require_number("val_fraction", val_fraction, low=0, open_low=True, expected=fraction)
    require(val_fraction < 1, "val_fraction", val_fraction, fraction)
    labels = bags.get_bag_labels()
    n_val = max(2, math.ceil(val_fraction * len(labels)))
    cause: ValueError | None = None
    try:
        parts = train_test_split(range(len(labels)), test_size=n_val, random_state=seed, stratify=labels)
    except ValueError as error:
        parts, cause = [[], []], error
    if any(len({labels[i] for i in part}) < 2 for part in parts):  # sklearn rounds two of twenty to none of four
        counts = {label: labels.count(label) for label in sorted(set(labels))}
        raise DataError(
            f"{len(labels)} bags (by label: {counts}) cannot be split {1 - val_fraction:.0%} to {val_fraction:.0%}"
            " with both labels on both sides. Add slides to the training split."
        ) from cause
    train, val = parts
    return bags.subset(train), bags.subset(val)


def balanced_sampler(labels: Sequence[int], seed: int) -> WeightedRandomSampler:
    """A sampler for `DataLoader(sampler=...)` that draws both classes equally often, with replacement.

    Raises:
        ParameterError: a label is not 0 or 1, or the seed cannot be used.
        DataError: one class is missing.
    """
    require_integer("seed", seed, low=0, high=2**64 - 1)
    counts, classes = _count(labels)
    weights = torch.as_tensor(1 / counts.astype(np.float32)[classes])
    return WeightedRandomSampler(weights.tolist(), len(classes), generator=torch.Generator().manual_seed(int(seed)))


def positive_weight(labels: Sequence[int]) -> float:
    """Negatives for each positive bag: with this `pos_weight` both classes weigh the same in the loss.

    >>> positive_weight([0, 0, 0, 1])
    3.0

    Raises:
        ParameterError: a label is not 0 or 1.
        DataError: one class is missing.
    """
    (negative, positive), _ = _count(labels)
    return float(negative / positive)


def _count(labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """How many bags have each label, (2,), and the labels as integers."""
    classes = np.asarray(labels)
    good = classes.ndim == 1 and set(classes.tolist()) <= {0, 1}
    require(good, "labels", labels, "0 or 1 for each bag")
    classes = classes.astype(np.int64)
    counts = np.bincount(classes, minlength=2)
    if not counts.all():
        raise DataError(f"{counts[0]} normal and {counts[1]} tumour bags: both are needed. Check the split.")
    return counts, classes
