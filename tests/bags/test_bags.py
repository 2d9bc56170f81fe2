"""Bags, batches and models: torchmil's call, torchmil's numbers, and what a MIL model must not depend on."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import RUN
from tensordict import TensorDict

from mil_tutorial import (
    ABMIL,
    DataError,
    MaxPool,
    MeanPool,
    TridentWSIDataset,
    bags_from_arrays,
    build_adjacency,
    collate_fn,
    collate_packed,
)

ENCODER = "efficientnet_lite0"


def dataset_of(tree, **more):
    run = tree / RUN
    return TridentWSIDataset(run, tree / "wsi_labels.csv", ENCODER, **more)


@pytest.fixture
def bags():
    rng = np.random.default_rng(0)
    return bags_from_arrays([rng.normal(size=(n, 6)) for n in (1, 4, 9)], [0, 1, 1])


def test_a_bag_has_the_contract_s_keys_shapes_and_types(tree):
    bag = dataset_of(tree)[0]
    n = len(bag["X"])
    assert list(bag.keys()) == ["X", "Y", "y_inst", "adj", "coords"]
    assert bag["X"].shape == (n, 1280) and bag["X"].dtype == torch.float32
    assert bag["Y"].shape == () and bag["Y"].dtype == torch.float32
    assert bag["y_inst"].shape == (n,) and bag["y_inst"].dtype == torch.int64
    assert bag["adj"].is_sparse and bag["adj"].shape == (n, n)
    assert bag["coords"].shape == (n, 2) and bag["coords"].dtype == torch.int64
    assert bag["coords"].min(0).values.tolist() == [0, 0]


def test_torchmil_reads_the_same(tree):
    torchmil = pytest.importorskip("torchmil.datasets")
    ours = dataset_of(tree)
    theirs = torchmil.TridentWSIDataset(
        base_path=f"{ours.base_path}/", labels_path=str(tree / "wsi_labels.csv"), feature_extractor=ENCODER,
        patch_labels_path=f"{ours.base_path / 'patch_labels'}/", patch_size=1024, load_at_init=False,
        wsi_name_col="wsi_name", wsi_label_col="wsi_label",
    )  # fmt: skip
    assert ours.get_bag_names() == theirs.get_bag_names()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a["X"], b["X"].float())
        assert torch.allclose(a["adj"].to_dense(), b["adj"].to_dense().float(), atol=1e-6)
        assert a["y_inst"].tolist() == b["y_inst"].tolist() and int(a["Y"]) == int(b["Y"])


def test_adjacency_of_a_line_and_of_one_patch():
    A = build_adjacency(np.array([[0, 0], [1, 0], [2, 0], [5, 5]]), normalize=False).to_dense()
    assert A.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert build_adjacency(np.array([[0, 0]])).to_dense().tolist() == [[1.0]]


def test_subset_and_labels_touch_no_features(tree):
    part = dataset_of(tree).subset([3, 0])
    assert part.get_bag_names() == [dataset_of(tree).get_bag_names()[i] for i in (3, 0)]
    assert part.get_bag_labels() == [dataset_of(tree).get_bag_labels()[i] for i in (3, 0)]


def test_errors_name_the_slide(tree):
    with pytest.raises(DataError, match="no_such"):
        dataset_of(tree, wsi_names=["no_such"])
    with pytest.raises(DataError, match="features_conch_v15"):
        TridentWSIDataset(dataset_of(tree).base_path, tree / "wsi_labels.csv", "conch_v15")
    with pytest.raises(DataError, match="patch_size=512"):
        dataset_of(tree, patch_size=512)[0]
    path = dataset_of(tree).features_path / "normal_001.h5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"normal_001\.h5"):
        dataset_of(tree)[0]


def test_padded_and_packed_batches(bags):
    padded, packed = collate_fn(list(bags)), collate_packed(list(bags))
    assert padded["X"].shape == (3, 9, 6) and padded["mask"].dtype == torch.bool
    assert padded["mask"].sum(1).tolist() == [1, 4, 9] and (padded["X"][~padded["mask"]] == 0).all()
    assert packed["offsets"].tolist() == [0, 1, 5, 14] and padded["Y"].tolist() == packed["Y"].tolist() == [0, 1, 1]
    assert torch.equal(padded["X"][padded["mask"]], packed["X"])


def test_sparse_adjacency_is_stacked(tree):
    dataset = dataset_of(tree)
    batch = collate_fn([dataset[0], dataset[1]])
    n = len(dataset[1]["X"])
    assert torch.equal(batch["adj"].to_dense()[1, :n, :n], dataset[1]["adj"].to_dense())
    assert batch["adj"].to_dense()[1, n:].count_nonzero() == 0


def test_bad_batches_are_refused(bags):
    empty = TensorDict({"X": torch.zeros(0, 6), "Y": torch.tensor(0.0)})
    with pytest.raises(ValueError, match="bag 1 of the batch has no patches"):
        collate_fn([bags[0], empty])
    with pytest.raises(ValueError, match="feature sizes"):
        collate_fn([bags[0], TensorDict({"X": torch.zeros(2, 5), "Y": torch.tensor(0.0)})])
    with pytest.raises(DataError, match=r"bag 1.*NaN"):
        bags_from_arrays([np.ones((2, 3)), np.full((2, 3), np.nan)], [0, 1])


@pytest.mark.parametrize(
    "make", [ABMIL, MeanPool, MaxPool, lambda d: ABMIL(d, gated=True, feat_ext=torch.nn.Linear(d, 4))]
)
def test_neighbours_padding_and_order_change_nothing(bags, make):
    torch.manual_seed(0)
    model = make(6).eval()
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


@pytest.mark.parametrize("gated", [False, True])
def test_packed_equals_padded_in_value_and_gradient(bags, gated):
    torch.manual_seed(0)
    model = ABMIL(6, gated=gated)
    padded, packed = collate_fn(list(bags)), collate_packed(list(bags))
    grads = []
    for logits in (model(padded["X"], padded["mask"]), model.forward_packed(packed["X"], packed["offsets"])):
        model.zero_grad()
        logits.square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(grads[0], grads[1], atol=1e-5)
    raw = model.forward_packed(packed["X"] * 1e3, packed["offsets"])
    assert torch.isfinite(raw).all()


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
    theirs.load_state_dict(
        {f"{names[k.rsplit('.', 1)[0]]}.{k.rsplit('.', 1)[1]}": v for k, v in ours.state_dict().items()}
    )
    batch = collate_fn(list(bags))
    for a, b in zip(
        ours(batch["X"], batch["mask"], return_att=True),
        theirs(batch["X"], batch["mask"], return_att=True),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["ABMIL", "TransformerABMIL", "DSMIL", "CLAM_SB"])
@pytest.mark.parametrize("size", [1, 3])
def test_torchmil_models_train_on_our_batches(bags, name, size):
    models = pytest.importorskip("torchmil.models")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    many = bags_from_arrays(
        [rng.normal(size=(n, 16)) for n in (20, 24, 30)], [0, 1, 1]
    )  # CLAM looks at its best 10 patches
    model = getattr(models, name)(in_shape=(16,))
    batch = collate_fn([many[i] for i in range(size)])
    _, losses = model.compute_loss(batch["Y"], batch["X"], mask=batch["mask"])
    sum(losses.values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_data_work_does_not_load_torch():
    code = "import sys, mil_tutorial as m; m.open_slide, m.read_canvas, m.label_patches, m.open_data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_function_is_not_hidden_by_its_module():
    code = "import mil_tutorial.froc, mil_tutorial.prepare; from mil_tutorial import froc, prepare; assert callable(froc) and callable(prepare)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adjacency_by_grid_and_by_tree_are_one():
    from mil_tutorial.bags.adjacency import _pairs_of_grid, _pairs_of_tree

    rng = np.random.default_rng(0)
    for distance in (1.0, np.sqrt(2), 2.3):
        places = rng.permutation(400)[:150]
        cells = np.stack([places % 20, places // 20], 1)
        for a, b in zip(_pairs_of_grid(cells, distance + 1e-6), _pairs_of_tree(cells, distance + 1e-6), strict=True):
            assert np.array_equal(a, b)
    assert _pairs_of_grid(np.array([[0, 0], [0, 0]]), 1.5) is None, "two patches at one place"
    assert _pairs_of_grid(np.array([[0, 0], [10**7, 10**7]]), 1.5) is None, "a grid too wide to draw"
    far = build_adjacency(np.array([[0, 0], [10**7, 10**7], [1, 0]]), normalize=False).to_dense()
    assert far.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 2**31 - 1), gated=st.booleans(), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_a_bag_s_answer_is_its_own(sizes, seed, gated, scale):
    """Whatever stands beside it, however much padding follows, in whatever order its patches come."""
    rng = np.random.default_rng(seed)
    bags = bags_from_arrays([rng.normal(size=(n, 5)) * scale for n in sizes], [i % 2 for i in range(len(sizes))])
    torch.manual_seed(seed % 1000)
    model = ABMIL(5, att_dim=4, gated=gated).eval()
    batch, packed = collate_fn(list(bags)), collate_packed(list(bags))
    with torch.inference_mode():
        together = model(batch["X"], batch["mask"])
        alone = torch.cat([model(bag["X"][None]) for bag in bags])
        shuffled = torch.cat([model(bag["X"][torch.from_numpy(rng.permutation(len(bag["X"])))][None]) for bag in bags])
        assert torch.allclose(together, alone, atol=1e-4 * scale + 1e-5)
        assert torch.allclose(shuffled, alone, atol=1e-4 * scale + 1e-5)
        assert torch.allclose(model.forward_packed(packed["X"], packed["offsets"]), alone, atol=1e-4 * scale + 1e-5)
