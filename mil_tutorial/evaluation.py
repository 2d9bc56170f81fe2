"""How good is a model on bags it has not seen: metrics with intervals, and the threshold that goes with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn import metrics


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

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


def _values(y, score, threshold) -> dict[str, float]:
    said = (score > threshold).astype(int)
    out = {
        "accuracy": metrics.accuracy_score(y, said),
        "balanced_accuracy": np.mean([np.mean(said[y == c] == c) for c in np.unique(y)]),
        "f1": metrics.f1_score(y, said, zero_division=0),
        "sensitivity": metrics.recall_score(y, said, zero_division=np.nan),
        "specificity": metrics.recall_score(y, said, pos_label=0, zero_division=np.nan),
    }
    both = 0 < y.sum() < len(y)
    out["auc"] = metrics.roc_auc_score(y, score) if both else np.nan
    out["average_precision"] = metrics.average_precision_score(y, score) if both else np.nan
    if score.min() >= 0 and score.max() <= 1:
        out["brier"] = np.mean((score - y) ** 2)
    return {k: float(v) for k, v in out.items()}


def bag_metrics(
    y_true: np.ndarray, y_score: np.ndarray, threshold: float = 0.5, n_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Metrics of bag predictions with 95 % intervals, bootstrapped within each class.

    Args:
        y_true: (bags,) of 0 and 1.
        y_score: (bags,) probabilities or other scores, higher for tumour.
        threshold: a bag is called tumour above it. Choose it on validation bags, never on these.
        n_bootstrap: resamples; 0 gives intervals of NaN.

    Returns:
        accuracy, balanced_accuracy, f1, sensitivity, specificity, auc, average_precision, and brier if scores are in [0, 1].
        What one class alone cannot define (AUC, average precision, one of sensitivity and specificity) is NaN.

    Raises:
        ValueError: labels other than 0 and 1, scores NaN or infinite, different lengths, or none.
    """
    y, score = _check_scores(y_true, y_score)
    point = _values(y, score, threshold)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == c) for c in (0, 1)]
    draws = []
    for _ in range(n_bootstrap):
        pick = np.concatenate([rng.choice(g, len(g)) for g in groups if len(g)])
        draws.append(_values(y[pick], score[pick], threshold))
    out = {}
    for name, value in point.items():
        low, high = (
            np.quantile([d[name] for d in draws], (0.025, 0.975)) if draws and np.isfinite(value) else (np.nan, np.nan)
        )
        out[name] = Estimate(value, float(low), float(high))
    return out


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


def patch_metrics(y_inst: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """How well patch scores find tumour patches; unknown patches (-1) are left out.

    Returns:
        auc and average_precision (NaN if only one class is there), prevalence, and n, the number of known patches.

    Raises:
        ValueError: different lengths, or scores NaN or infinite.
    """
    y, score = np.asarray(y_inst).ravel(), np.asarray(score, np.float64).ravel()
    if y.shape != score.shape:
        raise ValueError(f"{len(y)} patch labels and {len(score)} scores, expected the same number.")
    known = y >= 0
    if not known.any():
        return {"auc": np.nan, "average_precision": np.nan, "prevalence": np.nan, "n": 0}
    values = _values(*_check_scores(y[known], score[known]), threshold=0.5)
    return {
        "auc": values["auc"],
        "average_precision": values["average_precision"],
        "prevalence": float(y[known].mean()),
        "n": int(known.sum()),
    }
