"""Batches from files are read one ahead, in the loader's order; bags in memory are not."""

import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from mil_tutorial.training.ahead import batches_of, reads_files


class Files(Dataset):
    """Bags that note which thread read them."""

    def __init__(self, n=6, reads_files=True):
        self.n, self.reads_files, self.threads = n, reads_files, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i == 99:
            raise ValueError("a damaged file")
        self.threads.append(threading.get_ident())
        return i


def loader_of(dataset, **options):
    return DataLoader(dataset, batch_size=1, collate_fn=lambda bags: bags[0], **options)


def test_one_batch_is_read_ahead_in_the_same_order():
    for shuffle in (False, True):
        orders = []
        for ahead in (False, True):
            generator = torch.Generator().manual_seed(3)
            loader = loader_of(Files(reads_files=ahead), shuffle=shuffle, generator=generator)
            orders.append([list(batches_of(loader)) for _ in range(2)] + [generator.get_state().tolist()])
        assert orders[0] == orders[1]


def test_it_reads_while_the_model_works():
    dataset = Files()
    batches = batches_of(loader_of(Subset(dataset, range(4))))
    assert next(batches) == 0
    for _ in range(1000):
        if len(dataset.threads) == 2:
            break
        threading.Event().wait(0.01)
    assert len(dataset.threads) == 2 and threading.get_ident() not in dataset.threads
    assert list(batches) == [1, 2, 3]


def test_bags_in_memory_are_taken_in_this_thread():
    dataset = Files(reads_files=False)
    assert list(batches_of(loader_of(dataset))) == list(range(6)) and set(dataset.threads) == {threading.get_ident()}
    assert not reads_files(loader_of([1, 2])) and not reads_files(loader_of(Files(), num_workers=1))


def test_what_goes_wrong_is_told_when_its_turn_comes_and_nothing_runs_on():
    batches = batches_of(loader_of(Files(200), sampler=[0, 99, 1]))
    assert next(batches) == 0
    with pytest.raises(ValueError, match="damaged"):
        next(batches)
    before = threading.active_count()
    batches = batches_of(loader_of(Files()))
    next(batches)
    batches.close()
    assert threading.active_count() == before
