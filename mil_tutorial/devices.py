"""What a computation runs on: the device, and how many threads. `threads` restores what it sets."""

from __future__ import annotations

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
