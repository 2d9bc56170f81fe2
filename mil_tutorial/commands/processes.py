"""Run one function on many things in processes of this machine; `engine` does it on several machines."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm.auto import tqdm

from mil_tutorial.errors import DataError, require_integer
from mil_tutorial.files import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 61  # processes that Windows can wait for


def begin_worker() -> None:
    """A worker process ends with its parent and computes on one thread: there is a worker for each core."""
    end_with_parent()
    import cv2

    cv2.setNumThreads(1)
    if "torch" in sys.modules:  # loading it only to set this would take longer than most of the work
        import torch

        torch.set_num_threads(1)


def process_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    what: str,
    unit: str = "slide",
    workers: int | None = None,
    chunk: int = 1,
    enough: int = 2,
    progress: bool = True,
) -> list[Result]:
    """`function(item)` for each item, in processes; in this one where one is enough.

    Args:
        function: importable by name, so that the workers find it.
        items: its arguments, which can be pickled.
        what, unit: for the progress bar.
        workers: processes; one for each core by default.
        chunk: items that a worker takes at a time; more than one where an item takes only milliseconds.
        enough: items from which on starting processes pays.
        progress: show a bar.

    Returns:
        The results, in the order of the items.

    Raises:
        ParameterError: `workers` is not a whole number of at least 1.
        DataError: a worker was killed.
        Exception: what `function` raises first, in the order of the items; the items that wait are given up.
    """
    if workers is not None:
        require_integer("workers", workers, low=1)
    processes = min(workers or os.cpu_count() or 1, -(-len(items) // chunk), MOST) if len(items) >= enough else 1
    bar = tqdm(total=len(items), desc=what, unit=unit, disable=not progress)
    results = []
    with bar:
        if processes <= 1:
            for item in items:
                results.append(function(item))
                bar.update()
            return results
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=begin_worker) as pool:
            try:
                for result in pool.map(function, items, chunksize=chunk):
                    results.append(result)
                    bar.update()
            except BrokenProcessPool as error:
                raise DataError(
                    f"{what}: a worker process was killed, perhaps because the memory was full."
                    " Free some memory or use fewer workers, and run it again."
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what waits need not be done first
                raise
    return results
