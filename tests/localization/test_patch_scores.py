"""Scores of patches that add up, detection scores that can be ranked across slides, one slide localized."""

from functools import partial

import numpy as np
import pytest
import torch

from mil_tutorial import (
    ABMIL,
    Geometry,
    MaxPool,
    MeanPool,
    ParameterError,
    attention_times_n,
    detection_score,
    find_detections,
    localize_slide,
    make_loader,
    patch_scores,
    predict,
    scale_min_max,
    scale_rank,
)
from mil_tutorial.bags.lists import bags_from_arrays
from mil_tutorial.trident import Patches

GEOMETRY = Geometry.for_slide(mpp=0.25, width=8192, height=4096, magnification=20, patch_size=512)


def patches(n):
    return Patches("a slide", GEOMETRY.grid()[:n], GEOMETRY)


def made(kind, *args, **kwargs):
    torch.manual_seed(0)
    return kind(*args, **kwargs)


def features(n=7, dim=5, seed=1):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_scales():
    raw = np.array([0.0, 1.0, 5.0])
    assert attention_times_n(raw).mean() == pytest.approx(1) and attention_times_n(np.zeros(7)).tolist() == [1] * 7
    assert scale_min_max(np.ones(3)).tolist() == [0.5] * 3 and scale_min_max(raw).tolist() == [0, 0.2, 1]
    assert scale_rank(raw).tolist() == [0, 0.5, 1]
    assert all(len(scale([])) == 0 for scale in (attention_times_n, scale_min_max, scale_rank))


@pytest.mark.parametrize("bad", [[0.1, np.nan], [0.1, -np.inf], ["0.1", "0.2"], "ab", None, [0.1, [0.2]]])
def test_scales_refuse_what_is_no_finite_number(bad):
    for scale in (attention_times_n, scale_min_max, scale_rank):
        with pytest.raises(ParameterError, match=r"^(raw|score): found .* one finite number for each patch"):
            scale(bad)


def test_contributions_add_up_to_the_logit():
    X = features()
    for model in (made(ABMIL, 5, gated=True), made(ABMIL, 5, feat_ext=torch.nn.Linear(5, 3)), made(MeanPool, 5)):
        result = patch_scores(model, X)
        logit = float(model(X[None]).detach())
        if isinstance(model, ABMIL):
            assert result["logit contribution"].sum() + model.classifier.bias.item() == pytest.approx(logit, abs=1e-5)
            assert result["attention x n"].mean() == pytest.approx(1)
        else:
            assert "logit contribution" not in result
        assert all(v.shape == (7,) and np.isfinite(v).all() for v in result.values())
    linear = made(MeanPool, 5)
    with torch.no_grad():
        linear.classifier.bias.zero_()
    assert patch_scores(linear, X)["gradient x input"].sum() == pytest.approx(float(linear(X[None]).detach()), abs=1e-5)


def test_the_detection_score_does_not_depend_on_the_number_of_patches():
    assert detection_score(0.9, [0, 1, 3]) == pytest.approx([0, 0.45, 0.675])
    raw = np.array([4.0, 0.0])
    small, large = (detection_score(0.9, attention_times_n(np.repeat(raw, n))) for n in (10, 1000))
    assert small.max() == pytest.approx(large.max()) and small.min() == pytest.approx(large.min())
    assert detection_score(np.float32(0.5), 1.0) == 0.25
    assert detection_score(1.0, [1e12]).max() <= 1


@pytest.mark.parametrize("probability", [-0.1, 1.1, np.nan, np.inf, "0.5", None])
def test_detection_scores_refuse_what_is_no_probability(probability):
    with pytest.raises(ParameterError, match=r"^probability: found"):
        detection_score(probability, [1.0])


@pytest.mark.parametrize("share", [[-0.1], [np.nan], [np.inf], ["1"], None])
def test_detection_scores_refuse_what_is_no_share(share):
    with pytest.raises(ParameterError, match=r"^share: found"):
        detection_score(0.5, share)


@pytest.mark.parametrize("kind", [ABMIL, partial(ABMIL, gated=True), MeanPool, MaxPool])
def test_a_slide_is_localized_as_its_parts_say(kind):
    model, sizes = made(kind, 5), (3, 12, 7)
    bags = [features(n, seed=n) * 3 for n in sizes]
    predictions = predict(model, make_loader(bags_from_arrays([b.numpy() for b in bags], [0, 1, 0])), device="cpu")
    for i, (n, X) in enumerate(zip(sizes, bags, strict=True)):
        result = localize_slide(model, X, patches(n))
        assert isinstance(result.probability, float)
        assert result.probability == pytest.approx(float(predictions.prob[i]), abs=1e-6)
        assert result.scores["raw attention"] == pytest.approx(predictions.attention[i], abs=1e-5)
        wanted = patch_scores(model, X)
        assert result.scores.keys() == wanted.keys()
        assert all(np.array_equal(result.scores[k], v) for k, v in wanted.items())
        score = detection_score(result.probability, wanted["attention x n"])
        by_hand = find_detections(score, patches(n).coords, GEOMETRY.patch_size_level0)
        assert np.array_equal(result.detections, by_hand) and len(by_hand)
        assert (np.diff(result.detections[:, 0]) <= 0).all()


def test_localizing_asks_the_model_once():
    calls = []

    class Counted(MeanPool):
        def forward(self, X, mask=None, return_att=False):
            calls.append(return_att)
            return super().forward(X, mask, return_att)

    localize_slide(Counted(5), features(), patches(7))
    assert calls == [True]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same(mode):
    model = made(ABMIL, 5)
    wanted = localize_slide(model, features(), patches(7))
    with mode():
        result = localize_slide(model, features(), patches(7))
        assert not torch.is_grad_enabled()
    assert result.probability == wanted.probability
    assert all(np.array_equal(result.scores[k], v) for k, v in wanted.scores.items())


class NoAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = torch.nn.Linear(5, 1)

    def forward(self, X):
        return self.classifier(X.mean(1)).squeeze(-1)


class LogitsOnly(NoAttention):
    def forward(self, X, return_att=False):
        return super().forward(X)


class TwoHeads(NoAttention):
    def forward(self, X, return_att=False):
        return super().forward(X), torch.zeros(1, 2, X.shape[1])


@pytest.mark.parametrize("kind", [NoAttention, LogitsOnly, TwoHeads])
def test_a_model_without_attention_is_named(kind):
    with pytest.raises(ParameterError, match=f"^model: found {kind.__name__}.*raw attention"):
        localize_slide(kind(), features(), patches(7))


def test_a_model_that_diverged_is_named():
    model = made(ABMIL, 5)
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    with pytest.raises(ParameterError, match=r"^model: found ABMIL, which gives NaN.*training diverged"):
        localize_slide(model, features(), patches(7))


@pytest.mark.parametrize(
    "X,message",
    [
        (np.zeros((7, 5)), "X: found ndarray"),
        (torch.zeros(7), r"X: found shape \(7,\)"),
        (torch.zeros(7, 4), r"X: found shape \(7, 4\), expected a finite tensor \(n, 5\)"),
        (torch.zeros(0, 5), r"X: found shape \(0, 5\).*at least one patch"),
        (torch.full((7, 5), torch.nan), "X: found 35 values that are NaN"),
        (torch.zeros(6, 5), "X: found 6 rows, expected one for each of the 7 patches"),
    ],
)
def test_bad_features_are_refused(X, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        localize_slide(made(ABMIL, 5), X, patches(7))


def test_coordinates_in_place_of_patches_are_refused():
    with pytest.raises(ParameterError, match=r"^patches: found ndarray, expected Patches"):
        localize_slide(made(ABMIL, 5), features(), patches(7).coords)
