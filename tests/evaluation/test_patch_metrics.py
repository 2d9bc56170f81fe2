"""Patch scores against patch labels: values by hand, unknown patches left out, bad input refused."""

import numpy as np
import pytest

from mil_tutorial import ParameterError, choose_dice_threshold, patch_metrics

LABELS, SCORES = np.array([1, 1, 0, 0, -1]), np.array([0.9, 0.4, 0.5, 0.1, 9.0])


def test_values_by_hand():
    result = patch_metrics(LABELS, SCORES, threshold=0.45)
    assert result["auc"] == 0.75 and result["pointing"] == 1.0 and result["n"] == 4
    assert result["dice"] == pytest.approx(2 * 1 / (2 + 2)) and result["prevalence"] == 0.5
    assert patch_metrics([1, 0], [0.5, 0.5])["pointing"] == 0.5


def test_what_is_not_defined_is_nan():
    nothing = patch_metrics([0, 0], [0.1, 0.2], threshold=0.5)
    assert np.isnan(nothing["auc"]) and np.isnan(nothing["pointing"]) and nothing["dice"] == 1.0
    assert patch_metrics([-1], [0.3])["n"] == 0 and np.isnan(patch_metrics([], [])["prevalence"])


def test_the_dice_threshold_is_chosen_over_slides():
    t = choose_dice_threshold([(LABELS, SCORES), (np.array([0, 0]), np.array([0.2, 0.3]))])
    assert patch_metrics(LABELS, SCORES, t)["dice"] >= 0.8


@pytest.mark.parametrize(
    "labels,score,message",
    [
        ([1, np.nan], [0.1, 0.2], "y_inst: found 2 labels, among them nan"),
        ([1, -5], [0.1, 0.2], "y_inst: .*-5"),
        (["1", "0"], [0.1, 0.2], "y_inst"),
        ([1, [0]], [0.1, 0.2], "y_inst"),
        ([1, 0], [0.1], "score: found 1 values.* each of 2 patches"),
        ([1, 0], [0.1, np.inf], "score: found 2 values, 1 of them NaN or infinite"),
        ([1, 0], ["0.1", "0.2"], "score"),
    ],
)
def test_bad_patches_are_refused(labels, score, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        patch_metrics(labels, score)
    with pytest.raises(ParameterError, match=r"^slides\[1\]: found"):
        choose_dice_threshold([(LABELS, SCORES), (labels, score)])


def test_bad_thresholds_and_slides_are_refused():
    for threshold in (np.nan, "0.5"):
        with pytest.raises(ParameterError, match=r"^threshold: found"):
            patch_metrics(LABELS, SCORES, threshold)
    with pytest.raises(ParameterError, match="slides: found 1 slides, none of them with a tumour patch"):
        choose_dice_threshold([([0, 0], [0.1, 0.2])])
    with pytest.raises(ParameterError, match=r"^candidates"):
        choose_dice_threshold([(LABELS, SCORES)], candidates=0)
