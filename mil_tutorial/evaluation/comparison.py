"""How good is a model on bags it has not seen: metrics with intervals, calibration, comparison of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mil_tutorial.evaluation.metrics import Estimate, SeedSummary, _auc, _check_scores, _draw


@dataclass(frozen=True)
class Comparison:
    """Model A against model B on the same slides: the difference of their AUCs with its interval, and two p values.

    Attributes:
        difference: AUC of A minus AUC of B, 95 % bootstrap interval over slides.
        p_auc: chance of a difference at least this large if the two models' ranks were swapped slide by slide at random.
        p_calls: exact McNemar test: of the slides that only one model calls rightly, is it one model more often?
    """

    difference: Estimate
    p_auc: float
    p_calls: float


def compare_models(
    y_true, score_a, score_b, threshold_a: float = 0.5, threshold_b: float = 0.5, n: int = 2000, seed: int = 0
) -> Comparison:
    """Compare two models on the same slides, paired.

    Raises:
        ValueError: as `bag_metrics`, or only one class.
    """
    y, a = _check_scores(y_true, score_a)
    _, b = _check_scores(y_true, score_b)
    if not 0 < y.sum() < len(y):
        raise ValueError("a comparison needs bags of both classes.")
    one = np.ones((1, len(y)))
    observed = float((_auc(y, a, one) - _auc(y, b, one))[0])
    weights = _draw(y, n, seed)
    low, high = np.quantile(_auc(y, a, weights) - _auc(y, b, weights), (0.025, 0.975))
    # Ranks, because the two models' scores need not be on one scale.
    rank_a, rank_b = stats.rankdata(a), stats.rankdata(b)
    swap = np.random.default_rng(seed + 1).random((n, len(y))) < 0.5
    swapped = [
        _auc(y, np.where(s, rank_b, rank_a), one)[0] - _auc(y, np.where(s, rank_a, rank_b), one)[0] for s in swap
    ]
    p_auc = (1 + np.sum(np.abs(swapped) >= abs(observed) - 1e-12)) / (1 + n)
    right_a, right_b = (a > threshold_a) == (y == 1), (b > threshold_b) == (y == 1)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_calls = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Comparison(Estimate(observed, float(low), float(high)), float(p_auc), float(p_calls))


def summarize_seeds(estimates: Sequence[Estimate]) -> SeedSummary:
    """Put the runs of several seeds together: the spread between seeds apart from the interval over slides."""
    if not estimates:
        raise ValueError("no runs to summarize.")
    values = [e.value for e in estimates]
    sampling = (float(np.mean([e.low for e in estimates])), float(np.mean([e.high for e in estimates])))
    return SeedSummary(
        float(np.mean(values)), float(np.std(values, ddof=min(1, len(values) - 1))), sampling, tuple(values)
    )
