"""What is set for a whole process: how freed memory is treated, and when Python looks for garbage.

The library leaves a user's process as it is. Only commands, which own their process, call `keep_freed_memory` and
`collector_at_rest`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Inside the block Python does not look for garbage, and later it leaves alone what the block has loaded.

    PyTorch and its like make 700 000 objects that stay until the end. Python would go through all of them again and
    again: a fifth of the time of loading, and two seconds when the process ends. A command that loads them inside this
    block ends three seconds sooner on two old cores.

    Source: gc.freeze, in the documentation of Python's `gc`.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)  # whatever was loaded later


def keep_freed_memory() -> None:
    """Let the C library of Linux keep the memory of one batch for the next, up to 256 MB in all.

    By default it gives it back. That costs more than it seems: the kernel clears every page that is taken again. On
    two cores this was a third of the time of the embedded encoder, and two thirds on a Dask worker, which asks for
    giving back early. Other systems have another C library, and nothing is done.

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
