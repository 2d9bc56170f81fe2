"""Read the next batch while the model works on this one, where batches come from files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader, Subset


def reads_files(loader: DataLoader) -> bool:
    """Whether a loader's bags are read from files in this process, as those of `TridentWSIDataset` are at first."""
    dataset: Any = loader.dataset
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return loader.num_workers == 0 and bool(getattr(dataset, "reads_files", False))


def batches_of(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader, in its order.

    Where they are read from files, one thread reads one batch ahead: it waits for the disk while the model computes.
    Bags in memory are taken when it is their turn, which leaves both processors to the model.
    """
    if not reads_files(loader):
        yield from loader
        return
    batches, end = iter(loader), object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, end)
        while (batch := coming.result()) is not end:
            coming = reader.submit(next, batches, end)
            yield batch
