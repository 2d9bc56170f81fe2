"""Run the course: execute the six notebooks one after another and say how each went."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole

KEY_RESULT = "Key result:"  # a notebook prints one line that begins so

_PEAK = """
import sys as _sys
if _sys.platform == "win32":
    import psutil as _p; print(_p.Process().memory_info().peak_wset)
else:
    import resource as _r; print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss * (1 if _sys.platform == "darwin" else 1024))
"""


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook: name, seconds, peak memory in bytes, its key result, the executed copy, the error if it failed."""

    name: str
    seconds: float
    peak: int
    result: str
    copy: Path
    error: str = ""


def notebook_folder() -> Path:
    """The folder of the notebooks: the checkout's, else the copy inside the installed package."""
    here = Path(__file__).parent
    for folder in (here.parent / "notebooks", here / "_notebooks"):
        if list(folder.glob("0*.ipynb")):
            return folder
    raise DataError(
        f"{here}: the notebooks are not there. Run `make notebooks` in the checkout, or install the package again."
    )


def _key_result(notebook) -> str:
    text = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()) if o.output_type == "stream")
    found = re.findall(rf"^{KEY_RESULT}\s*(.+)$", text, re.MULTILINE)
    return found[-1].strip() if found else ""


def run_notebook(path: Path, target: Path, timeout: int = 1200, bar: tqdm | None = None) -> NotebookRun:
    """Execute one notebook in a kernel of its own and write the executed copy, also if a cell fails."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    notebook = nbformat.read(path, as_version=4)
    target.parent.mkdir(parents=True, exist_ok=True)

    def on_cell(cell, cell_index):
        if bar is not None:
            bar.set_postfix_str(f"{path.stem} cell {cell_index + 1}/{len(notebook.cells)}")

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(target.parent)}},
        on_cell_start=on_cell,
    )
    start, error, peak = time.perf_counter(), "", 0
    try:
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            seconds = time.perf_counter() - start
            probe = nbformat.v4.new_code_cell(_PEAK)
            title = notebook.cells[0]
            client.execute_cell(probe, 0, store_history=False)
            notebook.cells[0] = title  # nbclient puts the cell that it ran in the place that it is told
            peak = int(probe.outputs[0]["text"])
    except (CellExecutionError, CellTimeoutError) as failure:
        seconds, error = time.perf_counter() - start, str(failure).strip().splitlines()[-1]
    with written_whole(target) as temporary:
        nbformat.write(notebook, temporary)
    return NotebookRun(path.stem, seconds, peak, _key_result(notebook), target, error)


def run_course(out: str | os.PathLike = "build/notebooks", only: str | None = None) -> list[NotebookRun]:
    """Execute all notebooks, or those whose name begins with `only`, with a progress bar. `out` gets the executed copies, and
    after a run of all of them `course.json` with seconds and memory.

    Raises:
        DataError: the packages of the course are not installed, or no notebook of that name.
    """
    try:
        import ipykernel  # noqa: F401
        import nbclient  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{error.name} is not installed. The course needs: pip install 'mil-tutorial[course]'."
        ) from error
    paths = sorted(notebook_folder().glob("0*.ipynb"))
    paths = [p for p in paths if only is None or p.stem.startswith(only)]
    if not paths:
        raise DataError(f"{notebook_folder()}: no notebook begins with {only!r}. Give a number from 01 to 06.")
    out, runs = Path(out).resolve(), []
    with tqdm(paths, desc="Running the course", unit="notebook") as bar:
        for path in bar:
            bar.set_postfix_str(path.stem)
            runs.append(run_notebook(path, out / path.name, bar=bar))
    if only is None:
        measured = [{"name": r.name, "seconds": round(r.seconds, 1), "gigabytes": round(r.peak / 2**30, 2), "result": r.result,
                     "error": r.error} for r in runs]  # fmt: skip
        with written_whole(out / "course.json") as temporary:
            temporary.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return runs


def table(runs: list[NotebookRun]) -> str:
    """The runs as a table in plain text."""
    wide = max(len(r.name) for r in runs)
    lines = [f"{'notebook':<{wide}}  seconds  memory   key result", "-" * (wide + 60)]
    for r in runs:
        outcome = f"FAILED: {r.error}" if r.error else r.result
        lines.append(f"{r.name:<{wide}}  {r.seconds:7.1f}  {r.peak / 2**30:4.2f} GB  {outcome}")
    lines.append(f"{'total':<{wide}}  {sum(r.seconds for r in runs):7.1f}")
    return "\n".join(lines)


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--data", help="your own data root instead of the synthetic slides")
    p.add_argument("--out", default="build/notebooks", help="folder of the executed copies")
    p.add_argument("--only", help="only notebooks whose name begins so, such as 03")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands.course import run_course, table
    from mil_tutorial.data import VARIABLE

    if args.data:
        os.environ[VARIABLE] = str(Path(args.data).expanduser().resolve())
    runs = run_course(args.out, args.only)
    print(table(runs))
    print(f"\nThe executed notebooks lie in {runs[0].copy.parent}")
    return int(any(r.error for r in runs))
