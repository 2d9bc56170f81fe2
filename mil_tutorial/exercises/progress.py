"""What a learner has solved: remembered in one file on this computer. It may be read and deleted. Nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mil_tutorial.errors import DataError
from mil_tutorial.exercises.words import NOTEBOOKS, texts
from mil_tutorial.files import read_json, write_json

VARIABLE = "MIL_TUTORIAL_PROGRESS"  # another file; "off": nothing is remembered
EMPTY: dict[str, Any] = {"exercises": {}, "quizzes": {}}
WAIT = 5  # seconds for another notebook that is writing


def progress_file() -> Path | None:
    """Where it is remembered: `$MIL_TUTORIAL_PROGRESS`, else the usual place for a program's data; None: nowhere."""
    import platformdirs

    named = os.environ.get(VARIABLE, "")
    if named.strip().lower() == "off":
        return None
    return Path(named or Path(platformdirs.user_data_dir("mil-tutorial", appauthor=False)) / "progress.json")


def read_progress() -> dict[str, Any]:
    """What is remembered: "exercises" by key, such as "1.patch_width", and "quizzes" by notebook.

    Raises:
        DataError: the file is damaged or cannot be read.
    """
    path = progress_file()
    if path is None or not path.exists():
        return {name: {} for name in EMPTY}
    try:
        found = read_json(path)
        good = all(isinstance(found[name], dict) for name in EMPTY)
        good = good and all(isinstance(entry, dict) for name in EMPTY for entry in found[name].values())
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error!s:.80}). Delete it to begin again.") from error
    if not good:
        raise DataError(f"{path}: holds something else than progress. Delete it to begin again.")
    return found


def _update(change: Callable[[dict[str, Any]], None]) -> None:
    """Read, change and write, one process at a time. If that fails, it is said, and the lesson goes on."""
    path = progress_file()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=WAIT):
            found = read_progress()
            change(found)
            write_json(path, found)
    except (DataError, OSError, Timeout) as problem:
        print(texts("common")["progress"]["damaged"].format(problem=problem))


def remember_check(key: str, right: bool) -> None:
    """Remember one run of a check. What was right once stays right."""

    def change(found: dict[str, Any]) -> None:
        before = found["exercises"].get(key, {})
        found["exercises"][key] = {
            "right": right or bool(before.get("right")),
            "tries": int(before.get("tries", 0)) + 1,
            "date": date.today().isoformat(),
        }

    _update(change)


def remember_quiz(notebook: int, letters: str, right: int) -> None:
    """Remember the answers to a notebook's quiz: the last ones given."""

    def change(found: dict[str, Any]) -> None:
        found["quizzes"][str(notebook)] = {"answers": letters, "right": right, "date": date.today().isoformat()}

    _update(change)


def delete_progress() -> str:
    """Delete the file, and say so."""
    path, words = progress_file(), texts("common")["progress"]
    if path is None:
        return str(words["not_remembered"])
    there = path.exists()
    path.unlink(missing_ok=True)
    Path(f"{path}.lock").unlink(missing_ok=True)
    return str(words["deleted" if there else "nothing_to_delete"]).format(path=path)


@dataclass(frozen=True)
class Tally:
    """How much of a notebook, or of all, is solved."""

    right: int
    all: int
    quiz_right: int
    quiz_all: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.right + other.right,
            self.all + other.all,
            self.quiz_right + other.quiz_right,
            self.quiz_all + other.quiz_all,
        )


def tallies() -> dict[int, Tally]:
    """How much of each notebook is solved. Exercises that the course has no more do not count.

    Raises:
        DataError: the file is damaged or cannot be read.
    """
    found = read_progress()
    return {n: _tally(n, found) for n in NOTEBOOKS}


def _tally(notebook: int, found: dict[str, Any]) -> Tally:
    words = texts(f"notebook_{notebook}")
    names = [f"{notebook}.{name}" for name in words["checks"]]
    right = sum(bool(found["exercises"].get(name, {}).get("right")) for name in names)
    quiz = found["quizzes"].get(str(notebook), {}).get("right", 0)
    questions = len(words["quiz"])
    return Tally(right, len(names), min(int(quiz), questions), questions)


def progress_table() -> str:
    """What is remembered, in plain text, and in which file.

    Raises:
        DataError: the file is damaged or cannot be read.
    """
    words, path = texts("common")["progress"], progress_file()
    if path is None:
        return str(words["not_remembered"])
    found = tallies()
    together = sum(found.values(), Tally(0, 0, 0, 0))
    lines = [words["title"], ""]
    lines += [words["line"].format(notebook=n, **vars(t)) for n, t in found.items()]
    lines += [words["total"].format(**vars(together)), "", words["where"].format(path=path)]
    return "\n".join(lines)
