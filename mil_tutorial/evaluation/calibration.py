"""Calibration: do bags of predicted probability 0.9 have tumour nine times in ten, and what to do if not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from mil_tutorial.errors import require_integer, require_number
from mil_tutorial.evaluation.weighted import BINS, as_bag_scores, as_probabilities, bin_of, require_both_classes


def _logit(prob: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(prob, 1e-12, 1 - 1e-12))


def fit_temperature(y_true: ArrayLike, prob: ArrayLike) -> float:
    """The temperature T that makes sigmoid(logit / T) most likely on these (validation) bags.

    Above 1: the model was too sure.

    Args:
        y_true: (bags,) of 0 and 1.
        prob: (bags,) predicted probabilities of tumour.

    Raises:
        ParameterError: as `bag_metrics`, `prob` outside [0, 1], or only one class.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    y, p = as_bag_scores(y_true, prob, parameter="prob", probability=True)
    require_both_classes(y, "a temperature", ": use a stratified split")
    logits = _logit(p)

    def cost(log_t: float) -> float:
        z = logits / np.exp(log_t)
        return np.mean(np.logaddexp(0, z) - y * z)

    return float(np.exp(optimize.minimize_scalar(cost, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def scale_by_temperature(prob: ArrayLike, temperature: float) -> np.ndarray:
    """Probabilities after temperature scaling, in their shape; their order, and so the AUC, stays.

    >>> scale_by_temperature([0.5, 0.9], 2.0).round(2)
    array([0.5 , 0.75])

    Args:
        prob: predicted probabilities.
        temperature: above 0; above 1 it makes them less sure.

    Raises:
        ParameterError: `prob` is outside [0, 1], or the temperature is not above 0.
    """
    require_number("temperature", temperature, low=0, open_low=True)
    return special.expit(_logit(as_probabilities(prob, parameter="prob")) / temperature)


def reliability(y_true: ArrayLike, prob: ArrayLike, *, bins: int = BINS) -> dict[str, np.ndarray]:
    """For a reliability plot: what was predicted and what was true, in bins of equal width.

    Args:
        y_true: (bags,) of 0 and 1.
        prob: (bags,) predicted probabilities of tumour.
        bins: how many.

    Returns:
        For each bin that is not empty: `prob`, the mean probability, `frequency` of tumour, `n`, the number of bags.

    Raises:
        ParameterError: as `bag_metrics`, `prob` outside [0, 1], or no bins.
    """
    require_integer("bins", bins, low=1)
    y, p = as_bag_scores(y_true, prob, parameter="prob", probability=True)
    place = bin_of(p, bins)
    used = np.unique(place)
    return {
        "prob": np.array([p[place == b].mean() for b in used]),
        "frequency": np.array([y[place == b].mean() for b in used]),
        "n": np.array([(place == b).sum() for b in used]),
    }
