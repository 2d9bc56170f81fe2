"""Run one function over many slides: here, one after the other, or on the workers of a Dask cluster.

Dask distributed is an optional extra (`pip install 'mil-tutorial[cluster]'`). Workers need the same package and the
same paths: a shared file system. A task writes its file whole or not at all, and does nothing if it is there already;
so a task that runs again, because its worker died, does no harm.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mil_tutorial.errors import DataError, ParameterError, require

if TYPE_CHECKING:
    from distributed import Client

Tasks = Mapping[str, tuple]

Outcome = tuple[dict[str, Any], dict[str, str]]


def run_tasks(
    function: Callable,
    tasks: Tasks,
    *,
    scheduler: str | None = None,
    what: str = "Working",
    unit: str = "slide",
    progress: bool = True,
) -> Outcome:
    """Call `function(*arguments)` for each task. A task that fails does not stop the others.

    Args:
        function: importable by name, so that workers find it.
        tasks: name -> arguments. Paths must mean the same on all machines.
        scheduler: address of a Dask scheduler, such as `tcp://10.0.0.1:8786`, or the path of its scheduler file; None
            works here.
        what, unit: for the progress bar.
        progress: show it.

    Returns:
        Results by name in the order of the tasks, and errors by name: the message of a `DataError`, or what happened to
        the worker.

    Raises:
        ParameterError: the scheduler is neither an address nor a path.
        DataError: no scheduler answers at the address, or Dask is not installed.

    >>> run_tasks(pow, {"a": (2, 3), "b": (2, 4)}, progress=False)
    ({'a': 8, 'b': 16}, {})
    """
    with tqdm(total=len(tasks), desc=what, unit=unit, disable=not progress) as bar:
        if scheduler is None:
            return _run_here(function, tasks, bar)
        with _connect(scheduler) as client:
            return _run_there(function, tasks, bar, client)


def _run_here(function: Callable, tasks: Tasks, bar: tqdm) -> Outcome:
    results: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, arguments in tasks.items():
        bar.set_postfix_str(name)
        try:
            results[name] = function(*arguments)
        except DataError as error:
            errors[name] = str(error)
        bar.update()
    return results, errors


def _connect(scheduler: str) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        raise DataError(
            "the scheduler needs Dask, which is not installed. Install it: pip install 'mil-tutorial[cluster]'."
        ) from error
    good = isinstance(scheduler, (str, os.PathLike)) and str(scheduler).strip() != ""  # of "", Dask starts its own
    require(good, "scheduler", scheduler, "an address such as tcp://10.0.0.1:8786, or the path of a scheduler file")
    try:
        in_file = os.path.isfile(scheduler)
        address = json.loads(Path(scheduler).read_text(encoding="utf-8"))["address"] if in_file else scheduler
        return Client(str(address), timeout=20)
    except (OSError, ValueError, TimeoutError, KeyError, TypeError) as error:
        raise DataError(
            f"{scheduler}: no Dask scheduler answers there ({error!s:.120}). Start one: dask scheduler."
        ) from error


def _run_there(function: Callable, tasks: Tasks, bar: tqdm, client: Client) -> Outcome:
    from distributed import as_completed

    results: dict[str, Any] = {}
    errors: dict[str, str] = {}
    cluster = client.scheduler_info(n_workers=-1)
    if not cluster["workers"]:
        address = cluster["address"]
        bar.write(f"{address} has no workers yet; waiting for one. Start it: dask worker {address}")
    names = {client.submit(guarded, function, arguments, pure=False): name for name, arguments in tasks.items()}
    for future in as_completed(list(names)):
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


def guarded(function: Callable, arguments: tuple) -> tuple[Any, str | None]:
    """On a worker: one thread for each task slot; errors of ours as text, which travels where exceptions may not."""
    from mil_tutorial.devices import threads

    set_up_worker()
    with threads(1):
        try:
            return function(*arguments), None
        except (DataError, ParameterError) as error:
            return None, str(error)


@lru_cache(1)
def set_up_worker() -> None:
    """Keep freed memory in a process that Dask started to be a worker; a user's own process is not ours to change."""
    from distributed import get_worker

    from mil_tutorial.process import keep_freed_memory

    if get_worker().nanny or Path(sys.argv[0]).name in ("dask", "dask-worker", "dask_worker.py"):
        keep_freed_memory()


def refuse_failures(failures: Sequence[str], done: int, total: int, unit: str = "slides") -> None:
    """At the end of work on many: one error that names all failures and says how much is done.

    Raises:
        DataError: there are failures.
    """
    if failures:
        raise DataError("\n".join([*failures, f"{done} of {total} {unit} are done and stay as they are."]))
