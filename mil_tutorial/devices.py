"""What a computation runs on: the device, how many threads, and how freed memory is treated.

The library leaves the process as it finds it: `threads` restores what it sets. Only commands, which own their
process, call `keep_freed_memory`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mil_tutorial.errors import ParameterError, require_integer

# Multiply-adds of one step below which it computes on one thread. Measured on two cores: alone, a second thread makes
# a step 1.1 times faster at 2^23, 1.6 times from 2^26 on; beside one other program it makes the step 1.2 to 2.4 times
# slower, and the small ones suffer most.
SMALL = 1 << 27


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else a GPU if there is one, else the CPU.

    Raises:
        ParameterError: it is not here, or no device at all.
    """
    if device is not None:
        try:
            chosen = torch.device(device)
            torch.zeros(1, device=chosen).item()
        except Exception as error:  # each kind of device fails in its own way
            raise ParameterError("device", device, "a device that works here, such as 'cpu'") from error
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let PyTorch compute on `n` threads inside the block; afterwards it has as many as before.

    Raises:
        ParameterError: not a whole number of at least 1.

    >>> before = torch.get_num_threads()
    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    require_integer("n", n, low=1)
    before = torch.get_num_threads()
    if n != before:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        if n != before:
            torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let the C library of Linux keep the memory of one batch for the next, up to 256 MB in all.

    By default it gives it back. That costs more than it seems: the kernel clears every page that is taken again. On
    two cores this was a third of the time of the embedded encoder, and two thirds on a Dask worker, which asks for
    giving back early. The setting is of the whole process, so only commands make it. Other systems have another C
    library, and nothing is done.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt = ctypes.CDLL(None).mallopt
        trim, mmap = -1, -3  # their numbers in malloc.h
        mallopt(mmap, 1 << 26)
        mallopt(trim, 1 << 28)


def give_back_memory() -> None:
    """Give memory that is free inside this process back to the system, as training does when it is done.

    Blocks of up to 32 MB come from the C library's heap, and what lies between those that are in use stays with the
    process: half a gigabyte after some rounds on bags of real size. Giving it back takes a hundredth of a second. Other
    systems than Linux have another C library, and nothing is done.

    Source: malloc_trim(3).
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
