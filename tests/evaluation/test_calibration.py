"""Calibration: the temperature that was applied is found again, and what is no probability is refused."""

import numpy as np
import pytest

from mil_tutorial import ParameterError, bag_metrics, fit_temperature, reliability, scale_by_temperature


def test_temperature_finds_what_was_done():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-z))).astype(int)
    too_sure = 1 / (1 + np.exp(-3 * z))
    t = fit_temperature(y, too_sure)
    assert t == pytest.approx(3, rel=0.1)
    right = scale_by_temperature(too_sure, t)
    before, after = (bag_metrics(y, p, n_bootstrap=0)["calibration_error"].value for p in (too_sure, right))
    assert after < before / 3
    assert (np.diff(right[np.argsort(too_sure)]) >= -1e-9).all(), "the order must stay"
    bins = reliability(y, right)
    assert bins["n"].sum() == 4000 and np.abs(bins["prob"] - bins["frequency"]).max() < 0.1


def test_reliability_counts_by_hand():
    bins = reliability([0, 1, 1, 1], [0.0, 0.1, 0.9, 1.0], bins=2)
    assert bins["n"].tolist() == [2, 2] and bins["frequency"].tolist() == [0.5, 1]
    assert bins["prob"] == pytest.approx([0.05, 0.95])


def test_scaling_keeps_the_shape():
    assert scale_by_temperature([[0.5, 0.5]], 3.0).tolist() == [[0.5, 0.5]] and scale_by_temperature(0.5, 2) == 0.5


@pytest.mark.parametrize("temperature", [-1, 0, np.nan, np.inf, "2", None, True])
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(ParameterError, match=r"^temperature: found .* expected a number above 0"):
        scale_by_temperature([0.1, 0.9], temperature)


@pytest.mark.parametrize("prob", [[0.1, 1.2], [-0.1, 0.5], [0.1, np.nan], ["0.1", "0.9"]])
def test_what_is_no_probability_is_refused(prob):
    for function in (fit_temperature, reliability):
        with pytest.raises(ParameterError, match=r"^prob: found"):
            function([0, 1], prob)
    with pytest.raises(ParameterError, match=r"^prob: found"):
        scale_by_temperature(prob, 2.0)


def test_bad_bins_and_one_class_are_refused():
    for bins in (0, -1, 2.5, "10"):
        with pytest.raises(ParameterError, match=r"^bins: found"):
            reliability([0, 1], [0.1, 0.9], bins=bins)
    with pytest.raises(ParameterError, match="only 1 among the labels, expected bags of both classes"):
        fit_temperature([1, 1], [0.1, 0.9])
