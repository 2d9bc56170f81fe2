"""The recipe of the course, in one place: what notebooks 4 to 6, the commands and the benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number
from mil_tutorial.training.patients import cases_of, split_by_patient

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
    """Split whole bags in two, with the same fraction of tumour on both sides and no patient on both.

    Args:
        bags: a dataset with `get_bag_labels()` and `subset(indices)`. If it has `get_bag_cases()`, all bags of a
            patient stay together; otherwise each bag is a patient of its own.
        seed: another seed, another split.
        val_fraction: of the patients, for the second part; between 0 and 1. At least two of them, so that there is one
            of each label.

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
    fraction = "a number between 0 and 1"
    require_number("val_fraction", val_fraction, low=0, open_low=True, expected=fraction)
    require(val_fraction < 1, "val_fraction", val_fraction, fraction)
    train, val = split_by_patient(bags.get_bag_labels(), cases_of(bags), fraction=val_fraction, seed=seed)
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
