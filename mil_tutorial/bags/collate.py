"""Batches of bags of different sizes, padded to the largest or packed one behind the other, and loaders of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader, Dataset

from mil_tutorial.errors import Found, ParameterError, require, require_integer

BAGS = "a list of bags, TensorDicts with features 'X', such as [dataset[0], dataset[1]]"
DATASET = "a dataset of bags, such as TridentWSIDataset(...) or bags_from_arrays(...)"


def _is_bag(bag: object) -> bool:
    return isinstance(bag, (TensorDict, Mapping)) and all(isinstance(value, torch.Tensor) for value in bag.values())


def _kind(bags: object) -> Found:
    """What was given in place of bags, in words."""
    inside = f" of {type(bags[0]).__name__}" if isinstance(bags, (list, tuple)) and bags else ""
    return Found(f"a {type(bags).__name__}{inside}")


def _sizes(bags: Sequence[TensorDict]) -> list[int]:
    """The number of patches in each bag.

    Raises:
        ParameterError: they are not bags, or do not go together in a batch.
    """
    require(isinstance(bags, (list, tuple)), "bags", _kind(bags), BAGS)
    require(len(bags) > 0, "bags", Found("an empty list"), "at least one bag")
    for i, bag in enumerate(bags):
        _check_bag(bag, i)
        if set(bag.keys()) != set(bags[0].keys()):
            found = Found(f"{sorted(bag.keys())} in bag {i}, {sorted(bags[0].keys())} in bag 0")
            raise ParameterError("bags", found, "the same keys in every bag")
    widths = {tuple(bag["X"].shape[1:]) for bag in bags}
    if len(widths) > 1:
        found = Found(f"features of sizes {sorted(widths)}")
        raise ParameterError("bags", found, "one size; use one encoder for all bags")
    return [len(bag["X"]) for bag in bags]


def _check_bag(bag: TensorDict, i: int) -> None:
    """Bag `i` of a batch has features, and as many rows of everything else."""
    require(_is_bag(bag), "bags", Found(f"a {type(bag).__name__} as bag {i}"), BAGS)
    require("X" in bag.keys(), "bags", Found(f"bag {i} without 'X'"), "features in every bag; add 'X' to bag_keys")
    X = bag["X"]
    require(X.ndim > 1, "bags", Found(f"'X' of shape {tuple(X.shape)} in bag {i}"), "(n, D), a row for each patch")
    require(len(X) > 0, "bags", Found(f"no patches in bag {i}"), "at least one; leave empty slides out")
    for key, value in bag.items():
        if value.ndim and (key == "Y" or len(value) != len(X)):
            found = Found(f"'{key}' of shape {tuple(value.shape)} in bag {i}")
            expected = "one number" if key == "Y" else f"{len(X)} rows, one for each patch"
            raise ParameterError("bags", found, expected)


def collate_fn(bags: Sequence[TensorDict]) -> TensorDict:
    """Pad bags to the size of the largest and stack them.

    Args:
        bags: B bags; the first dimension of X, y_inst and coords is the number of patches.

    Returns:
        TensorDict of batch size (B,): X (B, N, D), Y (B,), mask (B, N) bool, True at real patches, and, where the bags
        have them, y_inst (B, N), coords (B, N, 2), adj sparse (B, N, N). Padding is 0.

    Raises:
        ParameterError: no bags, an empty bag, different keys or different feature sizes.

    >>> small, large = (TensorDict({"X": torch.ones(n, 4), "Y": torch.tensor(0.0)}) for n in (2, 3))
    >>> collate_fn([small, large])["mask"]
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    sizes, batch = _sizes(bags), {}
    B, N = len(bags), max(sizes)
    for key in bags[0].keys():
        values = [bag[key] for bag in bags]
        if values[0].is_sparse:
            batch[key] = _stack_sparse(values, N)
        elif values[0].ndim == 0:
            batch[key] = torch.stack(values)
        elif B == 1:
            batch[key] = values[0][None]
        else:
            padded = values[0].new_zeros((B, N, *values[0].shape[1:]))
            for i, value in enumerate(values):
                padded[i, : len(value)] = value
            batch[key] = padded
    device = bags[0]["X"].device
    batch["mask"] = torch.arange(N, device=device) < torch.tensor(sizes, device=device)[:, None]  # (B, N)
    return TensorDict(batch, batch_size=[B])


def _stack_sparse(matrices: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """Sparse (n, n) matrices -> sparse (B, size, size)."""
    parts = [m.coalesce() for m in matrices]
    index, start = parts[0].indices().new_empty(3, sum(p._nnz() for p in parts)), 0
    for i, part in enumerate(parts):
        place = slice(start, start := start + part._nnz())
        index[0, place], index[1:, place] = i, part.indices()
    values = torch.cat([p.values() for p in parts])  # of one bag, too: it must not share what a dataset keeps
    return torch.sparse_coo_tensor(index, values, (len(parts), size, size), is_coalesced=True, check_invariants=False)


def collate_packed(bags: Sequence[TensorDict]) -> TensorDict:
    """Lay bags one behind the other, with no padding.

    Returns:
        TensorDict: X (sum of n, D), offsets (B + 1,) int64, so that bag i is X[offsets[i]:offsets[i + 1]], Y (B,), and,
        where the bags have them, y_inst (sum of n,), coords (sum of n, 2). Adjacency matrices are left to `collate_fn`.

    Raises:
        ParameterError: no bags, an empty bag, different keys or different feature sizes.
    """
    sizes = _sizes(bags)
    batch = {}
    for key in bags[0].keys():
        values = [bag[key] for bag in bags]
        if not values[0].is_sparse:
            batch[key] = torch.stack(values) if values[0].ndim == 0 else torch.cat(values)
    batch["offsets"] = torch.tensor([0, *sizes], device=bags[0]["X"].device).cumsum(0)
    return TensorDict(batch)


def make_loader(
    bags: Dataset | Sequence[TensorDict],
    batch_size: int = 4,
    seed: int | None = None,
    collate: Callable[[Any], Any] = collate_fn,
) -> DataLoader:
    """A loader of batches: in the order of the bags, or, with a seed, shuffled in an order that the seed decides.

    Args:
        bags: a dataset, or a list of bags.
        batch_size: bags in a batch.
        seed: None keeps the order. The same seed gives the same orders, epoch after epoch.
        collate: `collate_fn` pads, `collate_packed` packs.

    Raises:
        ParameterError: `bags` is not a dataset or is empty, or another argument cannot be used.
    """
    is_list = isinstance(bags, (list, tuple)) and all(map(_is_bag, bags))
    require(is_list or (isinstance(bags, Dataset) and isinstance(bags, Sized)), "bags", _kind(bags), DATASET)
    require(len(cast(Sized, bags)) > 0, "bags", Found("none"), "at least one bag")
    require_integer("batch_size", batch_size, low=1)
    if seed is not None:
        require_integer("seed", seed, low=0, high=2**64 - 1)
    require(callable(collate), "collate", collate, "a function such as collate_fn or collate_packed")
    generator = None if seed is None else torch.Generator().manual_seed(int(seed))
    dataset = cast(Dataset, bags)  # PyTorch takes a list, too
    return DataLoader(dataset, int(batch_size), shuffle=seed is not None, generator=generator, collate_fn=collate)


def one_by_one(bags: Dataset | Sequence[TensorDict], seed: int | None = None) -> DataLoader:
    """`make_loader` with one bag in a batch."""
    return make_loader(bags, batch_size=1, seed=seed)
