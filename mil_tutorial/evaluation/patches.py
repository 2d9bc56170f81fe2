"""How good is a model on bags it has not seen: metrics with intervals, calibration, comparison of models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mil_tutorial.evaluation.metrics import _auc, _average_precision, _check_scores


def patch_metrics(y_inst: np.ndarray, score: np.ndarray, threshold: float | None = None) -> dict[str, float]:
    """How well patch scores find tumour patches; unknown patches (-1) are left out.

    Args:
        y_inst: (n,) 1 tumour, 0 normal, -1 unknown.
        score: (n,) higher for tumour.
        threshold: for `dice`; choose it on validation slides with `choose_dice_threshold`.

    Returns:
        auc and average_precision (NaN if only one class is there), pointing (1 if the highest score lies on tumour, 0 if not;
        NaN without tumour), prevalence, n, the number of known patches, and dice if a threshold is given.

    Raises:
        ValueError: different lengths, or scores NaN or infinite.
    """
    y, score = np.asarray(y_inst).ravel(), np.asarray(score, np.float64).ravel()
    if y.shape != score.shape:
        raise ValueError(f"{len(y)} patch labels and {len(score)} scores, expected the same number.")
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are NaN or infinite.")
    known = y >= 0
    y, score = y[known], score[known]
    out = {"auc": np.nan, "average_precision": np.nan, "pointing": np.nan, "prevalence": np.nan, "n": len(y)}
    if len(y):
        y, score = _check_scores(y, score)
        out["prevalence"] = float(y.mean())
    if 0 < y.sum() < len(y):
        one = np.ones((1, len(y)))
        out["auc"], out["average_precision"] = (
            float(_auc(y, score, one)[0]),
            float(_average_precision(y, score, one)[0]),
        )
    if y.sum():
        out["pointing"] = float(y[score == score.max()].mean())  # ties share the point
    if threshold is not None:
        out["dice"] = _dice(y, score, threshold)
    return out


def _dice(y: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """2 |A and B| / (|A| + |B|); 1 where nothing is there and nothing was marked."""
    said = score > threshold
    total = said.sum() + (y == 1).sum()
    return float(2 * (said & (y == 1)).sum() / total) if total else 1.0


def choose_dice_threshold(slides: Sequence[tuple[np.ndarray, np.ndarray]], candidates: int = 100) -> float:
    """The patch threshold with the highest mean Dice over these (validation) slides with tumour.

    Args:
        slides: (patch labels, scores) of each slide; scores on one scale for all.
        candidates: quantiles of the pooled scores that are tried.

    Raises:
        ValueError: no slide has a tumour patch.
    """
    known = [(np.asarray(y)[np.asarray(y) >= 0], np.asarray(s, np.float64)[np.asarray(y) >= 0]) for y, s in slides]
    with_tumor = [(y, s) for y, s in known if (y == 1).any()]
    if not with_tumor:
        raise ValueError("no slide has a tumour patch, so there is nothing to choose a threshold by.")
    levels = np.unique(np.quantile(np.concatenate([s for _, s in known]), np.linspace(0, 1, candidates)))
    means = [np.mean([_dice(y, s, t) for y, s in with_tumor]) for t in levels]
    return float(levels[int(np.argmax(means))])
