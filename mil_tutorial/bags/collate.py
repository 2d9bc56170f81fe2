"""Batches of bags of different sizes: padded to the largest, or packed one behind the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader, Dataset


def _check(bags: Sequence[TensorDict]) -> list[int]:
    if not bags:
        raise ValueError("a batch needs at least one bag.")
    if any("X" not in bag.keys() for bag in bags):
        raise ValueError("every bag needs features 'X'. Add 'X' to bag_keys.")
    sizes = [bag["X"].shape[0] for bag in bags]
    if 0 in sizes:
        raise ValueError(f"bag {sizes.index(0)} of the batch has no patches. Leave empty slides out.")
    widths = {tuple(bag["X"].shape[1:]) for bag in bags}
    if len(widths) > 1:
        raise ValueError(f"the bags have feature sizes {sorted(widths)}. Use one encoder for all bags.")
    return sizes


def collate_fn(bags: Sequence[TensorDict]) -> TensorDict:
    """Pad bags to the size of the largest and stack them.

    Args:
        bags: B bags; the first dimension of X, y_inst and coords is the number of patches.

    Returns:
        TensorDict of batch size (B,): X (B, N, D), Y (B,), mask (B, N) bool, True at real patches, and, where the bags have
        them, y_inst (B, N), coords (B, N, 2), adj sparse (B, N, N). Padding is 0.

    Raises:
        ValueError: no bags, an empty bag, or different feature sizes.
    """
    sizes = _check(bags)
    B, N = len(bags), max(sizes)
    batch = {}
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
    number = torch.cat([torch.full((p.values().shape[0],), i) for i, p in enumerate(parts)])
    index = torch.cat([number[None], torch.cat([p.indices() for p in parts], 1)])
    values = torch.cat([p.values() for p in parts])
    return torch.sparse_coo_tensor(index, values, (len(parts), size, size), is_coalesced=True, check_invariants=False)


def one_by_one(bags: Dataset, seed: int | None = None) -> DataLoader:
    """A loader with one bag in a batch: in order, or, with a seed, in an order that the seed decides."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(bags, batch_size=1, shuffle=seed is not None, generator=generator, collate_fn=collate_fn)


def collate_packed(bags: Sequence[TensorDict]) -> TensorDict:
    """Lay bags one behind the other, with no padding.

    Returns:
        TensorDict: X (sum of n, D), offsets (B + 1,) int64, so that bag i is X[offsets[i]:offsets[i + 1]], Y (B,), and, where
        the bags have them, y_inst (sum of n,), coords (sum of n, 2). Adjacency matrices are left to `collate_fn`.

    Raises:
        ValueError: no bags, an empty bag, or different feature sizes.
    """
    sizes = _check(bags)
    batch = {}
    for key in bags[0].keys():
        values = [bag[key] for bag in bags]
        if not values[0].is_sparse:
            batch[key] = torch.stack(values) if values[0].ndim == 0 else torch.cat(values)
    batch["offsets"] = torch.tensor([0, *sizes], device=bags[0]["X"].device).cumsum(0)
    return TensorDict(batch)
