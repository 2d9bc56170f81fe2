"""What all metrics of bags rest on: checked input, and metrics in which each bag has a weight.

A weight says how often a bag was drawn. One row of ones gives the plain metric, rows from `resample` its bootstrap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mil_tutorial.errors import Found, ParameterError, require
from mil_tutorial.geometry import as_numbers

BINS = 10  # of the calibration error


def as_bag_scores(
    y_true: ArrayLike, y_score: ArrayLike, *, parameter: str = "y_score", probability: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of bags as int64 (bags,) and their scores as float64 (bags,).

    >>> as_bag_scores([0, 1], [0.2, 0.9])
    (array([0, 1]), array([0.2, 0.9]))

    Args:
        y_true: (bags,) of 0 and 1.
        y_score: (bags,) finite numbers.
        parameter: the name of `y_score` in the caller's signature.
        probability: scores must be in [0, 1].

    Raises:
        ParameterError: other labels, scores that are NaN, infinite or no numbers, different lengths, or no bags.
    """
    try:
        y = np.asarray(y_true).ravel()
    except ValueError:
        raise ParameterError("y_true", y_true, "one label for each bag") from None
    other = sorted(set(y.tolist()) - {0, 1}, key=str)
    require(not other, "y_true", Found(f"{other[0]!r} among the labels" if other else ""), "only 0 and 1")
    read = as_probabilities if probability else as_finite
    score = read(y_score, parameter=parameter).ravel()
    found = Found(f"{len(score)} values for {len(y)} labels in y_true")
    require(0 < len(y) == len(score), parameter, found, "one for each bag, and at least one bag")
    return y.astype(np.int64), score


def as_finite(values: ArrayLike, *, parameter: str) -> np.ndarray:
    """Finite numbers as float64, in their shape.

    Raises:
        ParameterError: some are NaN, infinite or no numbers; it names `parameter`.
    """
    array = as_numbers(values, parameter, "numbers")
    bad = np.count_nonzero(~np.isfinite(array))
    require(not bad, parameter, Found(f"{bad} of {array.size} values that are NaN or infinite"), "finite numbers")
    return array


def as_probabilities(values: ArrayLike, *, parameter: str) -> np.ndarray:
    """Probabilities as float64, in their shape.

    Raises:
        ParameterError: some are outside [0, 1], NaN or no numbers; it names `parameter`.
    """
    array = as_finite(values, parameter=parameter)
    outside = array[(array < 0) | (array > 1)]
    found = Found(f"{outside[0]:g} among the values" if len(outside) else "")
    require(not len(outside), parameter, found, "probabilities from 0 to 1")
    return array


def require_both_classes(y: np.ndarray, what: str, remedy: str = "") -> None:
    """Raise unless 0 and 1 are both among the labels `y`; `what` is what needs them."""
    found = Found(f"only {y[0]} among the labels")
    require(0 < y.sum() < len(y), "y_true", found, f"bags of both classes, which {what} needs{remedy}")


def resample(y: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each bag is drawn in each of n bootstraps, (n, bags): with replacement, within each class."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((n, len(y)))
    for c in (0, 1):
        members = np.flatnonzero(y == c)
        if len(members):
            weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), n)
    return weights


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def pair_order(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """For each pair of a tumour and a normal bag, (tumour, normal): 1 in the right order, 1/2 with a tie, else 0."""
    return np.sign(score[y == 1][:, None] - score[y == 0][None]) / 2 + 0.5


def auc(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fraction of pairs (tumour, normal) in the right order, ties counting half, for each row of weights (B, bags)."""
    p, n = weights[:, y == 1], weights[:, y == 0]
    return divide(np.einsum("bp,bp->b", p, n @ pair_order(y, score).T), p.sum(1) * n.sum(1))


def _positives(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (B, k) at each distinct score as the threshold, from the highest."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # the last of those that tie
    w = weights[:, order]
    return np.cumsum(w * (y[order] == 1), 1)[:, last], np.cumsum(w * (y[order] == 0), 1)[:, last]


def average_precision(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision averaged over recall, for each row of weights (B, bags)."""
    tp, fp = _positives(y, score, weights)
    recall = divide(tp, tp[:, -1:])
    return (np.diff(recall, axis=1, prepend=0) * np.nan_to_num(divide(tp, tp + fp))).sum(1)


def sensitivity_at(y: np.ndarray, score: np.ndarray, weights: np.ndarray, specificity: float) -> np.ndarray:
    """The highest sensitivity of a threshold whose specificity is at least this."""
    tp, fp = _positives(y, score, weights)
    allowed = fp <= (1 - specificity) * fp[:, -1:] + 1e-9
    return np.max(np.where(allowed, divide(tp, tp[:, -1:]), 0.0), axis=1)


def bin_of(prob: np.ndarray, bins: int) -> np.ndarray:
    """Which of `bins` bins of equal width each probability is in; 1 is in the last one."""
    return np.minimum((prob * bins).astype(int), bins - 1)


def calibration_error(y: np.ndarray, prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error: the gap between probability and frequency, over bins, each weighted by its bags."""
    inside = np.eye(BINS)[bin_of(prob, BINS)]  # (bags, bins)
    gap = np.abs((weights * (prob - y)) @ inside)  # (B, bins): bags times the gap of their means
    return gap.sum(1) / weights.sum(1)
