"""Bags from plain arrays, and bags that are read once and kept."""

import numpy as np
import pytest
import torch
from small import RUN

from mil_tutorial import DataError, ParameterError, TridentWSIDataset, bags_from_arrays, bags_in_memory, make_loader


def test_a_bag_an_array():
    bags = bags_from_arrays([np.ones((3, 2)), [[1, 2]], torch.zeros(4, 2)], (0, True, np.float64(1)))
    assert bags.get_bag_names() == ["bag 0", "bag 1", "bag 2"] and bags.get_bag_labels() == [0, 1, 1]
    assert [tuple(bag["X"].shape) for bag in bags] == [(3, 2), (1, 2), (4, 2)]
    assert all(bag["X"].dtype == bag["Y"].dtype == torch.float32 for bag in bags)


ONE = np.ones((2, 3))


@pytest.mark.parametrize(
    "arrays, labels, names, message",
    [
        ([ONE, np.full((2, 3), np.nan)], [0, 1], None, "bag 1: holds NaN or infinite features"),
        ([ONE, np.full((2, 3), 1e300)], [0, 1], None, "bag 1: holds NaN or infinite features"),
        ([ONE, np.ones((0, 3))], [0, 1], None, r"bag 1: has shape \(0, 3\)"),
        ([ONE, np.ones(3)], [0, 1], None, r"bag 1: has shape \(3,\), expected \(n, D\)"),
        ([ONE, np.ones((2, 4))], [0, 1], None, "bag 1: has 4 features, bag 0 has 3"),
        ([ONE, ONE * 1j], [0, 1], None, "bag 1: .* complex numbers"),
        ([ONE, [[1, 2], [3]]], [0, 1], None, "bag 1: its features are not numbers"),
        ([ONE, [["a", "b", "c"]]], [0, 1], None, "bag 1: its features are not numbers"),
        ([ONE, "slide"], [0, 1], None, "bag 1: its features are not numbers"),
        ([ONE, None], [0, 1], None, "bag 1: its features are not numbers"),
        ([ONE, ONE], [0, float("nan")], None, "bag 1: its label is nan, expected 0 or 1"),
        ([ONE, ONE], [0, "1"], None, "bag 1: its label is '1', expected 0 or 1"),
        ([ONE, ONE], [0, None], None, "bag 1: its label is None"),
        ([ONE, ONE], [0, 2], None, "bag 1: its label is 2"),
        ([ONE, ONE], [0, [0, 1]], None, r"bag 1: its label is \[0, 1\]"),
        ([ONE, ONE], [0], None, "2 bags, 1 labels and 2 names"),
        ([ONE, ONE], [0, 1], ["a", "a"], "a: two bags have this name"),
    ],
)
def test_a_bag_that_cannot_be_used_is_named(arrays, labels, names, message):
    with pytest.raises(DataError, match=message):
        bags_from_arrays(arrays, labels, names)


@pytest.mark.parametrize(
    "parameter, arguments",
    [
        ("arrays", ("slides", [0, 1])),
        ("arrays", (5, [0, 1])),
        ("arrays", ({"a": ONE}, [0])),
        ("labels", ([ONE, ONE], "01")),
        ("labels", ([ONE, ONE], None)),
        ("names", ([ONE, ONE], [0, 1], "ab")),
    ],
)
def test_what_is_not_a_list_is_refused_by_name(parameter, arguments):
    with pytest.raises(ParameterError, match=f"^{parameter}: found .* expected a list with one entry for each bag"):
        bags_from_arrays(*arguments)


def test_subset_keeps_names_with_bags_and_refuses_others():
    bags = bags_from_arrays([ONE * i for i in range(4)], [0, 1, 0, 1], list("abcd"))
    part = bags.subset([2, -4])
    assert part.get_bag_names() == ["c", "a"] and [float(b["X"][0, 0]) for b in part] == [2, 0]
    for wrong in ([4], [True, False, True, False], [1.0], 2):
        with pytest.raises(ParameterError, match=r"^indices: found "):
            bags.subset(wrong)


def test_read_once_and_kept(tree, monkeypatch):
    dataset = TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", "efficientnet_lite0", bag_keys=["X", "Y"])
    bags = bags_in_memory(dataset, progress=False)
    monkeypatch.setattr(TridentWSIDataset, "_build_bag", None)
    assert bags.get_bag_names() == dataset.get_bag_names() and bags.get_bag_labels() == dataset.get_bag_labels()
    bags[0]["Y"] = torch.tensor(7.0)
    assert bags[0]["Y"] in (0, 1) and bags[0]["X"].shape[1] == 1280


def test_what_cannot_be_kept_is_refused(tree):
    bags = bags_from_arrays([ONE, ONE], [0, 1])
    for wrong in (make_loader(bags), [ONE], "train"):
        with pytest.raises(ParameterError, match=r"^dataset: found a .* expected a dataset of bags"):
            bags_in_memory(wrong)
    for device in ("gpu", "cuda:99", 7.5):
        with pytest.raises(ParameterError, match=r"^device: found .* expected a device that PyTorch can use here"):
            bags_in_memory(bags, device, progress=False)


def test_a_part_of_the_patches_is_spread_over_the_bag(tree):
    dataset = TridentWSIDataset(
        tree / RUN, tree / "wsi_labels.csv", "efficientnet_lite0", bag_keys=["X", "Y", "y_inst", "coords"]
    )
    some, all_ = bags_in_memory(dataset, patches=3, progress=False), bags_in_memory(dataset, progress=False)
    for part, whole in zip(some, all_, strict=True):
        n = len(whole["X"])
        rows = [0, n // 3, 2 * n // 3] if n > 3 else range(n)
        for key in ("X", "y_inst", "coords"):
            assert torch.equal(part[key], whole[key][list(rows)])
        assert part["Y"] == whole["Y"]


def test_a_part_of_the_patches_has_no_adjacency(tree):
    dataset = TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", "efficientnet_lite0", bag_keys=["X", "adj"])
    with pytest.raises(ParameterError, match=r"patches: .* expected None for bags with 'adj'"):
        bags_in_memory(dataset, patches=2, progress=False)
