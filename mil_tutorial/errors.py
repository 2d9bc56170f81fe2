"""The two errors of this package, and how to raise them.

`ParameterError` (a `ValueError`): the caller gave a parameter a value that it cannot take. It names the parameter.
The command line says the same of its flag.
`DataError`: a file, a folder or the data in them are wrong. It names the file, what was found, what was expected and
what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any


class DataError(Exception):
    """Something is wrong with the user's files or data.

    The message names the file, what was found, what was expected and what to do. The command line prints it without
    a traceback and ends with exit code 2.
    """


class ParameterError(ValueError):
    """A parameter has a value that it cannot take.

    Attributes:
        parameter: its name, as in the signature.
        found: what was given, in words or as code.
        expected: the rest of the sentence: what it must be, and what to do.

    >>> print(ParameterError("epochs", 0, "a whole number of at least 1"))
    epochs: found 0, expected a whole number of at least 1.
    """

    def __init__(self, parameter: str, found: object, expected: str):
        self.parameter, self.expected = parameter, expected
        self.found = found if isinstance(found, Found) else " ".join(repr(found).split())[:200]
        super().__init__(f"{parameter}: {self.sentence}")

    @property
    def sentence(self) -> str:
        """The message without the parameter's name."""
        return f"found {self.found}, expected {self.expected}."

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:  # it travels between processes
        return type(self), (self.parameter, Found(self.found), self.expected)


class Found(str):
    """Words that say what was found, where the value itself would be too long: `Found("5 scores for 7 patches")`."""


def require(good: bool, parameter: str, value: object, expected: str) -> None:
    """Raise `ParameterError` unless `good`.

    >>> require(0 < 2, "epochs", 2, "at least 1")
    """
    if not good:
        raise ParameterError(parameter, value, expected)


def require_number(
    parameter: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    finite: bool = True,
    expected: str | None = None,
) -> None:
    """A finite number from `low` to `high`; with `open_low`, above `low`; without `finite`, also an infinite one.

    Raises:
        ParameterError: another type, NaN, infinite, or out of range.
    """
    good = isinstance(value, Real) and not isinstance(value, bool)
    good = good and (math.isfinite(value) if finite else not math.isnan(value))
    good = good and (low < value if open_low else low <= value) and value <= high
    if expected is None:
        least = "" if low == -math.inf else f" {'above' if open_low else 'of at least'} {low:g}"
        most = "" if high == math.inf else f"{' and' if least else ''} at most {high:g}"
        expected = f"a number{least}{most}"
    require(good, parameter, value, expected)


def require_integer(parameter: str, value: Any, *, low: int | None = None, high: int | None = None) -> None:
    """A whole number from `low` to `high`.

    Raises:
        ParameterError: another type, or out of range.
    """
    good = isinstance(value, Integral) and not isinstance(value, bool)
    good = good and (low is None or value >= low) and (high is None or value <= high)
    least = "" if low is None else f" of at least {low}"
    most = "" if high is None else f"{' and' if least else ''} at most {high}"
    require(good, parameter, value, f"a whole number{least}{most}")


def refuse_other(path: object, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """What is there must have been made as it would be made now.

    Args:
        path: the file.
        before: how it was made. What it does not say is not compared.
        now: how it would be made now.
        remedy: what to do: a sentence.

    Raises:
        DataError: one of `now` differs.
    """
    for key, value in now.items():
        if key in before and before[key] != value:
            raise DataError(f"{path}: was made with {key} {before[key]}, now it is {value}. {remedy}")
