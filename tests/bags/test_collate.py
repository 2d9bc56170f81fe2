"""Batches and loaders: padded, packed, in the order of a seed, and what makes no batch."""

import numpy as np
import pytest
import torch
from small import RUN
from tensordict import TensorDict
from torch.utils.data import DataLoader

from mil_tutorial import (
    ParameterError,
    TridentWSIDataset,
    bags_from_arrays,
    collate_fn,
    collate_packed,
    make_loader,
    one_by_one,
)


@pytest.fixture
def bags():
    rng = np.random.default_rng(0)
    return bags_from_arrays([rng.normal(size=(n, 6)) for n in (1, 4, 9)], [0, 1, 1])


def bag_of(n, d=6, **more):
    return TensorDict({"X": torch.ones(n, d), "Y": torch.tensor(0.0), **more})


def test_padded_and_packed_batches(bags):
    padded, packed = collate_fn(list(bags)), collate_packed(list(bags))
    assert padded["X"].shape == (3, 9, 6) and padded["mask"].dtype == torch.bool
    assert padded["mask"].sum(1).tolist() == [1, 4, 9] and (padded["X"][~padded["mask"]] == 0).all()
    assert packed["offsets"].tolist() == [0, 1, 5, 14] and padded["Y"].tolist() == packed["Y"].tolist() == [0, 1, 1]
    assert torch.equal(padded["X"][padded["mask"]], packed["X"])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_adjacency_is_stacked_in_inference_mode_too(tree, batch_size):
    """Which is how batches are validated: tensors from before it do not take every operation there."""
    dataset = TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", "efficientnet_lite0")
    bags = [dataset[i] for i in range(batch_size)]
    expected = collate_fn(bags)["adj"].to_dense()
    with torch.inference_mode():
        assert torch.equal(collate_fn([dataset[i] for i in range(batch_size)])["adj"].to_dense(), expected)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_changed_in_place_leaves_the_kept_adjacency(tree, batch_size):
    dataset = TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", "efficientnet_lite0")
    kept = dataset[0]["adj"].values().clone()
    collate_fn([dataset[i] for i in range(batch_size)])["adj"].values().zero_()
    assert torch.equal(dataset[0]["adj"].values(), kept)


def test_sparse_adjacency_is_stacked(tree):
    dataset = TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", "efficientnet_lite0")
    batch = collate_fn([dataset[0], dataset[1]])
    n = len(dataset[1]["X"])
    assert torch.equal(batch["adj"].to_dense()[1, :n, :n], dataset[1]["adj"].to_dense())
    assert batch["adj"].to_dense()[1, n:].count_nonzero() == 0
    assert "adj" not in collate_packed([dataset[0], dataset[1]]).keys()


@pytest.mark.parametrize("collate", [collate_fn, collate_packed])
@pytest.mark.parametrize(
    "batch, message",
    [
        ([], "found an empty list, expected at least one bag"),
        ([bag_of(2), bag_of(0)], "found no patches in bag 1, expected at least one; leave empty slides out"),
        ([bag_of(2), bag_of(2, 5)], r"found features of sizes \[\(5,\), \(6,\)\], expected one size"),
        ([TensorDict({"Y": torch.tensor(0.0)})], "found bag 0 without 'X'.* add 'X' to bag_keys"),
        ([bag_of(2), bag_of(2, coords=torch.zeros(2, 2))], "'coords'.* in bag 1, .* expected the same keys"),
        ([bag_of(3, y_inst=torch.zeros(2))], r"found 'y_inst' of shape \(2,\) in bag 0, expected 3 rows"),
        ([TensorDict({"X": torch.ones(2, 3), "Y": torch.zeros(1)})], r"'Y' of shape \(1,\).* expected one number"),
        ([TensorDict({"X": torch.ones(4), "Y": torch.tensor(0.0)})], r"'X' of shape \(4,\) in bag 0"),
        ([{"X": np.ones((2, 6)), "Y": 0}], "found a dict as bag 0, expected a list of bags"),
        ([np.ones((2, 6))], "found a ndarray as bag 0, expected a list of bags"),
        ("bags", "found a str, expected a list of bags"),
        (bag_of(2), "found a TensorDict, expected a list of bags"),
    ],
)
def test_what_makes_no_batch_is_refused(collate, batch, message):
    with pytest.raises(ParameterError, match=f"^bags: .*{message}"):
        collate(batch)


def test_a_dataset_is_not_a_list_of_bags(bags):
    with pytest.raises(ParameterError, match=r"^bags: found a ListOfBags, expected a list of bags"):
        collate_fn(bags)


def order(loader):
    return [[float(x[0, 0]) for x in batch["X"]] for batch in loader]


def flat(batches):
    return [number for batch in batches for number in batch]


@pytest.fixture
def numbered():
    return bags_from_arrays([np.full((2, 3), i) for i in range(11)], [0, 1] * 5 + [0])


def test_a_seed_decides_the_order_of_every_epoch(numbered):
    plain, first, again, other = (make_loader(numbered, seed=seed) for seed in (None, 0, 0, 1))
    assert flat(order(plain)) == list(range(11)) and [len(b) for b in order(plain)] == [4, 4, 3]
    epochs = [order(first), order(first)]
    assert epochs == [order(again), order(again)] and epochs[0] != epochs[1] and epochs[0] != order(other)
    assert sorted(flat(epochs[0])) == list(range(11))


def test_it_is_the_loader_that_the_notebooks_build_by_hand(numbered):
    generator = torch.Generator().manual_seed(3)
    by_hand = DataLoader(numbered, batch_size=4, shuffle=True, generator=generator, collate_fn=collate_fn)
    torch.rand(7)  # the loader's order is its own
    assert order(make_loader(numbered, 4, seed=3)) == order(by_hand)


def test_one_by_one_is_a_loader_of_single_bags(numbered):
    assert order(one_by_one(numbered, 5)) == order(make_loader(numbered, 1, seed=5))
    assert order(one_by_one(numbered)) == [[float(i)] for i in range(11)]


def test_a_loader_of_packed_batches_and_of_a_list(numbered):
    batch = next(iter(make_loader(numbered, 3, collate=collate_packed)))
    assert batch["offsets"].tolist() == [0, 2, 4, 6]
    assert order(make_loader(list(numbered), 3)) == order(make_loader(numbered, 3))


@pytest.mark.parametrize(
    "parameter, change",
    [
        ("bags", {"bags": lambda b: make_loader(b)}),
        ("bags", {"bags": lambda b: [np.ones((2, 3))]}),
        ("bags", {"bags": lambda b: b[0]}),
        ("bags", {"bags": lambda b: "bags"}),
        ("bags", {"bags": lambda b: []}),
        ("bags", {"bags": lambda b: b.subset([])}),
        ("batch_size", {"batch_size": 0}),
        ("batch_size", {"batch_size": float("nan")}),
        ("batch_size", {"batch_size": 2.0}),
        ("batch_size", {"batch_size": True}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 0.5}),
        ("seed", {"seed": "0"}),
        ("collate", {"collate": "padded"}),
    ],
)
def test_loaders_that_cannot_be_made_are_refused(bags, parameter, change):
    dataset = change.pop("bags", lambda b: b)(bags) if "bags" in change else bags
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        make_loader(dataset, **change)
