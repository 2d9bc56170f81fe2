"""Scores that only ask the model: against their definitions, against captum where it is installed, on any model."""

import numpy as np
import pytest
import torch

from mil_tutorial import ABMIL, MaxPool, MeanPool, ParameterError, deletion_insertion, patch_scores, perturbation_scores


def made(kind, **kwargs):
    torch.manual_seed(0)
    return kind(5, **kwargs).eval()


@pytest.fixture
def X():
    return torch.from_numpy(np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32))


@pytest.mark.parametrize("kind", [ABMIL, MaxPool, MeanPool])
def test_they_are_what_they_say(kind, X):
    model = made(kind)
    scores = perturbation_scores(model, X, steps=200)
    with torch.inference_mode():
        whole = model(X[None]).item()
        for i in range(len(X)):
            assert scores["single patch"][i] == pytest.approx(model(X[None, i : i + 1]).item(), abs=1e-5)
            rest = X[[j for j in range(len(X)) if j != i]]
            assert scores["leave one out"][i] == pytest.approx(whole - model(rest[None]).item(), abs=1e-5)
        empty = model(torch.zeros_like(X)[None]).item()
    assert scores["integrated gradients"].sum() == pytest.approx(whole - empty, abs=2e-3)  # completeness
    assert all(v.dtype == np.float64 and v.shape == (7,) for v in scores.values())


def removed(model, X):
    """Leave one out by its definition: one patch after the other is taken away."""
    with torch.inference_mode():
        rest = [model(torch.cat([X[:i], X[i + 1 :]])[None]) for i in range(len(X))]
        return (model(X[None]) - torch.cat(rest)).numpy()


@pytest.mark.parametrize("scale", [1, 5, 40])
@pytest.mark.parametrize(
    "options", [{}, {"gated": True}, {"feat_ext": torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU())}]
)
def test_the_short_way_to_leave_one_out_is_the_long_one(options, scale):
    """Also where one patch has nearly all attention: without it, the answer is another one."""
    model = made(ABMIL, **options)
    with torch.no_grad():
        model.att_w.weight *= scale
    X = torch.from_numpy(np.random.default_rng(2).normal(size=(50, 5)).astype(np.float32))
    assert perturbation_scores(model, X)["leave one out"] == pytest.approx(removed(model, X), abs=1e-5)


def test_a_model_that_changes_the_sum_is_asked(X):
    """A subclass with another forward must not be taken for the sum that its parent is."""

    class Largest(ABMIL):
        def forward(self, X, mask=None, return_att=False):
            return self.classifier(self.feat_ext(X)).squeeze(-1).max(1).values

    model = made(Largest)
    assert perturbation_scores(model, X)["leave one out"] == pytest.approx(removed(model, X), abs=1e-6)


def test_a_bag_of_real_size_takes_one_pass_of_abmil():
    model, calls = made(ABMIL), []
    model.feat_ext.register_forward_hook(lambda *_: calls.append(1))
    perturbation_scores(model, torch.rand(20_000, 5), steps=3)
    assert len(calls) <= 6


def test_of_a_mean_they_follow_from_its_weights(X):
    """The mean is linear: single patches are the classifier's logits, and integrated gradients are gradient x input."""
    model = made(MeanPool)
    scores = perturbation_scores(model, X, steps=1)
    weight, bias = model.classifier.weight[0].detach(), model.classifier.bias.item()
    assert scores["single patch"] == pytest.approx((X @ weight + bias).numpy(), abs=1e-5)
    assert scores["integrated gradients"] == pytest.approx((X @ weight).numpy() / len(X), abs=1e-5)


def test_the_gradient_is_on_again_and_the_model_as_it_was(X):
    model = made(ABMIL)
    before = [p.clone() for p in model.parameters()]
    with torch.inference_mode():
        inside = perturbation_scores(model, X)
    outside = perturbation_scores(model, X)
    assert all(np.array_equal(inside[k], outside[k]) for k in outside)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))


def test_captum_finds_the_same(X):
    captum = pytest.importorskip("captum.attr")
    model = made(ABMIL, gated=True)
    ours = perturbation_scores(model, X, steps=50)
    theirs = captum.IntegratedGradients(model).attribute(X[None], n_steps=50, method="riemann_middle")
    assert ours["integrated gradients"] == pytest.approx(theirs[0].sum(1).detach().numpy(), abs=1e-5)
    theirs = captum.InputXGradient(model).attribute(X[None].requires_grad_())
    assert patch_scores(model, X)["gradient x input"] == pytest.approx(theirs[0].sum(1).detach().numpy(), abs=1e-5)


def test_a_patch_that_decides_is_found_by_all():
    """One patch of seven carries the evidence: taking the best away first, by any of the scores, empties the answer."""
    model = made(MaxPool)
    with torch.no_grad():
        model.classifier.weight[:] = torch.tensor([[4.0, 0, 0, 0, 0]])
        model.classifier.bias[:] = -2
    X = torch.zeros(7, 5)
    X[3, 0] = 1
    for score in perturbation_scores(model, X).values():
        assert score.argmax() == 3
        assert deletion_insertion(model, X, score, steps=7, n_random=1)["deletion"].prob[1] < 0.2


@pytest.mark.parametrize(
    "X,options,message",
    [
        (torch.zeros(1, 5), {}, "X: found one patch, expected at least two"),
        (torch.zeros(3, 4), {}, r"X: found shape \(3, 4\)"),
        (torch.zeros(3, 5), {"steps": 0}, "steps: found 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(X, options, message):
    with pytest.raises(ParameterError, match=message):
        perturbation_scores(made(ABMIL), X, **options)
