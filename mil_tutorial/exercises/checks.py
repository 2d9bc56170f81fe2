"""How a check works: it runs the learner's code, compares, and says "Right." or one sentence that helps.

A check is a function under `@exercise`. It calls `run` for the learner's function, which may raise anything, and
`expect` for what must hold. The sentences are in `texts/`, under the exercise's name and the key given to `expect`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mil_tutorial.exercises import progress
from mil_tutorial.exercises.words import say, texts

PACKAGE = str(Path(__file__).resolve().parents[1])
LONGEST = 90  # letters of a learner's value that a sentence repeats


class Verdict(str):
    """What a check says. Jupyter does not show it again where it is a cell's last value: it is printed already."""

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self == say("right")

    def _ipython_display_(self) -> None:
        """Nothing: the check has printed it."""


class NotYet(Exception):
    """The answer is not right: which sentence says so, with which values."""

    def __init__(self, key: str, values: Mapping[str, object]):
        super().__init__(key)
        self.key, self.values = key, values


class Stopped(Exception):
    """The learner's code raised an error, which is the cause of this one."""


def expect(good: object, key: str, **values: object) -> None:
    """Say the sentence `key` of this exercise unless `good`. Values are shortened to a line."""
    if not bool(good):
        raise NotYet(key, values)


def refuse(key: str, **values: object) -> NoReturn:
    """Say the sentence `key` of this exercise."""
    raise NotYet(key, values)


def short(value: object) -> str:
    """A value on one line: numbers with few digits, arrays and lists with their first entries."""
    if hasattr(value, "detach") and hasattr(value, "tolist"):
        value = np.asarray(value.detach())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= 12 else f"an array of shape {value.shape}"
    if isinstance(value, str):
        return value[:400]
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    text = _rounded(value) if isinstance(value, (list, tuple, float)) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _rounded(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(_rounded(v) for v in value[:40])
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return f"{value:.5g}" if isinstance(value, np.floating) else repr(value)


def run(function: Any, *arguments: Any, **named: Any) -> Any:
    """Call the learner's function.

    Raises:
        NotYet: it is no function, or it returns nothing.
        Stopped: it raised an error.
    """
    expect(callable(function), "not_a_function", found=type(function).__name__)
    try:
        answer = function(*arguments, **named)
    except Exception as error:
        raise Stopped from error
    expect(answer is not None, "nothing")
    return answer


def number(answer: Any) -> float:
    """The answer as one number; the learner may return Python's, NumPy's or torch's."""
    values = array(answer)
    expect(values.ndim == 0, "several", found=short(answer))
    value = float(values)
    expect(np.isfinite(value), "not_finite", found=value)
    return value


def whole(answer: Any) -> int:
    """The answer as one whole number; 2.0 is none, as it cannot number a place in a list."""
    values = array(answer)
    expect(values.ndim == 0, "several", found=short(answer))
    expect(values.dtype.kind in "iu", "not_whole", found=str(values.tolist()))  # 6.0, which `short` makes 6
    return int(values)


def array(answer: Any) -> np.ndarray:
    """The answer as an array of numbers."""
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    shown = repr(answer) if isinstance(answer, str) else short(answer)
    try:
        values = np.asarray(answer)
    except (ValueError, TypeError):  # rows of different lengths, or what is no number at all
        refuse("unlike", found=shown)
    expect(values.dtype.kind in "biuf", "unlike", found=shown)
    return values


class Exercise:
    """One exercise's check. Calling it prints what it says and remembers it; `judge` and `accepts` do neither.

    Attributes:
        notebook: number of the notebook.
        name: of the exercise.
        takes: names in the notebook that the check is called with.
        writes: those of them that the learner writes.
    """

    def __init__(self, check: Callable[..., None], takes: Sequence[str], writes: Sequence[str]):
        self.check, self.name, self.takes, self.writes = check, check.__name__, tuple(takes), tuple(writes)
        self.notebook = int(check.__module__.rpartition("_")[2])
        self.__doc__, self.__signature__ = check.__doc__, inspect.signature(check)

    @property
    def key(self) -> str:
        """Such as "1.patch_width"."""
        return f"{self.notebook}.{self.name}"

    def __call__(self, *answer: Any, **named: Any) -> Verdict:
        """Print what the check says, and remember whether it was right."""
        verdict = self.judge(*answer, **named)
        print(verdict)
        progress.remember_check(self.key, verdict.right)
        return verdict

    def accepts(self, *answer: Any, **named: Any) -> bool:
        """Whether the answer is right. Nothing is printed or remembered."""
        return self.judge(*answer, **named).right

    def judge(self, *answer: Any, **named: Any) -> Verdict:
        """What the check says. Nothing is printed or remembered."""
        try:
            self.check(*answer, **named)
        except NotYet as fault:
            return Verdict(say("not_yet", what=self.sentence(fault.key, fault.values)))
        except Stopped as stopped:
            return Verdict(self.stopped(stopped.__cause__))
        return Verdict(say("right"))

    def sentence(self, key: str, values: Mapping[str, object]) -> str:
        """A sentence of this exercise, else of all exercises, with its values."""
        own, common = self._texts(), texts("common")["checks"]
        filled = {name: short(value) for name, value in values.items()}
        return str(own.get(key) or common[key]).format(expected=own["expected"], **filled)

    def stopped(self, error: BaseException | None) -> str:
        """The learner's code stopped: with what, where, and what helps."""
        assert error is not None
        text = " ".join(str(error).split())
        what = f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
        where, frames = "", traceback.extract_tb(error.__traceback__)
        # The last line that is the learner's own: neither ours nor an installed package's.
        own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(PACKAGE)]
        if own and own[-1].line:
            where = say("stopped_where", line=own[-1].lineno, code=own[-1].line[:LONGEST])
        return say("stopped", what=what.rstrip("."), where=where, hint=self._texts()["hint"])

    def _texts(self) -> dict[str, Any]:
        return texts(f"notebook_{self.notebook}")["checks"][self.name]


def exercise(*, takes: Sequence[str] = (), writes: Sequence[str] = ()) -> Callable[[Callable[..., None]], Exercise]:
    """Make a check of a function.

    Args:
        takes: names in the notebook that it is called with; the function's own name by default.
        writes: those of them that the learner writes; all of them by default.
    """

    def wrap(check: Callable[..., None]) -> Exercise:
        names = takes or (check.__name__,)
        return Exercise(check, names, writes or names)

    return wrap


def exercises_of(notebook: int) -> list[Exercise]:
    """The exercises of a notebook, in their order."""
    from importlib import import_module

    module = import_module(f"mil_tutorial.exercises.notebook_{notebook}")
    return [value for value in vars(module).values() if isinstance(value, Exercise)]
