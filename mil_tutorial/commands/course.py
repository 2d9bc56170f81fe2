"""`mil-tutorial course`: execute the six notebooks, two at a time where there is room, and say how each went."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from tqdm.auto import tqdm

from mil_tutorial.data import VARIABLE, open_data
from mil_tutorial.errors import DataError, require, require_integer
from mil_tutorial.exercises.progress import VARIABLE as PROGRESS
from mil_tutorial.files import check_writable, written_whole

if TYPE_CHECKING:
    from nbclient import NotebookClient
    from nbformat import NotebookNode

KEY_RESULT = "Key result:"  # a notebook prints one line that begins so
COLOURS = re.compile(r"\x1b\[[\d;]*m")  # of a terminal; IPython's tracebacks have them

# On Linux not by `getrusage`: a process begins with the peak of the one that started it. The kernel has done its work:
# without `freeze` it would look for garbage among all of PyTorch before it ends, for two to three seconds.
_PEAK = """
import gc as _gc, sys as _sys
_gc.freeze()
if _sys.platform == "win32":
    import psutil as _p; print(_p.Process().memory_info().peak_wset)
elif _sys.platform == "linux":
    print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024)
else:
    import resource as _r; print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss)
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--data", help="your own data root instead of the synthetic slides")
    parser.add_argument("--out", default="build/notebooks", help="folder of the executed copies")
    parser.add_argument("--only", help="only notebooks whose name begins so, such as 03, appendix or mil-in-one-hour")
    parser.add_argument("--jobs", type=int, help="notebooks at a time; two where there are two processors and 4 GB")


def run(args: argparse.Namespace) -> int:
    """Execute them and print the table; 1 if one failed."""
    start = time.perf_counter()
    runs = run_course(args.out, only=args.only, data=args.data, jobs=args.jobs)
    print(table(runs))
    print(f"\nDone in {time.perf_counter() - start:.0f} s. The executed notebooks are in {runs[0].copy.parent}")
    return int(any(r.error for r in runs))


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook.

    Attributes:
        name: of the notebook, without its ending.
        seconds: how long it took.
        peak: most memory, in bytes.
        result: its key result.
        copy: the executed copy.
        error: the last line of what went wrong, "" if nothing did.
    """

    name: str
    seconds: float
    peak: int
    result: str
    copy: Path
    error: str = ""


def notebook_folder() -> Path:
    """The folder of the notebooks: the checkout's, else the copy inside the installed package.

    Raises:
        DataError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "notebooks", package / "_notebooks"):
        if list(folder.glob("0*.ipynb")):
            return folder
    raise DataError(
        f"{package}: the notebooks are not there. Run `make notebooks` in the checkout, or install the package again."
    )


def run_course(
    out: str | os.PathLike[str] = "build/notebooks",
    *,
    only: str | None = None,
    data: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
) -> list[NotebookRun]:
    """Execute all notebooks with a progress bar.

    Args:
        out: folder of the executed copies; after a run of all of them `course.json` there holds seconds and memory.
        only: execute only the notebooks whose name begins so.
        data: as `open_data`; the notebooks' kernels get it.
        jobs: notebooks that run at the same time. They do not depend on each other, and small bags take one processor.
            By default two, where there are two processors and 4 GB of free memory.

    Raises:
        ParameterError: no notebook's name begins with `only`, or `jobs` is below 1.
        DataError: the packages of the course are not installed, `data` is not a data root, or `out` cannot be written.
    """
    try:
        import ipykernel  # noqa: F401
        import nbclient  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{error.name} is not installed. The course needs: pip install 'mil-tutorial[course]'."
        ) from error
    paths = _notebooks(only)
    root, environment = open_data(data).root, dict(os.environ)
    if data or environment.get(VARIABLE):
        environment[VARIABLE] = str(root)  # kernels run in another folder: not a relative path
    if jobs is None:
        jobs = _usual_jobs()
    require_integer("jobs", jobs, low=1)
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it, see `commands.main.program`
    if min(jobs, len(paths)) > 1:  # kernels share the processors; threads that wait for one another would spin
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // min(jobs, len(paths)))))
    folder = Path(out).resolve()
    check_writable(folder / "course.json")
    with tqdm(total=len(paths), desc="Running the course", unit="notebook") as bar:
        runs = asyncio.run(_run_all(paths, folder, environment, jobs=jobs, bar=bar))
    if only is None:
        measured = [
            {
                "name": r.name,
                "seconds": round(r.seconds, 1),
                "gigabytes": round(r.peak / 2**30, 2),
                "result": r.result,
                "error": r.error,
            }
            for r in runs
        ]
        with written_whole(folder / "course.json") as temporary:
            temporary.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return runs


def _usual_jobs() -> int:
    room = (os.cpu_count() or 1) > 1 and psutil.virtual_memory().available > 4 * 2**30
    return 2 if room else 1


async def _run_all(
    paths: Sequence[Path], folder: Path, environment: Mapping[str, str], *, jobs: int, bar: tqdm
) -> list[NotebookRun]:
    """Execute notebooks, `jobs` at a time, the last ones first: they take longest."""
    free, running = asyncio.Semaphore(jobs), dict[str, str]()

    async def one(path: Path) -> NotebookRun:
        def show(where: str) -> None:
            running[path.stem] = f"{path.stem[:2]} {where}"
            bar.set_postfix_str(", ".join(sorted(running.values())))

        async with free:
            done = await _run_notebook(path, folder / path.name, environment=environment, show=show)
        running.pop(path.stem, None)
        bar.set_postfix_str(", ".join(sorted(running.values())), refresh=False)
        bar.update()
        return done

    runs = await asyncio.gather(*map(one, reversed(paths)))
    return sorted(runs, key=lambda r: r.name)


def _notebooks(only: str | None) -> list[Path]:
    """The notebooks to execute, in their order.

    Raises:
        ParameterError: no name begins with `only`.
    """
    paths = sorted(notebook_folder().glob("0*.ipynb"))
    if only is None:
        return paths
    paths = sorted(notebook_folder().glob("*.ipynb"))  # the appendix and the one-hour notebook, too, when asked for
    chosen = [p for p in paths if only and p.stem.startswith(only)]
    require(bool(chosen), "only", only, f"the beginning of one of {', '.join(p.stem for p in paths)}")
    return chosen


def run_notebook(
    path: Path, target: Path, *, timeout: int = 1200, environment: Mapping[str, str] | None = None
) -> NotebookRun:
    """Execute one notebook in a kernel of its own and write the executed copy, also if a cell fails.

    Args:
        path: the notebook.
        target: the copy.
        timeout: most seconds of a cell.
        environment: variables of the kernel; those of this process by default.
    """
    return asyncio.run(_run_notebook(path, target, timeout=timeout, environment=environment))


async def _run_notebook(
    path: Path,
    target: Path,
    *,
    timeout: int = 1200,
    environment: Mapping[str, str] | None = None,
    show: Callable[[str], None] | None = None,
) -> NotebookRun:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    target.parent.mkdir(parents=True, exist_ok=True)
    resources = {"metadata": {"path": str(target.parent)}}
    quiet = ["--IPKernelApp.log_level=40"]  # else each kernel warns in the bar that its sockets on this machine are TCP
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=resources, extra_arguments=quiet
    )
    start, error, peak = time.perf_counter(), "", 0
    try:
        variables = {**(os.environ if environment is None else environment), PROGRESS: "off"}  # no learner solved these
        async with client.async_setup_kernel(env=variables):
            # nbclient would end the kernel that began last and let the others go on. Left alone, Ctrl-C ends all.
            with suppress(NotImplementedError):  # Windows has no such handlers
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().remove_signal_handler(number)
            for index, cell in enumerate(notebook.cells):
                if show is not None:
                    show(f"cell {index + 1}/{len(notebook.cells)}")
                await client.async_execute_cell(cell, index)
            seconds = time.perf_counter() - start
            peak = await _peak(client)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
        last_line = COLOURS.sub("", str(failure)).strip().splitlines()[-1]
        seconds, error = time.perf_counter() - start, last_line
    with written_whole(target) as temporary:
        nbformat.write(notebook, temporary)
    return NotebookRun(path.stem, seconds, peak, _key_result(notebook), target, error)


async def _peak(client: NotebookClient) -> int:
    """Most memory that the client's kernel has had, in bytes."""
    import nbformat

    probe, title = nbformat.v4.new_code_cell(_PEAK), client.nb.cells[0]
    await client.async_execute_cell(probe, 0, store_history=False)
    client.nb.cells[0] = title  # nbclient puts the cell that it ran in the place that it is told
    return int(probe.outputs[0]["text"])


def _key_result(notebook: NotebookNode) -> str:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "stream"]
    results = re.findall(rf"^{KEY_RESULT}\s*(.+)$", "".join(o.get("text", "") for o in outputs), re.MULTILINE)
    return results[-1].strip() if results else ""


def table(runs: Sequence[NotebookRun]) -> str:
    """The runs as a table in plain text."""
    wide = max(len(r.name) for r in runs)
    lines = [f"{'notebook':<{wide}}  seconds  memory   key result", "-" * (wide + 60)]
    for r in runs:
        outcome = f"FAILED: {r.error}" if r.error else r.result
        lines.append(f"{r.name:<{wide}}  {r.seconds:7.1f}  {r.peak / 2**30:4.2f} GB  {outcome}")
    lines.append(f"{'total':<{wide}}  {sum(r.seconds for r in runs):7.1f}")
    return "\n".join(lines)
