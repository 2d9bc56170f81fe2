"""A record of what was done: a small JSON beside the results, with versions, options, inputs and times."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from mil_tutorial.errors import DataError
from mil_tutorial.files import digest, read_json, write_json

PACKAGES = (
    "torch",
    "numpy",
    "h5py",
    "openslide-python",
    "opencv-python-headless",
    "tifffile",
    "scikit-learn",
    "tensordict",
)


def _versions() -> dict[str, str]:
    from mil_tutorial import __version__

    versions = {"mil_tutorial": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # installed in another way, such as from conda
            versions[name] = metadata.version(name)
    return versions


def record_path(folder: str | os.PathLike[str], command: str) -> Path:
    """Where a folder keeps the record of a command."""
    return Path(folder) / f"record-{command}.json"


class Record:
    """Made before the work, written after it.

    Use it as `with Record(folder, "labels", options, inputs): ...`, or call `write` at the end. Nothing is written
    after an error, nor if an input was replaced meanwhile.

    Args:
        folder: of the results.
        command: of `mil-tutorial`; names the file.
        options: what JSON can hold; paths become text.
        inputs: files whose digests are kept; those that do not exist are left out.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        command: str,
        options: Mapping[str, Any],
        inputs: Iterable[str | os.PathLike[str]] = (),
    ):
        self.path, self.command, self.started = record_path(folder, command), command, datetime.now(timezone.utc)
        plain = (str, int, float, bool, list, tuple, type(None))
        self.options = {k: v if isinstance(v, plain) else str(v) for k, v in options.items()}
        # Before the work, not after it: what is replaced meanwhile must not pass for what was used.
        self.inputs = {str(p): digest(p) for p in (Path(i).resolve() for i in inputs) if p.is_file()}

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.refuse_changes()
            self.write()

    def refuse_changes(self) -> None:
        """The inputs must be what they were when the work began.

        Raises:
            DataError: a file is gone, or is another one.
        """
        for change in changed_inputs({"inputs": self.inputs}):
            began = "" if change.gone else " this command began"
            raise DataError(f"{change}{began}; the results would be of mixed inputs. Run it again.")

    def write(self, results: Iterable[str | os.PathLike[str]] = ()) -> None:
        """Write the JSON, with the digests of `results`; call `refuse_changes` before the results are written."""
        ended = datetime.now(timezone.utc)
        record = {
            "command": self.command,
            "options": self.options,
            "versions": _versions(),
            "machine": platform.platform(),
            "started": self.started.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
            "seconds": round((ended - self.started).total_seconds(), 1),
            "inputs": self.inputs,
            "results": {str(Path(p).resolve()): digest(p) for p in results},
        }
        write_json(self.path, record)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A record as it was written.

    Raises:
        DataError: it is damaged.
    """
    try:
        record = read_json(path)
        if not {"command", "options", "versions", "inputs"} <= set(record):
            raise ValueError("keys are missing")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: is not a whole record ({error!s:.80}). Delete it; the results beside it stay."
        ) from error
    return record


@dataclass(frozen=True)
class ChangedInput:
    """An input that is not what it was when a record began.

    Attributes:
        path: as the record has it.
        gone: there is no such file any more; else it holds something else.
    """

    path: str
    gone: bool

    def __str__(self) -> str:
        return f"{self.path} {'is gone' if self.gone else 'has changed since'}"


def changed_inputs(record: Mapping[str, Any]) -> list[ChangedInput]:
    """The inputs of a record that are not what they were."""
    changed = []
    for path, before in record["inputs"].items():
        if not os.path.isfile(path):
            changed.append(ChangedInput(path, gone=True))
        elif digest(path) != before:
            changed.append(ChangedInput(path, gone=False))
    return changed
