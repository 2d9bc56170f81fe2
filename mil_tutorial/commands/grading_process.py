"""The process that runs one returned notebook: `python -m mil_tutorial.commands.grading_process`, started by `grade`.

It reads its job from standard input as JSON, gives up what it does not need, runs each answer in names of its own, and
writes one line of JSON for each step to what was its standard output. What the answers print goes nowhere.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CELL = "<your cell>"  # the name of the learner's code in messages


def _channel() -> Callable[[dict[str, Any]], None]:
    """A function that writes one line to what was standard output; from now on printing goes nowhere."""
    mine = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def send(line: dict[str, Any]) -> None:
        os.write(mine, (json.dumps(line) + "\n").encode())

    return send


def end_with(parent: int) -> None:
    """End this process when the one that started it is gone, even if an answer sleeps for ever."""

    def watch() -> None:
        while os.getppid() == parent if os.name == "posix" else psutil.pid_exists(parent):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Do the job that standard input holds."""
    job = json.loads(sys.stdin.buffer.read())
    words, folder, guarded = job["words"], Path(job["folder"]), job["guarded"]
    send = _channel()
    from mil_tutorial.commands import sandbox

    walls = []
    readable = sandbox.readable_folders([Path(p) for p in job["readable"]])
    if guarded:  # before anything starts a thread: these two walls stand around the thread that builds them
        walls += ["no network"] * sandbox.leave_network()
        walls += ["no other files"] * sandbox.lock_files(folder, readable)

    end_with(job["parent"])  # a thread, so after those walls
    import mil_tutorial.bags.dataset
    import mil_tutorial.slides.plots  # noqa: F401 (slow to load, so not in an answer's time)
    from mil_tutorial.exercises.checks import exercises_of

    exercises = {e.key: e for e in exercises_of(job["notebook"])}
    if guarded:
        walls += ["limits"] * sandbox.limit_resources(job["memory"], job["processor_seconds"])
        sandbox.refuse_in_python(folder, readable, words)
    send({"token": job["token"], "ready": walls})
    for task in job["tasks"]:
        send({"token": job["token"], "begins": task["key"]})
        verdict = judge(exercises[task["key"]], task, words)
        send({"token": job["token"], "key": task["key"], "verdict": verdict})
    os._exit(0)  # an answer may have left threads, or functions that are called at the end


def judge(exercise: Any, task: dict[str, str], words: dict[str, str]) -> str:
    """What the check says of one answer, whatever it does."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(task["context"], "<notebook>", "exec"), names)
    except BaseException as error:
        text = f"{type(error).__name__}: {error!s:.150}"
        return words["context"].format(what=text)
    linecache.cache[CELL] = (len(task["answer"]), None, task["answer"].splitlines(keepends=True), CELL)
    try:
        exec(compile(task["answer"], CELL, "exec"), names)
    except BaseException as error:  # exit() is one, too
        return str(exercise.stopped(error))
    try:
        return str(exercise.judge(*(names.get(name) for name in exercise.takes)))
    except BaseException as error:  # exit() inside the learner's function, memory at its end, an odd class
        return str(exercise.stopped(error))


if __name__ == "__main__":
    sys.exit(main())
