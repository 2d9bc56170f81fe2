"""Does a score of patches tell the truth about the model: take patches away and look, or train again and compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from scipy.stats import spearmanr

from mil_tutorial.errors import Found, require, require_integer
from mil_tutorial.geometry import as_scores
from mil_tutorial.localization.scores import as_bag


@dataclass(frozen=True)
class Curve:
    """Probability of tumour while patches are taken away or added.

    Attributes:
        share: (steps,) fraction of the bag's patches that are gone (deletion) or there (insertion).
        prob: (steps,) the model's probability.
        area: under the curve.
    """

    share: np.ndarray
    prob: np.ndarray
    area: float


@torch.inference_mode()
def _probabilities(
    model: torch.nn.Module, X: torch.Tensor, order: np.ndarray, kept: Sequence[int], *, delete: bool
) -> np.ndarray:
    """The model's probability (steps,) with `kept` patches: the last of the order (delete) or the first."""
    probabilities = []
    for k in kept:
        index = order[len(order) - k :] if delete else order[:k]
        probabilities.append(torch.sigmoid(model(X[torch.from_numpy(index.copy())][None]))[0])
    return torch.stack(probabilities).double().cpu().numpy()


def _mean_curve(
    model: torch.nn.Module, X: torch.Tensor, orders: Sequence[np.ndarray], kept: Sequence[int], *, delete: bool
) -> Curve:
    """The curve of one order, or the mean of several orders' curves."""
    prob = np.mean([_probabilities(model, X, order, kept, delete=delete) for order in orders], axis=0)
    fraction = np.array([1 - k / len(X) if delete else k / len(X) for k in kept])
    if not delete:
        fraction, prob = fraction[::-1], prob[::-1]
    if len(fraction) == 1:
        return Curve(fraction, prob, float(prob[0]))
    return Curve(fraction, prob, float(trapezoid(prob, fraction) / max(np.ptp(fraction), 1e-12)))


def deletion_insertion(
    model: torch.nn.Module, X: torch.Tensor, score: ArrayLike, *, steps: int = 20, n_random: int = 10, seed: int = 0
) -> dict[str, Curve]:
    """Take patches away from the highest score on (deletion), and put them in from the highest on (insertion).

    A faithful score makes the deletion curve fall early (small area) and the insertion curve rise early (large area),
    earlier than a random order does. A bag keeps at least one patch, since an empty one has no answer.

    Args:
        model: takes (1, n, D).
        X: (n, D) features of one bag with tumour.
        score: (n,) of its patches.
        steps: points of a curve.
        n_random: random orders whose mean shows what chance gives.
        seed: of the random orders.

    Returns:
        `deletion`, `insertion`, `random deletion`, `random insertion`.

    Raises:
        ParameterError: not one finite score for each patch, X not a finite tensor (n, D), or an option below its range.

    Source: Petsiuk, Das, Saenko, "RISE", BMVC 2018, for bags.
    """
    require_integer("steps", steps, low=1)
    require_integer("n_random", n_random, low=1)
    require_integer("seed", seed, low=0)
    X = as_bag(model, X)
    n = len(X)
    score = as_scores(score, n)
    model.eval()
    kept = sorted({max(1, round(k)) for k in np.linspace(n, 1, steps)}, reverse=True)
    rng = np.random.default_rng(seed)
    by_score, at_random = [np.argsort(-score, kind="stable")], [rng.permutation(n) for _ in range(n_random)]
    return {
        "deletion": _mean_curve(model, X, by_score, kept, delete=True),
        "insertion": _mean_curve(model, X, by_score, kept, delete=False),
        "random deletion": _mean_curve(model, X, at_random, kept, delete=True),
        "random insertion": _mean_curve(model, X, at_random, kept, delete=False),
    }


def seed_agreement(scores: Sequence[ArrayLike]) -> float:
    """Mean Spearman correlation between the patch scores of one bag from several runs; NaN if a run is constant.

    >>> seed_agreement([[1, 2, 3], [10, 20, 30]])
    1.0

    Raises:
        ParameterError: fewer than two runs, other numbers of patches, or scores that are not finite numbers.
    """
    runs = [as_scores(s, None, parameter=f"scores[{i}]") for i, s in enumerate(scores)]
    lengths = sorted({len(r) for r in runs})
    found = Found(f"{len(runs)} runs" + (f" on {' and '.join(map(str, lengths))} patches" if lengths else ""))
    require(len(runs) > 1 and len(lengths) == 1, "scores", found, "at least two runs on the same patches")
    if any(np.ptp(r) == 0 for r in runs if len(r)) or lengths[0] < 2:
        return float("nan")
    return float(np.mean([spearmanr(a, b).statistic for i, a in enumerate(runs) for b in runs[i + 1 :]]))
