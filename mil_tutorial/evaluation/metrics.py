"""Metrics of bag predictions with intervals, and the threshold they need.

A new metric: a function of labels, scores and weights in `weighted.py`, and one entry in `_values`, which also gives it
its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from sklearn.metrics import roc_curve

from mil_tutorial.errors import Found, require, require_integer, require_number
from mil_tutorial.evaluation.weighted import (
    as_bag_scores,
    auc,
    average_precision,
    calibration_error,
    divide,
    pair_order,
    require_both_classes,
    resample,
    sensitivity_at,
)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def as_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates as plain numbers; NaN, which JSON does not know, becomes null."""
    return {name: {k: (None if np.isnan(v) else v) for k, v in vars(e).items()} for name, e in metrics.items()}


def _values(
    y: np.ndarray, score: np.ndarray, weights: np.ndarray, *, threshold: float, specificity: float
) -> dict[str, np.ndarray]:
    """Each metric for each row of weights (B, bags)."""
    above, total = score > threshold, weights.sum(1)
    tp, fn = weights[:, above & (y == 1)].sum(1), weights[:, ~above & (y == 1)].sum(1)
    fp, tn = weights[:, above & (y == 0)].sum(1), weights[:, ~above & (y == 0)].sum(1)
    sensitivity, specific = divide(tp, tp + fn), divide(tn, tn + fp)
    both = 0 < y.sum() < len(y)
    undefined = np.full(len(weights), np.nan)
    out = {
        "accuracy": (tp + tn) / total,
        "balanced_accuracy": np.nanmean([sensitivity, specific], axis=0),
        "f1": np.nan_to_num(divide(2 * tp, 2 * tp + fp + fn)),
        "sensitivity": sensitivity,
        "specificity": specific,
        "auc": auc(y, score, weights) if both else undefined,
        "average_precision": average_precision(y, score, weights) if both else undefined,
    }
    best = sensitivity_at(y, score, weights, specificity) if both else undefined
    out[f"sensitivity_at_{specificity:g}_specificity"] = best
    if score.min() >= 0 and score.max() <= 1:
        out["brier"] = (weights * (score - y) ** 2).sum(1) / total
        out["calibration_error"] = calibration_error(y, score, weights)
    return out


def auc_interval(y_true: ArrayLike, y_score: ArrayLike, *, level: float = 0.95) -> Estimate:
    """AUC with an interval that covers the truth as often as it promises, on small test sets too.

    It is DeLong's variance on the logit scale; the plain bootstrap's interval is too narrow there.

    >>> print(auc_interval([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9]))
    0.750 [0.069, 0.992]

    Args:
        y_true: (bags,) of 0 and 1.
        y_score: (bags,) scores, higher for tumour.
        level: how often the interval shall cover the truth.

    Raises:
        ParameterError: as `bag_metrics`, or only one class.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 1988; the logit as in Pepe, The Statistical Evaluation of Medical
    Tests, 2003.
    """
    require_number("level", level, low=0, high=1, open_low=True)
    y, score = as_bag_scores(y_true, y_score)
    require_both_classes(y, "the AUC")
    order = pair_order(y, score)
    value = float(order.mean())
    variance = sum(
        np.var(order.mean(axis), ddof=1) / n for axis, n in ((1, order.shape[0]), (0, order.shape[1])) if n > 1
    )
    if variance == 0 or value in (0, 1):  # perfect order, or all ties: a proportion of which nothing, or all, was seen
        reach = 1 - (0.5 - level / 2) ** (1 / min(order.shape))
        return Estimate(value, value - reach * value, value + reach * (1 - value))
    width = stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (value * (1 - value))
    low, high = special.expit(special.logit(value) + np.array([-width, width]))
    return Estimate(value, float(low), float(high))


def bag_metrics(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    threshold: float = 0.5,
    n_bootstrap: int = 2000,
    seed: int = 0,
    specificity: float = 0.9,
) -> dict[str, Estimate]:
    """Metrics of bag predictions with 95 % intervals, bootstrapped within each class.

    >>> print(bag_metrics([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])["sensitivity"])
    0.500 [0.000, 1.000]

    Args:
        y_true: (bags,) of 0 and 1.
        y_score: (bags,) probabilities or other scores, higher for tumour.
        threshold: a bag is predicted tumour above it. Choose it on validation bags, never on these.
        n_bootstrap: resamples; 0 gives intervals of NaN.
        seed: of the resamples.
        specificity: for `sensitivity_at_<...>_specificity`, the best sensitivity on the ROC curve at this specificity.

    Returns:
        accuracy, balanced_accuracy, f1, sensitivity, specificity, auc, average_precision,
        `sensitivity_at_<...>_specificity`, and, if scores are in [0, 1], brier and calibration_error (10 bins of equal
        width). The interval of the AUC is `auc_interval`'s; accuracy, sensitivity and specificity of 0 or 1 have the
        exact binomial one. What one class alone cannot define is NaN.

    Raises:
        ParameterError: labels other than 0 and 1, scores NaN or infinite, different lengths, no bags, or an option out
            of range.
    """
    require_number("threshold", threshold, finite=False)
    require_integer("n_bootstrap", n_bootstrap, low=0)
    require_integer("seed", seed, low=0)
    require_number("specificity", specificity, low=0, high=1)
    y, score = as_bag_scores(y_true, y_score)
    options = {"threshold": threshold, "specificity": specificity}
    point = _values(y, score, np.ones((1, len(y))), **options)
    draws = _values(y, score, resample(y, n_bootstrap, seed), **options) if n_bootstrap else {}
    sizes = {"accuracy": len(y), "sensitivity": int((y == 1).sum()), "specificity": int((y == 0).sum())}
    out = {
        name: _with_interval(float(value[0]), draws.get(name, np.empty(0)), sizes.get(name))
        for name, value in point.items()
    }
    if n_bootstrap and np.isfinite(out["auc"].value):
        out["auc"] = auc_interval(y, score)
    return out


def _with_interval(value: float, draws: np.ndarray, n: int | None) -> Estimate:
    """The interval from bootstrap draws (B,), NaN without; `n` is the number of bags, for a proportion of bags."""
    low, high = np.quantile(draws, (0.025, 0.975)) if len(draws) and np.isfinite(value) else (np.nan, np.nan)
    if n is not None and low == high:
        # All right or all wrong: the bootstrap sees no chance in it. The exact binomial interval does.
        low, high = stats.binomtest(round(value * n), n).proportion_ci()
    return Estimate(value, float(low), float(high))


def metrics_by_group(
    y_true: ArrayLike, y_score: ArrayLike, groups: Sequence[str], threshold: float = 0.5
) -> dict[str, dict[str, Estimate]]:
    """`bag_metrics` within each group, such as a lesion size or a scanner.

    Args:
        y_true: (bags,) of 0 and 1.
        y_score: (bags,) scores, higher for tumour.
        groups: (bags,) names. Bags of the group "" are added to every other group: normal slides have no lesion size.
        threshold: a bag is predicted tumour above it.

    Raises:
        ParameterError: as `bag_metrics`, or not one group for each bag.
    """
    y, score = as_bag_scores(y_true, y_score)
    one_each = f"one name for each of {len(y)} bags"
    require(not isinstance(groups, str), "groups", groups, one_each)
    names = np.asarray([str(g) for g in groups])
    require(len(names) == len(y), "groups", Found(f"{len(names)} groups"), one_each)
    common = names == ""
    return {
        g: bag_metrics(y[(names == g) | common], score[(names == g) | common], threshold=threshold)
        for g in sorted(set(names.tolist()) - {""})
    }


def choose_threshold(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The threshold with the best balanced accuracy on these (validation) bags, midway between two scores.

    >>> choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
    0.4

    Raises:
        ParameterError: as `bag_metrics`, or only one class.
    """
    y, score = as_bag_scores(y_true, y_score)
    require_both_classes(y, "a threshold", ": use a stratified split")
    levels = np.unique(score)
    candidates = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else levels
    balanced = [np.mean(score[y == 1] > t) + np.mean(score[y == 0] <= t) for t in candidates]
    best = np.flatnonzero(np.isclose(balanced, np.max(balanced)))
    return float(candidates[best[len(best) // 2]])


def roc_points(y_true: ArrayLike, y_score: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """False positive rate and sensitivity along the ROC curve (scikit-learn's)."""
    fpr, tpr, _ = roc_curve(*as_bag_scores(y_true, y_score))
    return fpr, tpr
