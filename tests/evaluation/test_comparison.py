"""Two models on the same slides, and seeds apart from sampling."""

import numpy as np
import pytest

from mil_tutorial import ParameterError, auc_interval, bag_metrics, compare_models, summarize_seeds


@pytest.mark.slow
def test_paired_comparison():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    good, bad = y + rng.normal(0, 0.7, 120), rng.normal(size=120)
    apart = compare_models(y, good, bad, 0.5, 0.0)
    assert apart.difference.low > 0.2 and apart.p_auc < 0.01 and apart.p_calls < 0.01
    same = compare_models(y, good, good)
    assert same.difference.value == 0 and same.p_auc == 1 and same.p_calls == 1
    p = [compare_models(y, *np.random.default_rng(s).normal(y * 0.8, 1, (2, 120)), n=200).p_auc for s in range(60)]
    assert np.mean(np.array(p) < 0.05) < 0.15, "two models alike must seldom differ"


def test_seeds_apart_from_sampling():
    runs = []
    for seed in range(4):
        y = np.repeat([0, 1], 20)
        runs.append(bag_metrics(y, y + np.random.default_rng(seed).normal(size=40), n_bootstrap=100)["auc"])
    summary = summarize_seeds(runs)
    assert summary.mean == pytest.approx(np.mean([r.value for r in runs]))
    assert summary.spread == pytest.approx(np.std([r.value for r in runs], ddof=1))
    assert summary.sampling[0] == pytest.approx(np.mean([r.low for r in runs])) and "4 seeds" in str(summary)
    assert summarize_seeds(runs[:1]).spread == 0


@pytest.mark.parametrize("option", [{"n": 0}, {"n": -1}, {"seed": -1}, {"threshold_a": np.nan}, {"threshold_b": "0.5"}])
def test_bad_options_of_a_comparison_are_refused(option):
    (name,) = option
    with pytest.raises(ParameterError, match=f"^{name}: found"):
        compare_models([0, 1], [0.1, 0.2], [0.2, 0.1], **option)


def test_bad_input_of_a_comparison_is_refused():
    with pytest.raises(ParameterError, match=r"^score_b: found 1 of 2 values"):
        compare_models([0, 1], [0.1, 0.2], [0.2, np.nan])
    with pytest.raises(ParameterError, match=r"^score_a: found 1 values for 2 labels"):
        compare_models([0, 1], [0.1], [0.2, 0.1])
    with pytest.raises(ParameterError, match="both classes, which a comparison needs"):
        compare_models([0, 0], [0.1, 0.2], [0.2, 0.1])
    for runs in ([], [0.9, 0.8], [auc_interval([0, 1], [0.1, 0.2]), None]):
        with pytest.raises(ParameterError, match=r"^estimates: found .* one Estimate for each run"):
            summarize_seeds(runs)
