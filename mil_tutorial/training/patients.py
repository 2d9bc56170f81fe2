"""Patients with several slides: splits and folds that leave all slides of a patient together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number


def cases_of(bags: Any) -> list[Hashable]:
    """The patient of each bag; where a dataset knows of none, each bag is a patient of its own."""
    return list(bags.get_bag_cases() if hasattr(bags, "get_bag_cases") else range(len(bags)))


def split_by_patient(
    labels: Sequence[int], cases: Sequence[Hashable], *, fraction: float, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Draw some patients with all their slides, stratified: a patient counts as tumour if one slide of theirs is.

    Args:
        labels: 0 or 1 for each slide.
        cases: whose slide each is.
        fraction: of the patients, for the second part; between 0 and 1. At least two are drawn.
        seed: another seed, another split.

    Returns:
        Numbers of the slides of the first and of the second part.

    Raises:
        ParameterError: an argument cannot be used.
        DataError: too few patients for both labels on both sides.

    >>> split_by_patient([0, 1, 0, 0, 1, 1], ["ann", "ann", "ben", "cem", "dea", "dea"], fraction=0.5)
    ([3, 0, 1], [4, 5, 2])
    """
    require_integer("seed", seed, low=0, high=2**32 - 1)
    require_number("fraction", fraction, low=0, open_low=True, expected="a number between 0 and 1")
    require(fraction < 1, "fraction", fraction, "a number between 0 and 1")
    slides, sick = _patients(labels, cases)
    n = max(2, math.ceil(fraction * len(slides)))
    cause: ValueError | None = None
    try:
        parts = train_test_split(range(len(slides)), test_size=n, random_state=seed, stratify=sick)
    except ValueError as error:
        parts, cause = [[], []], error
    first, second = ([i for patient in part for i in slides[patient]] for part in parts)
    if any(len({labels[i] for i in part}) < 2 for part in (first, second)):  # sklearn rounds two of twenty to none
        counts = {label: list(labels).count(label) for label in sorted(set(labels))}
        of = f" of {len(slides)} patients" if len(slides) < len(labels) else ""
        raise DataError(
            f"{len(labels)} bags{of} (by label: {counts}) cannot be split {1 - fraction:.0%} to {fraction:.0%}"
            " with both labels on both sides. Add slides to the training split."
        ) from cause
    return first, second


def folds_by_patient(
    labels: Sequence[int], cases: Sequence[Hashable], *, folds: int, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds for a cross-validation, stratified; all slides of a patient are in one fold.

    Args:
        labels, cases: as in `split_by_patient`.
        folds: how many.
        seed: another seed, other folds.

    Returns:
        For each fold, the numbers of all other slides and of its own, both sorted.

    Raises:
        ParameterError: an argument cannot be used.
        ValueError: a class has fewer patients than there are folds.
    """
    slides, sick = _patients(labels, cases)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(sick, sick)
    parts = [tuple(sorted(i for patient in part for i in slides[patient]) for part in both) for both in split]
    return [(np.array(kept, int), np.array(scored, int)) for kept, scored in parts]


def _patients(labels: Sequence[int], cases: Sequence[Hashable]) -> tuple[list[list[int]], list[int]]:
    """The slides of each patient, in the order in which patients first appear, and whether one of them is tumour."""
    require(len(labels) == len(cases), "cases", Found(f"{len(cases)} for {len(labels)} slides"), "one for each slide")
    slides: dict[Hashable, list[int]] = {}
    for i, case in enumerate(cases):
        slides.setdefault(case, []).append(i)
    return list(slides.values()), [max(labels[i] for i in own) for own in slides.values()]
