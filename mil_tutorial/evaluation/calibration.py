"""How good is a model on bags it has not seen: metrics with intervals, calibration, comparison of models."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special

from mil_tutorial.evaluation.metrics import _check_scores


def fit_temperature(y_true: np.ndarray, prob: np.ndarray) -> float:
    """The temperature T that makes sigmoid(logit / T) most likely on these (validation) bags. Above 1: the model was too sure.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Raises:
        ValueError: as `bag_metrics`, or only one class.
    """
    y, p = _check_scores(y_true, prob)
    if not 0 < y.sum() < len(y):
        raise ValueError("a temperature needs bags of both classes. Use a stratified split.")
    logits = special.logit(np.clip(p, 1e-12, 1 - 1e-12))

    def cost(log_t):
        z = logits / np.exp(log_t)
        return np.mean(np.logaddexp(0, z) - y * z)

    return float(np.exp(optimize.minimize_scalar(cost, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def scale_by_temperature(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities after temperature scaling; their order, and so the AUC, stays."""
    p = np.clip(np.asarray(prob, np.float64), 1e-12, 1 - 1e-12)
    return special.expit(special.logit(p) / temperature)


def reliability(y_true: np.ndarray, prob: np.ndarray, bins: int = 10) -> dict[str, np.ndarray]:
    """For a reliability plot: in each bin of equal width that is not empty, mean probability, frequency of tumour, number of bags."""
    y, p = _check_scores(y_true, prob)
    place = np.minimum((p * bins).astype(int), bins - 1)
    used = np.unique(place)
    return {
        "prob": np.array([p[place == b].mean() for b in used]),
        "frequency": np.array([y[place == b].mean() for b in used]),
        "n": np.array([(place == b).sum() for b in used]),
    }
