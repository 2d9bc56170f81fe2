"""How well patch scores find tumour patches, where patch labels are known. They measure; no model learns from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mil_tutorial.errors import Found, require, require_integer, require_number
from mil_tutorial.evaluation.weighted import auc, average_precision
from mil_tutorial.geometry import as_labels, as_scores


def _as_known(y_inst: ArrayLike, score: ArrayLike, labels_name: str, score_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of the patches whose label is known."""
    y = as_labels(y_inst, None, parameter=labels_name)
    values = as_scores(score, len(y), parameter=score_name)
    return y[y >= 0], values[y >= 0]


def patch_metrics(y_inst: ArrayLike, score: ArrayLike, threshold: float | None = None) -> dict[str, float]:
    """How well patch scores find tumour patches; unknown patches (-1) are left out.

    Args:
        y_inst: (n,) 1 tumour, 0 normal, -1 unknown.
        score: (n,) higher for tumour.
        threshold: for `dice`; choose it on validation slides with `choose_dice_threshold`.

    Returns:
        auc and average_precision (NaN if only one class is there), pointing (1 if the highest score is on tumour, 0 if
        not; NaN without tumour), prevalence, n, the number of known patches, and dice if a threshold is given.

    Raises:
        ParameterError: other labels, different lengths, scores that are not finite numbers, or a threshold of NaN.
    """
    if threshold is not None:
        require_number("threshold", threshold, finite=False)
    y, values = _as_known(y_inst, score, "y_inst", "score")
    out = {"auc": np.nan, "average_precision": np.nan, "pointing": np.nan, "prevalence": np.nan, "n": len(y)}
    if len(y):
        out["prevalence"] = float(y.mean())
    if 0 < y.sum() < len(y):
        one = np.ones((1, len(y)))
        out["auc"] = float(auc(y, values, one)[0])
        out["average_precision"] = float(average_precision(y, values, one)[0])
    if y.sum():
        out["pointing"] = float(y[values == values.max()].mean())  # patches that tie divide the point
    if threshold is not None:
        out["dice"] = _dice(y, values, threshold)
    return out


def _dice(y: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """2 |A and B| / (|A| + |B|); 1 where nothing is there and nothing was marked."""
    marked = score > threshold
    total = marked.sum() + (y == 1).sum()
    return float(2 * (marked & (y == 1)).sum() / total) if total else 1.0


def choose_dice_threshold(slides: Sequence[tuple[ArrayLike, ArrayLike]], *, candidates: int = 100) -> float:
    """The patch threshold with the highest mean Dice over these (validation) slides with tumour.

    Args:
        slides: (patch labels, scores) of each slide; scores on one scale for all.
        candidates: quantiles of the pooled scores that are tried.

    Raises:
        ParameterError: labels or scores as `patch_metrics` refuses them, or no slide has a tumour patch.
    """
    require_integer("candidates", candidates, low=1)
    known = [_as_known(y, s, f"slides[{i}]", f"slides[{i}]") for i, (y, s) in enumerate(slides)]
    with_tumor = [(y, s) for y, s in known if (y == 1).any()]
    found = Found(f"{len(known)} slides, none of them with a tumour patch")
    require(bool(with_tumor), "slides", found, "at least one with tumour, to choose the threshold by")
    levels = np.unique(np.quantile(np.concatenate([s for _, s in known]), np.linspace(0, 1, candidates)))
    means = [np.mean([_dice(y, s, t) for y, s in with_tumor]) for t in levels]
    return float(levels[int(np.argmax(means))])
