"""A true score beats a random order; seeds agree or not; bad input is refused."""

import numpy as np
import pytest
import torch

from mil_tutorial import ParameterError, deletion_insertion, seed_agreement


class Count(torch.nn.Module):
    """The logit is the sum of the first feature."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(-2.0))

    def forward(self, X):
        return X[:, :, 0].sum(1) + self.bias


@pytest.fixture
def bag():
    X = torch.zeros(40, 3)
    X[:6, 0] = 1.0
    return X


def test_a_true_score_beats_a_random_order(bag):
    true = deletion_insertion(Count(), bag, bag[:, 0].numpy())
    assert true["deletion"].area < true["random deletion"].area < 0.99
    assert true["insertion"].area > true["random insertion"].area
    wrong = deletion_insertion(Count(), bag, -bag[:, 0].numpy())
    assert wrong["deletion"].area > true["random deletion"].area
    assert true["deletion"].share[0] == 0 and true["insertion"].share[-1] == 1
    alone = deletion_insertion(Count(), bag[:1], np.array([1.0]))
    assert np.isfinite(alone["deletion"].area)


def test_agreement_of_seeds():
    a = np.arange(10.0)
    assert seed_agreement([a, a * 2 + 1]) == pytest.approx(1) and seed_agreement([a, -a]) == pytest.approx(-1)
    assert np.isnan(seed_agreement([a, np.ones(10)])) and np.isnan(seed_agreement([[1.0], [2.0]]))


@pytest.mark.parametrize("score", [np.full(40, np.nan), np.zeros(39), ["1"] * 40, None])
def test_bad_scores_are_refused(bag, score):
    with pytest.raises(ParameterError, match=r"^score: found .* one finite number for each of 40 patches"):
        deletion_insertion(Count(), bag, score)


@pytest.mark.parametrize(
    "option", [{"steps": 0}, {"steps": 2.5}, {"steps": np.nan}, {"n_random": 0}, {"n_random": "5"}, {"seed": -1}]
)
def test_bad_options_are_refused(bag, option):
    (name,) = option
    with pytest.raises(ParameterError, match=f"^{name}: found .* a whole number"):
        deletion_insertion(Count(), bag, np.zeros(40), **option)


def test_bad_features_are_refused(bag):
    for X in (bag.numpy(), bag[None], bag[:0], bag * torch.nan):
        with pytest.raises(ParameterError, match=r"^X: found"):
            deletion_insertion(Count(), X, np.zeros(40))


@pytest.mark.parametrize(
    "scores,message",
    [
        ([], "scores: found 0 runs"),
        ([[1, 2]], "scores: found 1 runs on 2 patches, expected at least two runs"),
        ([[1, 2], [1, 2, 3]], "scores: found 2 runs on 2 and 3 patches"),
        ([[1, 2], [1, np.nan]], r"scores\[1\]: found 2 values, 1 of them NaN"),
        ([["1", "2"], [1, 2]], r"scores\[0\]: found"),
    ],
)
def test_bad_runs_are_refused(scores, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        seed_agreement(scores)
