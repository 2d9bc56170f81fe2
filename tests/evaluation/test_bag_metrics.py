"""Metrics that equal scikit-learn's, intervals that cover the truth as often as they promise, input that is refused."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn import metrics

from mil_tutorial import (
    ParameterError,
    auc_interval,
    bag_metrics,
    choose_threshold,
    metrics_by_group,
    roc_points,
)
from mil_tutorial.evaluation.metrics import as_json


def scores(n=60, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    y[:2] = 0, 1
    p = np.clip(0.5 + 0.25 * (2 * y - 1) * rng.random(n) + rng.normal(0, 0.2, n), 0, 1)
    return y, np.round(p, 1) if ties else p


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_values_are_scikit_learn_s(seed, ties):
    y, p = scores(seed=seed, ties=ties)
    values = {k: e.value for k, e in bag_metrics(y, p, threshold=0.45, n_bootstrap=0).items()}
    predicted = p > 0.45
    fpr, tpr, _ = metrics.roc_curve(y, p, drop_intermediate=False)
    wanted = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
        "f1": metrics.f1_score(y, predicted),
        "sensitivity": metrics.recall_score(y, predicted),
        "specificity": metrics.recall_score(y, predicted, pos_label=0),
        "auc": metrics.roc_auc_score(y, p),
        "average_precision": metrics.average_precision_score(y, p),
        "brier": metrics.brier_score_loss(y, p),
        "sensitivity_at_0.9_specificity": tpr[fpr <= 0.1 + 1e-9].max(),
    }
    for name, value in wanted.items():
        assert values[name] == pytest.approx(value, abs=1e-9), name
    bins = np.minimum((p * 10).astype(int), 9)
    error = sum(abs(p[bins == b].mean() - y[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins))
    assert values["calibration_error"] == pytest.approx(error)


def test_values_by_hand():
    result = bag_metrics([1, 1, 0, 0, 0], [0.9, 0.4, 0.6, 0.2, 0.1], n_bootstrap=200)
    values = {k: v.value for k, v in result.items()}
    assert values["accuracy"] == 0.6 and values["sensitivity"] == 0.5 and values["specificity"] == pytest.approx(2 / 3)
    assert values["f1"] == 0.5 and values["auc"] == pytest.approx(5 / 6)
    assert values["brier"] == pytest.approx(np.mean([0.01, 0.36, 0.36, 0.04, 0.01]))
    assert all(e.low <= e.value <= e.high for e in result.values())


def test_intervals_hold_the_value_and_repeat():
    y, p = scores()
    first, second = bag_metrics(y, p), bag_metrics(y, p)
    assert first == second
    assert all(e.low <= e.value <= e.high for k, e in first.items() if k != "calibration_error")


def test_auc_intervals_cover_the_truth():
    """500 made-up test sets of 25 normal and 19 tumour slides, as ours; the truth is known."""
    truth, hits = 0.88, 0
    for seed in range(500):
        rng = np.random.default_rng(10_000 + seed)
        y = np.repeat([0, 1], [25, 19])
        interval = auc_interval(y, rng.normal(size=44) + y * norm.ppf(truth) * np.sqrt(2))
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / 500 <= 0.98, hits


@pytest.mark.parametrize("p,auc", [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5)])
def test_auc_intervals_at_the_edge(p, auc):
    interval = auc_interval([0, 0, 1, 1], p)
    assert interval.value == auc and 0 <= interval.low <= auc <= interval.high <= 1
    assert interval.high - interval.low > 0.2


def test_all_right_still_has_an_interval():
    result = bag_metrics([0] * 10 + [1] * 8, [0.1] * 10 + [0.9] * 8)
    for name in ("accuracy", "sensitivity", "specificity"):
        assert result[name].value == result[name].high == 1 and 0.5 < result[name].low < 0.9


def test_what_one_class_cannot_define_is_nan():
    one = bag_metrics([1, 1, 1], [0.2, 0.8, 0.9])
    assert np.isnan(one["auc"].value) and np.isnan(one["specificity"].value)
    assert one["sensitivity"].value == pytest.approx(2 / 3)
    assert as_json(one)["auc"]["value"] is None and json.dumps(as_json(one), allow_nan=False)
    for needs_both in (auc_interval, choose_threshold):
        with pytest.raises(ParameterError, match="both classes"):
            needs_both([1, 1], [0.1, 0.2])


def test_the_threshold_is_midway():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.3, 0.7, 0.9]) == 0.5


def test_groups_are_compared_with_common_normal_slides():
    y, p = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.9, 0.3, 0.2])
    result = metrics_by_group(y, p, ["", "", "macro", "micro", "micro"])
    assert list(result) == ["macro", "micro"]
    assert result["macro"]["auc"].value == 1.0 and result["micro"]["sensitivity"].value == 0.0


def test_tensors_booleans_and_whole_floats_are_read():
    wanted = auc_interval([0, 1, 1], [0.5, 0.25, 0.75])
    assert auc_interval(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.5, 0.25, 0.75])) == wanted
    assert auc_interval(np.array([False, True, True]), np.float32([0.5, 0.25, 0.75])) == wanted
    assert auc_interval(np.array([0, 1, 1], object), np.array([0.5, 0.25, 0.75], object)) == wanted


LABELS, SCORES = [0, 1], [0.1, 0.2]

BAD_BAGS = {
    "NaN score": (LABELS, [0.1, np.nan], "y_score: found 1 of 2 values that are NaN or infinite"),
    "infinite score": (LABELS, [0.1, np.inf], "y_score"),
    "text as scores": (LABELS, ["0.1", "0.2"], "y_score: found .*numbers"),
    "None among scores": (LABELS, [0.1, None], "y_score"),
    "ragged scores": (LABELS, [0.1, [0.2]], "y_score"),
    "fewer scores": (LABELS, [0.1], "y_score: found 1 values for 2 labels"),
    "a label 2": ([0, 2], SCORES, "y_true: found 2 among the labels, expected only 0 and 1"),
    "NaN label": ([0, np.nan], SCORES, "y_true: found nan"),
    "text as labels": (["0", "1"], SCORES, "y_true: found '0'"),
    "mixed labels": ([0, None], SCORES, "y_true: found None"),
    "ragged labels": ([0, [1, 1]], SCORES, "y_true"),
    "no bags": ([], [], "at least one bag"),
}


@pytest.mark.parametrize("case", BAD_BAGS)
@pytest.mark.parametrize("function", [bag_metrics, auc_interval, choose_threshold, roc_points])
def test_bad_bags_are_refused(function, case):
    y, score, message = BAD_BAGS[case]
    with pytest.raises(ParameterError, match=message):
        function(y, score)


@pytest.mark.parametrize(
    "option",
    [
        {"threshold": np.nan},
        {"threshold": "0.5"},
        {"threshold": None},
        {"n_bootstrap": -1},
        {"n_bootstrap": 2.5},
        {"seed": -1},
        {"specificity": 2},
        {"specificity": np.nan},
        {"specificity": -0.1},
    ],
)
def test_bad_options_are_refused(option):
    (name,) = option
    with pytest.raises(ParameterError, match=f"^{name}: found"):
        bag_metrics(LABELS, SCORES, **option)


def test_bad_levels_and_groups_are_refused():
    for level in (0, 1.5, np.nan, "95"):
        with pytest.raises(ParameterError, match=r"^level"):
            auc_interval(LABELS, SCORES, level=level)
    with pytest.raises(ParameterError, match="groups: found 1 groups, expected one name for each of 2 bags"):
        metrics_by_group(LABELS, SCORES, ["a"])
    with pytest.raises(ParameterError, match="groups: found 'ab'"):
        metrics_by_group(LABELS, SCORES, "ab")


def test_an_infinite_threshold_predicts_no_tumour():
    result = bag_metrics(LABELS, SCORES, threshold=np.inf, n_bootstrap=0)
    assert result["sensitivity"].value == 0 and result["specificity"].value == 1
