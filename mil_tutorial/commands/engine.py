"""Run one function over many slides: here, one after the other, or on the workers of a Dask cluster.

Dask distributed is an optional extra (`pip install 'mil-tutorial[cluster]'`). Workers need the same package and the same
paths: a shared file system. A task writes its file whole or not at all, and does nothing if it is there already; so a task
that runs again, because its worker died, does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from mil_tutorial.errors import DataError


def run_tasks(
    function: Callable, tasks: Mapping[str, tuple], scheduler: str | None = None, what: str = "Working", unit: str = "slide",
    progress: bool = True,
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """Call `function(*arguments)` for each task. A task that fails does not stop the others.

    Args:
        function: importable by name, so that workers find it.
        tasks: name -> arguments. Paths must mean the same on all machines.
        scheduler: address of a Dask scheduler, such as `tcp://10.0.0.1:8786`, or the path of its scheduler file; None runs here.
        what, unit: for the progress bar.

    Returns:
        Results by name in the order of the tasks, and errors by name: the message of a `DataError`, or what happened to the worker.

    Raises:
        DataError: no scheduler answers at the address, or Dask is not installed.
    """
    if scheduler is None:
        return _run_here(function, tasks, what, unit, progress)
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ImportError as error:
        raise DataError(
            f"--scheduler {scheduler}: Dask is not installed. Install it: pip install 'mil-tutorial[cluster]'."
        ) from error
    try:
        client = Client(scheduler_file=scheduler) if os.path.isfile(scheduler) else Client(scheduler, timeout=20)
    except (OSError, ValueError, TimeoutError) as error:
        raise DataError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error!s:.120}). Start one: dask scheduler."
        ) from error
    results, errors = {}, {}
    with client, tqdm(total=len(tasks), desc=what, unit=unit, disable=not progress) as bar:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            bar.write(f"{scheduler} has no workers yet; waiting for one. Start it: dask worker {scheduler}")
        names = {client.submit(_guarded, function, arguments, pure=False): name for name, arguments in tasks.items()}
        for future in completed(list(names)):
            name = names[future]
            if future.status == "finished":
                value, error = future.result()
                if error is None:
                    results[name] = value
                else:
                    errors[name] = error
            else:
                errors[name] = f"{name}: its worker failed ({future.exception()!s:.160}). Run the same command again."
            bar.update()
    return {n: results[n] for n in tasks if n in results}, {n: errors[n] for n in tasks if n in errors}


def _run_here(function, tasks, what, unit, progress):
    results, errors = {}, {}
    with tqdm(tasks.items(), desc=what, unit=unit, disable=not progress) as bar:
        for name, arguments in bar:
            bar.set_postfix_str(name)
            try:
                results[name] = function(*arguments)
            except DataError as error:
                errors[name] = str(error)
    return results, errors


def _guarded(function: Callable, arguments: tuple) -> tuple[Any, str | None]:
    """On a worker: one thread for each task slot, and a data error as text, which travels where an exception may not."""
    import torch

    torch.set_num_threads(1)
    try:
        return function(*arguments), None
    except DataError as error:
        return None, str(error)


def refuse_failures(failures: Sequence[str], done: int, total: int, unit: str = "slides") -> None:
    """At the end of work on many: one error that names all failures and says how much is done.

    Raises:
        DataError: there are failures.
    """
    if failures:
        raise DataError("\n".join([*failures, f"{done} of {total} {unit} are done and stay as they are."]))
