"""How good is a model on bags it has not seen: metrics with intervals, calibration, comparison of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from sklearn.metrics import roc_curve


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _check_scores(y_true, y_score) -> tuple[np.ndarray, np.ndarray]:
    y, score = np.asarray(y_true).ravel(), np.asarray(y_score, np.float64).ravel()
    if y.shape != score.shape or not len(y):
        raise ValueError(f"{len(y)} labels and {len(score)} scores, expected the same number and at least one.")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels {sorted(set(y.tolist()) - {0, 1})} found, expected only 0 and 1.")
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are NaN or infinite.")
    return y.astype(np.int64), score


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _auc(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of pairs (tumour, normal) in the right order, ties counting half, for each row of weights (B, n)."""
    positive, negative = score[y == 1], score[y == 0]
    order = np.sign(positive[:, None] - negative[None]) / 2 + 0.5  # (P, N): 1, 1/2 or 0
    p, n = weights[:, y == 1], weights[:, y == 0]
    return _divide(np.einsum("bp,bp->b", p, n @ order.T), p.sum(1) * n.sum(1))


def _curve(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (B, k) at each distinct score as the threshold, from the highest."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # the last of those that tie
    w = weights[:, order]
    return np.cumsum(w * (y[order] == 1), 1)[:, last], np.cumsum(w * (y[order] == 0), 1)[:, last]


def _average_precision(y, score, weights):
    tp, fp = _curve(y, score, weights)
    recall = _divide(tp, tp[:, -1:])
    return (np.diff(recall, axis=1, prepend=0) * np.nan_to_num(_divide(tp, tp + fp))).sum(1)


def _sensitivity_at(y, score, weights, specificity):
    """The highest sensitivity of a threshold whose specificity is at least this."""
    tp, fp = _curve(y, score, weights)
    allowed = fp <= (1 - specificity) * fp[:, -1:] + 1e-9
    return np.max(np.where(allowed, _divide(tp, tp[:, -1:]), 0.0), axis=1)


def _calibration_error(y, prob, weights, bins=10):
    """Expected calibration error: the gap between probability and frequency, over bins of equal width, weighed by their bags."""
    place = np.minimum((prob * bins).astype(int), bins - 1)
    inside = np.eye(bins)[place]  # (n, bins)
    gap = np.abs((weights * (prob - y)) @ inside)  # (B, bins): bags times the gap of their means
    return gap.sum(1) / weights.sum(1)


def _values(y, score, threshold, weights, specificity) -> dict[str, np.ndarray]:
    """Each metric for each row of weights (B, n): how often a bag was drawn."""
    said, total = score > threshold, weights.sum(1)
    tp, fp, fn, tn = (
        weights[:, m].sum(1) for m in (said & (y == 1), said & (y == 0), ~said & (y == 1), ~said & (y == 0))
    )
    sensitivity, specific = _divide(tp, tp + fn), _divide(tn, tn + fp)
    both = 0 < y.sum() < len(y)
    nothing = np.full(len(weights), np.nan)
    out = {
        "accuracy": (tp + tn) / total,
        "balanced_accuracy": np.nanmean([sensitivity, specific], axis=0),
        "f1": np.nan_to_num(_divide(2 * tp, 2 * tp + fp + fn)),
        "sensitivity": sensitivity,
        "specificity": specific,
        "auc": _auc(y, score, weights) if both else nothing,
        "average_precision": _average_precision(y, score, weights) if both else nothing,
        f"sensitivity_at_{specificity:g}_specificity": _sensitivity_at(y, score, weights, specificity)
        if both
        else nothing,
    }
    if score.min() >= 0 and score.max() <= 1:
        out["brier"] = (weights * (score - y) ** 2).sum(1) / total
        out["calibration_error"] = _calibration_error(y, score, weights)
    return out


def _draw(y: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each bag is drawn in each of n bootstraps, (n, bags): with replacement, within each class."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((n, len(y)))
    for c in (0, 1):
        members = np.flatnonzero(y == c)
        if len(members):
            weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), n)
    return weights


def auc_interval(y_true: np.ndarray, y_score: np.ndarray, level: float = 0.95) -> Estimate:
    """AUC with an interval that keeps its word on small test sets: DeLong's variance, on the logit scale.

    The plain bootstrap's interval is too narrow there. Source: DeLong, DeLong, Clarke-Pearson, Biometrics 1988; the logit as in
    Pepe, The Statistical Evaluation of Medical Tests, 2003.

    Raises:
        ValueError: as `bag_metrics`, or only one class.
    """
    y, score = _check_scores(y_true, y_score)
    if not 0 < y.sum() < len(y):
        raise ValueError("the AUC needs bags of both classes.")
    order = np.sign(score[y == 1][:, None] - score[y == 0][None]) / 2 + 0.5
    auc = float(order.mean())
    variance = sum(
        np.var(order.mean(axis), ddof=1) / n for axis, n in ((1, order.shape[0]), (0, order.shape[1])) if n > 1
    )
    if variance == 0 or auc in (
        0,
        1,
    ):  # perfect order, or all ties: as for a proportion of which nothing, or all, was seen
        reach = 1 - (0.5 - level / 2) ** (1 / min(order.shape))
        return Estimate(auc, auc - reach * auc, auc + reach * (1 - auc))
    width = stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (auc * (1 - auc))
    low, high = special.expit(special.logit(auc) + np.array([-width, width]))
    return Estimate(auc, float(low), float(high))


def bag_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    threshold: float = 0.5,
    n_bootstrap: int = 2000,
    seed: int = 0,
    specificity: float = 0.9,
) -> dict[str, Estimate]:
    """Metrics of bag predictions with 95 % intervals, bootstrapped within each class.

    Args:
        y_true: (bags,) of 0 and 1.
        y_score: (bags,) probabilities or other scores, higher for tumour.
        threshold: a bag is called tumour above it. Choose it on validation bags, never on these.
        n_bootstrap: resamples; 0 gives intervals of NaN.
        specificity: for `sensitivity_at_<...>_specificity`, the best sensitivity on the ROC curve at this specificity.

    Returns:
        accuracy, balanced_accuracy, f1, sensitivity, specificity, auc, average_precision, `sensitivity_at_<...>_specificity`, and,
        if scores are in [0, 1], brier and calibration_error (10 bins of equal width). The interval of the AUC is
        `auc_interval`'s; accuracy, sensitivity and specificity of 0 or 1 have the exact binomial one. What one class alone cannot define is NaN.

    Raises:
        ValueError: labels other than 0 and 1, scores NaN or infinite, different lengths, or none.
    """
    y, score = _check_scores(y_true, y_score)
    point = _values(y, score, threshold, np.ones((1, len(y))), specificity)
    draws = _values(y, score, threshold, _draw(y, n_bootstrap, seed), specificity) if n_bootstrap else {}
    out = {}
    for name, value in point.items():
        drawn = draws.get(name, np.empty(0))
        low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) and np.isfinite(value[0]) else (np.nan, np.nan)
        if name in ("accuracy", "sensitivity", "specificity") and low == high:
            # All right or all wrong: the bootstrap sees no chance in it. The exact binomial interval does.
            n = {"accuracy": len(y), "sensitivity": int((y == 1).sum()), "specificity": int((y == 0).sum())}[name]
            low, high = stats.binomtest(round(value[0] * n), n).proportion_ci()
        out[name] = Estimate(float(value[0]), float(low), float(high))
    if n_bootstrap and np.isfinite(out["auc"].value):
        out["auc"] = auc_interval(y, score)
    return out


def metrics_by_group(y_true, y_score, groups: Sequence[str], threshold: float = 0.5) -> dict[str, dict[str, Estimate]]:
    """`bag_metrics` within each group, such as a lesion size or a scanner.

    Normal slides have no lesion size: give them the group "" to set them against each of the others.
    """
    y, score = _check_scores(y_true, y_score)
    groups = np.asarray([str(g) for g in groups])
    if len(groups) != len(y):
        raise ValueError(f"{len(groups)} groups for {len(y)} bags, expected one for each.")
    common = groups == ""
    return {
        g: bag_metrics(y[(groups == g) | common], score[(groups == g) | common], threshold)
        for g in sorted(set(groups) - {""})
    }


@dataclass(frozen=True)
class SeedSummary:
    """Several runs of one recipe: mean over seeds, their standard deviation, and the mean width of a run's own interval.

    `spread` says how much luck is in the training, `sampling` how much is in the choice of test slides. Both are needed.
    """

    mean: float
    spread: float
    sampling: tuple[float, float]
    values: tuple[float, ...]

    def __str__(self) -> str:
        low, high = self.sampling
        return f"{self.mean:.3f} over {len(self.values)} seeds (deviation {self.spread:.3f}), other slides [{low:.3f}, {high:.3f}]"


def choose_threshold(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """The threshold with the best balanced accuracy on these (validation) bags, midway between two scores.

    Raises:
        ValueError: as `bag_metrics`, or only one class.
    """
    y, score = _check_scores(y_true, y_score)
    if not 0 < y.sum() < len(y):
        raise ValueError("a threshold needs bags of both classes. Use a stratified split.")
    levels = np.unique(score)
    candidates = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else levels
    balanced = [np.mean(score[y == 1] > t) + np.mean(score[y == 0] <= t) for t in candidates]
    best = np.flatnonzero(np.isclose(balanced, np.max(balanced)))
    return float(candidates[best[len(best) // 2]])


def roc_points(y_true: np.ndarray, y_score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False positive rate and sensitivity along the ROC curve (scikit-learn's)."""
    fpr, tpr, _ = roc_curve(*_check_scores(y_true, y_score))
    return fpr, tpr


def as_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates as plain numbers; NaN, which JSON does not know, becomes null."""
    return {name: {k: (None if np.isnan(v) else v) for k, v in vars(e).items()} for name, e in metrics.items()}
