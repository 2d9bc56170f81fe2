"""Where did the answer come from: scores of patches, and tests of whether a score tells the truth about the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.stats import spearmanr


@dataclass(frozen=True)
class Curve:
    """Probability of tumour while patches are taken away or added.

    Attributes:
        share: (steps,) of the bag's patches that are gone (deletion) or there (insertion).
        prob: (steps,) the model's probability.
        area: under the curve.
    """

    share: np.ndarray
    prob: np.ndarray
    area: float


@torch.inference_mode()
def _probabilities(
    model: torch.nn.Module, X: torch.Tensor, order: np.ndarray, kept: list[int], delete: bool
) -> np.ndarray:
    found = []
    for k in kept:
        index = order[len(order) - k :] if delete else order[:k]
        found.append(torch.sigmoid(model(X[torch.from_numpy(index.copy())][None]))[0])
    return torch.stack(found).double().cpu().numpy()


def deletion_insertion(
    model: torch.nn.Module, X: torch.Tensor, score: np.ndarray, steps: int = 20, n_random: int = 10, seed: int = 0
) -> dict[str, Curve]:
    """Take patches away from the highest score on (deletion), and put them in from the highest on (insertion).

    A faithful score makes the deletion curve fall early (small area) and the insertion curve rise early (large area), earlier
    than a random order does. A bag keeps at least one patch, since an empty one has no answer.

    Args:
        model: takes (1, n, D).
        X: (n, D) features of one bag with tumour.
        score: (n,) of its patches.
        steps: points of a curve.
        n_random: random orders whose mean stands for chance.
        seed: of the random orders.

    Returns:
        `deletion`, `insertion`, `random deletion`, `random insertion`.

    Raises:
        ValueError: not one finite score for each patch.

    Source: Petsiuk, Das, Saenko, "RISE", BMVC 2018, for bags.
    """
    score = np.asarray(score, np.float64).ravel()
    n = len(X)
    if len(score) != n or not np.isfinite(score).all():
        raise ValueError(f"{len(score)} scores ({int((~np.isfinite(score)).sum())} not finite) for {n} patches.")
    model.eval()
    X = X.to(next(model.parameters()).device)
    there = sorted({max(1, round(k)) for k in np.linspace(n, 1, steps)}, reverse=True)
    rng = np.random.default_rng(seed)
    orders = {"": np.argsort(-score, kind="stable"), "random ": [rng.permutation(n) for _ in range(n_random)]}
    curves = {}
    for name, order in orders.items():
        for delete in (True, False):
            many = order if name else [order]
            prob = np.mean([_probabilities(model, X, o, there, delete) for o in many], axis=0)
            share = np.array([1 - k / n if delete else k / n for k in there])
            if not delete:
                share, prob = share[::-1], prob[::-1]
            area = float(trapezoid(prob, share) / max(np.ptp(share), 1e-12)) if len(share) > 1 else float(prob[0])
            curves[name + ("deletion" if delete else "insertion")] = Curve(share, prob, area)
    return curves


def seed_agreement(scores: list[np.ndarray]) -> float:
    """Mean Spearman correlation between the patch scores of one bag from several runs; NaN if a run is constant.

    Raises:
        ValueError: fewer than two runs, or other numbers of patches.
    """
    if len(scores) < 2 or len({len(s) for s in scores}) > 1:
        raise ValueError("agreement needs the scores of at least two runs on the same patches.")
    pairs = [(a, b) for i, a in enumerate(scores) for b in scores[i + 1 :]]
    if any(np.ptp(s) == 0 for s in scores) or len(scores[0]) < 2:
        return float("nan")
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs]))
