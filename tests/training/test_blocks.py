"""The pooling in blocks gives the numbers of `models.ABMIL`, and `fit` takes it where it pays."""

import numpy as np
import pytest
import torch
from torch import nn

from mil_tutorial import ABMIL, MaxPool, bags_from_arrays, collate_fn, collate_packed, fit, make_loader
from mil_tutorial.training import blocks
from mil_tutorial.training import step as module
from mil_tutorial.training.step import Step

SIZES = (1, 2 * blocks.ROWS + 3, blocks.ROWS, blocks.ROWS + 1, 33)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def every_batch_is_large(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)


@pytest.fixture(scope="module")
def bags():
    rng = np.random.default_rng(0)
    return bags_from_arrays([3 * rng.standard_normal((n, 24), np.float32) for n in SIZES], [0, 1, 0, 1, 1])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("collate", [collate_fn, collate_packed])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_values_and_gradients_are_the_models_own(bags, gated, collate, threads):
    torch.manual_seed(1)
    model, batch = ABMIL(24, gated=gated), collate([bags[i] for i in range(len(bags))])
    entries = {k: batch[k] for k in ("mask", "offsets") if k in batch.keys()}
    logits, losses = model.compute_loss(batch["Y"], batch["X"], **entries)
    expected = gradients(model, losses["BCEWithLogitsLoss"])
    step = Step(model, CPU, large=threads)
    for _ in range(2):  # the second time in memory that is used again
        ours, loss = step(batch)
        assert torch.allclose(ours, logits, atol=1e-5) and torch.allclose(loss, losses["BCEWithLogitsLoss"], atol=1e-6)
        for name, gradient in gradients(model, loss).items():
            largest = expected[name].abs().max()
            assert (gradient - expected[name]).abs().max() <= 1e-5 * largest + 1e-7, name
    with torch.inference_mode():
        assert torch.allclose(step(batch)[0], logits, atol=1e-5)


def test_the_bits_do_not_depend_on_the_threads(bags):
    weights = []
    for threads in (1, 2, 5):
        torch.manual_seed(0)
        model = ABMIL(24)
        step = Step(model, CPU, large=threads)
        for i in range(len(bags)):
            gradients(model, step(collate_fn([bags[i]]))[1])
        weights.append(torch.cat([p.grad.ravel() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("gated", [False, True])
def test_a_second_backward_fails_rather_than_be_wrong(bags, gated):
    _, loss = Step(ABMIL(24, gated=gated), CPU)(collate_fn([bags[1]]))
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        loss.backward()


def test_large_scores_do_not_overflow(bags):
    model, batch = ABMIL(24), collate_fn([bags[1]])
    with torch.no_grad():
        model.att_w.weight *= 1e4
    logits, _ = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
    ours, loss = Step(model, CPU)(batch)
    assert torch.allclose(ours, logits, atol=1e-4) and all(g.isfinite().all() for g in gradients(model, loss).values())


class Doubled(ABMIL):
    """A model of one's own, which must be computed as it is written."""

    def attention(self, h):
        return 2 * super().attention(h)


def spied() -> ABMIL:
    model = ABMIL(24)
    model.att_V.register_forward_hook(lambda *arguments: None)
    return model


def spied_backwards() -> ABMIL:
    model = ABMIL(24)
    model.att_V.register_full_backward_pre_hook(lambda *arguments: None)
    return model


def frozen() -> ABMIL:
    model = ABMIL(24)
    model.att_V.weight.requires_grad_(False)
    return model


def replaced() -> ABMIL:
    model = ABMIL(24)
    model.att_V = nn.Sequential(nn.Linear(24, 128))
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: Doubled(24),
        spied,
        spied_backwards,
        frozen,
        replaced,
        lambda: MaxPool(24),
        lambda: ABMIL(24, feat_ext=nn.Linear(24, 8)),
    ],
)
def test_every_other_model_goes_its_own_way(bags, make, monkeypatch):
    monkeypatch.setattr(blocks, "pooled", None)  # calling it would fail
    model, batch = make(), collate_fn([bags[1], bags[4]])
    logits, _ = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
    assert torch.equal(Step(model, CPU)(batch)[0], logits)


def test_what_blocks_do_not_know_goes_the_models_way(bags, monkeypatch):
    batch = collate_fn([bags[1], bags[4]])
    gaps = batch.copy()
    gaps["mask"] = batch["mask"].clone()
    gaps["mask"][0, 5] = False
    assert blocks.bags_of(gaps) is None
    assert [len(b) for b in blocks.bags_of(batch)] == [SIZES[1], SIZES[4]]
    monkeypatch.setattr(blocks, "pooled", None)
    step = Step(ABMIL(24), CPU)
    assert torch.equal(step(gaps)[0], step.model(gaps["X"], gaps["mask"]))
    assert Step(ABMIL(24), CPU, torch.bfloat16)._knows_blocks is False


def test_fit_takes_it_for_large_batches_alone(bags, monkeypatch):
    taken = []
    pooled = blocks.pooled
    monkeypatch.setattr(blocks, "pooled", lambda *a: taken.append(1) or pooled(*a))
    before = torch.get_num_threads()
    histories = []
    for small, calls in ((0, 4), (2**60, 0)):
        monkeypatch.setattr(module, "SMALL", small)
        torch.manual_seed(0)
        histories.append(fit(ABMIL(24), make_loader(bags, seed=0), make_loader(bags), epochs=1, progress=False))
        assert len(taken) == calls
        taken.clear()
    assert torch.get_num_threads() == before
    assert histories[0].train_loss == pytest.approx(histories[1].train_loss, abs=1e-5)
