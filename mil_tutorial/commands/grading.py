"""Run the answers of returned notebooks, each notebook in a process of its own, with limits of time and memory."""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tqdm.auto import tqdm

from mil_tutorial.commands.returned import Cells, Original, Returned, Task
from mil_tutorial.data import open_data
from mil_tutorial.errors import DataError
from mil_tutorial.exercises.words import say, texts
from mil_tutorial.files import CACHE_VARIABLE, cache_folder

START = 180  # seconds for Python and its packages to load, on a slow machine
PATIENCE = 3  # by the clock: the machine may be busy, and an answer may sleep
LOOK = 0.1  # seconds between two looks at the memory
# Variables that a learner's code may see: none of the teacher's own.
KEPT = ["PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH"]
KEPT += ["DYLD_LIBRARY_PATH", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS"]
KEPT += ["PROCESSOR_ARCHITECTURE"]


@dataclass(frozen=True)
class Limits:
    """What one exercise may take: seconds of a processor (`PATIENCE` times as long by the clock), bytes of memory."""

    seconds: float = 20.0
    memory: int = 2 << 30


@dataclass(frozen=True)
class Graded:
    """A returned notebook with what its checks say.

    Attributes:
        returned: the notebook.
        verdicts: by the exercise's key.
        walls: what the system itself refused the process; None if none was started.
    """

    returned: Returned
    verdicts: dict[str, str]
    walls: Sequence[str] | None = None


class _Process:
    """One process that runs some tasks of one notebook; lines that carry its secret word are its answers."""

    def __init__(self, returned: Returned, tasks: Sequence[Task], folder: Path, limits: Limits, guarded: bool):
        self.token, self.lines = secrets.token_hex(16), queue.Queue[dict[str, Any] | None]()
        self.limits, began = limits, len(tasks)
        words = texts("common")["grade"]
        job = {
            "token": self.token,
            "parent": os.getpid(),
            "folder": str(folder),
            "guarded": guarded,
            "notebook": returned.notebook,
            "readable": [str(cache_folder().resolve())],
            "memory": limits.memory + (1 << 30),
            "processor_seconds": int(START + 2 * limits.seconds * began),
            "words": {name: words[name] for name in ("outside", "network", "programs", "context")},
            "tasks": [{"key": t.key, "context": t.context, "answer": t.answer} for t in tasks],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mil_tutorial.commands.grading_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(job).encode())
            self.process.stdin.close()
        except OSError:  # it has ended already, which is noticed below
            pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline(1 << 16):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue  # not one of our lines
            if isinstance(found, dict) and found.get("token") == self.token:
                self.lines.put(found)
        self.lines.put(None)

    def next(self, seconds: float) -> dict[str, Any] | str:
        """The next line, or why there is none: "timeout", "memory", "ended".

        Args:
            seconds: of a processor; by the clock it may take `PATIENCE` times as long.
        """
        deadline, begun = time.monotonic() + PATIENCE * seconds, self.worked()
        while time.monotonic() < deadline and self.worked() - begun < seconds:
            try:
                line = self.lines.get(timeout=LOOK)
            except queue.Empty:
                if self.used() > self.limits.memory:
                    return "memory"
                continue
            return "ended" if line is None else line
        return "timeout"

    def used(self) -> int:
        """Bytes of memory of the process and its children."""
        total = 0
        for process in self.family():
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        return total

    def worked(self) -> float:
        """Seconds of a processor that the process has had."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:  # it has just ended
            return 0.0
        return times.user + times.system

    def family(self) -> list[psutil.Process]:
        """The process and its children."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []

    def end(self) -> int:
        """Kill it and its children; the exit code."""
        for process in self.family():
            try:
                process.kill()
            except psutil.Error:  # it has just ended
                continue
        self.process.wait(30)
        return self.process.returncode


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    home = str(folder)
    return kept | {
        "HOME": home,
        "USERPROFILE": home,
        "TMPDIR": home,
        "TEMP": home,
        "TMP": home,
        "MPLCONFIGDIR": home,
        "MPLBACKEND": "Agg",
        "MIL_TUTORIAL_PROGRESS": "off",
        CACHE_VARIABLE: str(cache_folder().resolve()),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUTF8": "1",
    }


def run_returned(returned: Returned, limits: Limits, *, guarded: bool = True) -> Graded:
    """What the checks say of one returned notebook. If an answer ends the process, the next ones get a new one.

    Args:
        returned: the notebook.
        limits: of each exercise.
        guarded: refuse network, other folders and programs.
    """
    words = texts("common")["grade"]
    verdicts = {task.key: task.verdict for task in returned.tasks}
    waiting = [task for task in returned.tasks if not task.verdict]
    walls: Sequence[str] | None = None
    while waiting:
        with tempfile.TemporaryDirectory(prefix="returned-", ignore_cleanup_errors=True) as folder:
            process = _Process(returned, waiting, Path(folder).resolve(), limits, guarded)
            current, line = "", process.next(START / PATIENCE)
            while isinstance(line, dict):
                if "ready" in line:
                    walls = tuple(line["ready"])
                elif "begins" in line:
                    current = str(line["begins"])
                else:
                    verdicts[str(line["key"])] = str(line["verdict"])
                    waiting, current = [t for t in waiting if t.key != line["key"]], ""
                if not waiting:
                    break
                line = process.next(limits.seconds)
            code = process.end()
        if isinstance(line, str):
            said = words["no_start" if not current and line == "timeout" else line].format(
                seconds=f"{limits.seconds if current else START:g}", megabytes=limits.memory >> 20, code=code
            )
            stopped = [t for t in waiting if t.key == current] if current else list(waiting)
            verdicts |= {t.key: said for t in stopped}
            waiting = [t for t in waiting if t not in stopped]
    return Graded(returned, verdicts, walls)


def check_the_grader(notebook: int, limits: Limits) -> None:
    """Run the course's own solutions: they must be right here. It also draws the slides that answers may open.

    Raises:
        DataError: a solution is not accepted.
    """
    original = Original(notebook)
    tasks = [original.task(e, original.solutions[e.key], Cells()) for e in original.exercises]
    room = Limits(limits.seconds + START, limits.memory)
    graded = run_returned(Returned("the course", "", notebook, tasks), room, guarded=False)
    for key, verdict in graded.verdicts.items():
        if verdict != say("right"):
            raise DataError(
                f"exercise {key}: the course's own solution gets {verdict!r} on this machine, so nothing was graded."
                " Run `mil-tutorial course` to see what is wrong here, or give more --seconds or --memory."
            )


def grade(
    returned: Sequence[Returned], limits: Limits, *, jobs: int, show: Callable[[str], None] | None = None
) -> list[Graded]:
    """Run all returned notebooks, some at a time, with a progress bar.

    Args:
        returned: the notebooks.
        limits: of each exercise.
        jobs: notebooks at a time.
        show: where to say what is done before; nowhere by default.

    Raises:
        DataError: the course's own solutions are not accepted here.
    """
    open_data()  # its folder is made now, as nobody may write there later
    numbers = sorted({r.notebook for r in returned if r.notebook})
    if show is not None:
        show("First the course's own solutions, to see that the checks work on this machine.")
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(numbers) + len(returned), unit="notebook") as bar:

        def counted(function: Callable[..., Any], *arguments: Any) -> Any:
            done = function(*arguments)
            bar.update()
            return done

        list(pool.map(lambda n: counted(check_the_grader, n, limits), numbers))
        return list(pool.map(lambda r: counted(run_returned, r, limits), returned))
