"""Checks of the exercises of notebook 5: evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from mil_tutorial.evaluation.metrics import auc_interval
from mil_tutorial.exercises.checks import array, exercise, expect, number, run

GOAL_COST = 90  # as the notebook asks
Y_AND_CALLED = (  # the usual mistakes give different numbers for the first
    ([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0]),
    ([1, 1, 0], [1, 0, 1]),
    ([0, 1, 1, 1], [0, 1, 1, 1]),
    ([1, 1, 0, 0, 0], [1, 0, 1, 1, 0]),
    ([1, 0], [0, 0]),
)


@exercise(takes=("my_threshold", "cost", "clinic_y", "clinic_prob"), writes=("my_threshold",))
def my_threshold(my_threshold: Any, cost: Any, clinic_y: np.ndarray, clinic_prob: np.ndarray) -> None:
    """A threshold with which the errors cost little.

    Args:
        my_threshold: the learner's number.
        cost: the notebook's cost of labels, probabilities and a threshold.
        clinic_y, clinic_prob: labels and probabilities of the slides.
    """
    expect(my_threshold is not None, "nothing_written")
    value = number(my_threshold)
    expect(0 <= value <= 1, "range", found=value)
    found = number(run(cost, clinic_y, clinic_prob, value))
    misses = int(((clinic_prob <= value) & (clinic_y == 1)).sum())
    alarms = int(((clinic_prob > value) & (clinic_y == 0)).sum())
    key = "misses" if misses * 10 > alarms else "alarms"
    expect(found < GOAL_COST, key, found=value, cost=found, misses=misses, alarms=alarms, goal=GOAL_COST)


@exercise()
def sensitivity(sensitivity: Any) -> None:
    """Which share of the tumour slides was called tumour?"""
    for y_list, called_list in Y_AND_CALLED:
        y, called = np.array(y_list), np.array(called_list)
        right, hits = called[y == 1].mean(), (y & called).sum()
        answer = run(sensitivity, y.copy(), called.copy())
        value = number(answer)
        given = {"y": y_list, "called": called_list, "found": value, "right": right}
        for key, wrong in (
            ("precision", hits / max(called.sum(), 1)),
            ("accuracy", (y == called).mean()),
            ("specificity", 1 - called[y == 0].mean()),
            ("count", hits),
            ("of_all", hits / len(y)),
            ("percent", 100 * right),
            ("missed", 1 - right),
            ("alarms", called[y == 0].mean()),
        ):
            expect(abs(value - wrong) > 1e-6 or abs(wrong - right) < 1e-6, key, **given)
        expect(abs(value - right) < 1e-6, "differs", **given)


@exercise()
def bootstrap_interval(bootstrap_interval: Any) -> None:
    """The 95 % interval of the AUC by drawing slides with replacement."""
    rng = np.random.default_rng(3)
    y = np.tile([0, 1], 100)
    prob = y + rng.normal(0, 1, len(y))
    known = auc_interval(y, prob)
    values = array(run(bootstrap_interval, y.copy(), prob.copy()))
    expect(values.shape == (2,), "two_numbers", found=values)
    expect(np.isfinite(values).all(), "not_finite", found=values)
    low, high = (float(v) for v in values)
    expect(low <= high, "order", low=low, high=high)
    expect(low < high, "no_width", low=low)
    expect(low < known.value < high, "misses", low=low, high=high, value=known.value)
    ratio = (high - low) / (known.high - known.low)
    expect(ratio > 0.88, "narrow", ratio=ratio)
    expect(ratio < 1.18, "wide", ratio=ratio)
    # Of few slides, a draw may hold no tumour.
    few = array(run(bootstrap_interval, np.array([1, 0, 0, 0] * 2), np.arange(8)[::-1] / 8))
    expect(np.isfinite(few).all(), "one_class", found=few)


def _pairs() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float, float]]:
    """Labels, two models' scores, and between which values p must be; by a name of `texts/`."""
    y = np.tile([0, 1], 30)
    rng = np.random.default_rng(1)
    good, blind = y + rng.normal(0, 0.4, 60), rng.random(60)
    rng = np.random.default_rng(1)
    hard = y + rng.normal(0, 1.2, 60)  # slides that are hard for both: only a paired test sees the small gain
    better, base = hard + 0.125 * (2 * y - 1) + rng.normal(0, 0.05, 60), hard + rng.normal(0, 0.05, 60)
    rng = np.random.default_rng(3)
    one, other = y + rng.normal(0, 1, 60), y + rng.normal(0, 1.3, 60)
    rng = np.random.default_rng(37)  # p is 0.16 where the two scores are drawn one by one, and not swapped
    third, fourth = y + rng.normal(0, 1, 60), y + rng.normal(0, 1.3, 60)
    return {
        "same": (y, good, good, 0.99, 1.0),
        "good_and_blind": (y, good, blind, 1e-9, 0.02),
        "blind_and_good": (y, blind, good, 1e-9, 0.02),
        "same_hard_slides": (y, better, base, 1e-9, 0.03),
        "similar": (y, one, other, 0.45, 0.8),
        "near": (y, third, fourth, 0.22, 0.44),
    }


@exercise()
def paired_p_value(paired_p_value: Any) -> None:
    """How often the difference of two models would be as large if they were equally good."""
    for key, (y, a, b, low, high) in _pairs().items():
        answer = run(paired_p_value, y.copy(), a.copy(), b.copy())
        value = number(answer)
        expect(value != 0, "zero")
        expect(0 < value <= 1, "no_probability", found=value)
        expect(low <= value <= high, key, found=value, low=low, high=high)
