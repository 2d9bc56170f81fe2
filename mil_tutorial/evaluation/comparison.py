"""Compare: two models on the same slides, and the runs of one recipe over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mil_tutorial.errors import require, require_integer, require_number
from mil_tutorial.evaluation.metrics import Estimate
from mil_tutorial.evaluation.weighted import as_bag_scores, auc, require_both_classes, resample


@dataclass(frozen=True)
class Comparison:
    """Model A against model B on the same slides: the difference of their AUCs with its interval, and two p values.

    Attributes:
        difference: AUC of A minus AUC of B, 95 % bootstrap interval over slides.
        p_auc: chance of a difference at least this large if the models' ranks were swapped slide by slide at random.
        p_calls: exact McNemar test: of the slides that only one model gets right, does one model get more of them?
    """

    difference: Estimate
    p_auc: float
    p_calls: float


def compare_models(
    y_true: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    threshold_a: float = 0.5,
    threshold_b: float = 0.5,
    *,
    n: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same slides, paired.

    Args:
        y_true: (slides,) of 0 and 1.
        score_a, score_b: (slides,) of the two models; they need not be on one scale.
        threshold_a, threshold_b: a slide is predicted tumour above it.
        n: bootstrap resamples, and random swaps.
        seed: of both.

    Raises:
        ParameterError: as `bag_metrics`, or only one class.
    """
    require_number("threshold_a", threshold_a, finite=False)
    require_number("threshold_b", threshold_b, finite=False)
    require_integer("n", n, low=1)
    require_integer("seed", seed, low=0)
    y, a = as_bag_scores(y_true, score_a, parameter="score_a")
    _, b = as_bag_scores(y_true, score_b, parameter="score_b")
    require_both_classes(y, "a comparison")
    one = np.ones((1, len(y)))
    observed = float((auc(y, a, one) - auc(y, b, one))[0])
    weights = resample(y, n, seed)
    low, high = np.quantile(auc(y, a, weights) - auc(y, b, weights), (0.025, 0.975))
    # Ranks, because the two models' scores need not be on one scale.
    rank_a, rank_b = stats.rankdata(a), stats.rankdata(b)
    swap = np.random.default_rng(seed + 1).random((n, len(y))) < 0.5
    swapped = [auc(y, np.where(s, rank_b, rank_a), one)[0] - auc(y, np.where(s, rank_a, rank_b), one)[0] for s in swap]
    p_auc = (1 + np.sum(np.abs(swapped) >= abs(observed) - 1e-12)) / (1 + n)
    right_a, right_b = (a > threshold_a) == (y == 1), (b > threshold_b) == (y == 1)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_calls = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Comparison(Estimate(observed, float(low), float(high)), float(p_auc), float(p_calls))


@dataclass(frozen=True)
class SeedSummary:
    """Several runs of one recipe: mean over seeds, their standard deviation, and the mean ends of a run's own interval.

    `spread` says how much luck is in the training, `sampling` how much in the choice of test slides. Both are needed.
    """

    mean: float
    spread: float
    sampling: tuple[float, float]
    values: tuple[float, ...]

    def __str__(self) -> str:
        low, high = self.sampling
        seeds = f"{len(self.values)} seeds (deviation {self.spread:.3f})"
        return f"{self.mean:.3f} over {seeds}, other slides [{low:.3f}, {high:.3f}]"


def summarize_seeds(estimates: Sequence[Estimate]) -> SeedSummary:
    """Put the runs of several seeds together: the spread between seeds apart from the interval over slides.

    Raises:
        ParameterError: no runs, or not one `Estimate` for each.
    """
    good = len(estimates) > 0 and all(isinstance(e, Estimate) for e in estimates)
    require(
        good, "estimates", estimates, "one Estimate for each run, such as bag_metrics(...)['auc'], and at least one"
    )
    values = [e.value for e in estimates]
    sampling = (float(np.mean([e.low for e in estimates])), float(np.mean([e.high for e in estimates])))
    spread = float(np.std(values, ddof=min(1, len(values) - 1)))
    return SeedSummary(float(np.mean(values)), spread, sampling, tuple(values))
