"""Models: torchmil's numbers, padded equal to packed, and what a MIL model must not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from mil_tutorial import ABMIL, MaxPool, MeanPool, ParameterError, bags_from_arrays, collate_fn, collate_packed

MODELS = {
    "ABMIL": ABMIL,
    "gated ABMIL": lambda d: ABMIL(d, gated=True, feat_ext=torch.nn.Linear(d, 4)),
    "MeanPool": MeanPool,
    "MeanPool with feat_ext": lambda d: MeanPool(d, torch.nn.Sequential(torch.nn.Linear(d, 4), torch.nn.Tanh())),
    "MaxPool": MaxPool,
    "MaxPool with feat_ext": lambda d: MaxPool(d, torch.nn.Sequential(torch.nn.Linear(d, 4), torch.nn.Tanh())),
}


@pytest.fixture
def bags():
    rng = np.random.default_rng(0)
    return bags_from_arrays([rng.normal(size=(n, 6)) for n in (1, 4, 9)], [0, 1, 1])


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param](6)


def test_neighbours_padding_and_order_change_nothing(bags, model):
    model.eval()
    batch = collate_fn(list(bags))
    with torch.inference_mode():
        together, att = model(batch["X"], batch["mask"], return_att=True)
        alone = torch.cat([model(bag["X"][None]) for bag in bags])
        shuffled = model(bags[2]["X"].flip(0)[None])
        more_padding = model(
            torch.cat([batch["X"], torch.full((3, 5, 6), 7.0)], 1),
            torch.cat([batch["mask"], torch.zeros(3, 5, dtype=bool)], 1),
        )
    assert together.shape == (3,) and att.shape == (3, 9)
    for other in (alone, more_padding):
        assert torch.allclose(together, other, atol=1e-5)
    assert torch.allclose(shuffled, alone[2:], atol=1e-5)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_packed_equals_padded_in_value_and_gradient(bags, model):
    padded, packed = collate_fn(list(bags)), collate_packed(list(bags))
    logits, raw = model(padded["X"], padded["mask"], return_att=True)
    packed_logits, packed_raw = model.forward_packed(packed["X"], packed["offsets"], return_att=True)
    assert torch.allclose(logits, packed_logits, atol=1e-6)
    assert torch.allclose(raw[padded["mask"]], packed_raw, atol=1e-6)
    weights = torch.linspace(-1, 1, len(packed_raw))
    a = gradients(model, logits.square().sum() + (raw[padded["mask"]] * weights).sum())
    b = gradients(model, packed_logits.square().sum() + (packed_raw * weights).sum())
    assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    assert torch.equal(model.forward_packed(packed["X"], packed["offsets"]), packed_logits)
    assert torch.isfinite(model.forward_packed(packed["X"] * 1e3, packed["offsets"])).all()


def test_equal_patches_share_the_gradient_in_the_same_way(model):
    bags = bags_from_arrays([np.ones((3, 6)), np.ones((2, 6))], [0, 1])
    padded, packed = collate_fn(list(bags)), collate_packed(list(bags))
    grads = []
    for batch, more in ((padded, {"mask": padded["mask"]}), (packed, {"offsets": packed["offsets"]})):
        X = batch["X"].clone().requires_grad_()
        model.compute_loss(batch["Y"], X, **more)[1]["BCEWithLogitsLoss"].backward()
        grads.append(X.grad[batch["mask"]] if "mask" in more else X.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_the_loss_of_packed_bags_is_that_of_padded_ones(bags, model):
    padded, packed = collate_fn(list(bags)), collate_packed(list(bags))
    logits, losses = model.compute_loss(padded["Y"], padded["X"], padded["mask"])
    packed_logits, packed_losses = model.compute_loss(packed["Y"], packed["X"], offsets=packed["offsets"])
    assert torch.allclose(logits, packed_logits, atol=1e-6) and list(losses) == list(packed_losses)
    by_hand = binary_cross_entropy_with_logits(logits, padded["Y"])
    for loss in (*losses.values(), *packed_losses.values()):
        assert torch.allclose(loss, by_hand, atol=1e-6)
    a, b = (gradients(model, sum(x.values())) for x in (losses, packed_losses))
    assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)


def test_a_model_of_one_s_own_has_its_own_loss_on_packed_bags(bags):
    class Doubled(MeanPool):
        def forward_packed(self, X, offsets, return_att=False):
            return 2 * super().forward_packed(X, offsets)

    torch.manual_seed(0)
    model, packed = Doubled(6), collate_packed(list(bags))
    logits, _ = model.compute_loss(packed["Y"], packed["X"], offsets=packed["offsets"])
    assert torch.equal(logits, 2 * MeanPool.forward_packed(model, packed["X"], packed["offsets"]))


def test_torchmil_s_trainer_calls_our_loss(bags, model):
    wrapper = pytest.importorskip("torchmil.models").MILModelWrapper(model)
    batch = collate_fn(list(bags))
    logits, losses = wrapper.compute_loss(batch)
    assert torch.equal(logits, model(batch["X"], batch["mask"])) and list(losses) == ["BCEWithLogitsLoss"]


@pytest.mark.parametrize("gated", [False, True])
def test_equal_to_torchmil_with_the_same_weights(bags, gated):
    models = pytest.importorskip("torchmil.models")
    torch.manual_seed(0)
    ours, theirs = ABMIL(6, gated=gated), models.ABMIL(in_shape=(6,), gated=gated)
    names = {
        "att_V": "pool.fc1.module",
        "att_U": "pool.fc_gated.module",
        "att_w": "pool.fc2",
        "classifier": "classifier.module",
    }
    split = {k: k.rsplit(".", 1) for k in ours.state_dict()}
    theirs.load_state_dict({f"{names[split[k][0]]}.{split[k][1]}": v for k, v in ours.state_dict().items()})
    batch = collate_fn(list(bags))
    answers = (model(batch["X"], batch["mask"], return_att=True) for model in (ours, theirs))
    for a, b in zip(*answers, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["ABMIL", "TransformerABMIL", "DSMIL", "CLAM_SB"])
@pytest.mark.parametrize("size", [1, 3])
def test_torchmil_models_train_on_our_batches(name, size):
    models = pytest.importorskip("torchmil.models")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    # CLAM looks at its best 10 patches.
    bags = bags_from_arrays([rng.normal(size=(n, 16)) for n in (20, 24, 30)], [0, 1, 1])
    model = getattr(models, name)(in_shape=(16,))
    batch = collate_fn([bags[i] for i in range(size)])
    _, losses = model.compute_loss(batch["Y"], batch["X"], mask=batch["mask"])
    sum(losses.values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 2**31 - 1), name=st.sampled_from(sorted(MODELS)))
def test_a_bag_s_answer_is_its_own(sizes, seed, name):
    """Whatever stands beside it, however much padding follows, in whatever order its patches come."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([0.01, 1.0, 30.0])
    bags = bags_from_arrays([rng.normal(size=(n, 5)) * scale for n in sizes], [i % 2 for i in range(len(sizes))])
    torch.manual_seed(seed % 1000)
    model = MODELS[name](5).eval()
    batch, packed = collate_fn(list(bags)), collate_packed(list(bags))
    with torch.inference_mode():
        alone = torch.cat([model(bag["X"][None]) for bag in bags])
        together = model(batch["X"], batch["mask"])
        shuffled = torch.cat([model(bag["X"][torch.from_numpy(rng.permutation(len(bag["X"])))][None]) for bag in bags])
        in_one_row = model.forward_packed(packed["X"], packed["offsets"])
    for other in (together, shuffled, in_one_row):
        assert torch.allclose(other, alone, atol=1e-4 * scale + 1e-5)


@pytest.mark.parametrize(
    "parameter, make",
    [
        ("in_dim", lambda: ABMIL(0)),
        ("in_dim", lambda: MeanPool(5.5)),
        ("in_dim", lambda: MaxPool("1280")),
        ("att_dim", lambda: ABMIL(6, 0)),
        ("att_dim", lambda: ABMIL(6, float("nan"))),
        ("gated", lambda: ABMIL(6, gated="no")),
        ("feat_ext", lambda: ABMIL(6, feat_ext="relu")),
        ("feat_ext", lambda: MeanPool(6, torch.nn.Linear(5, 3))),
    ],
)
def test_models_that_cannot_be_made_are_refused_by_name(parameter, make):
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        make()
