"""A record of what was done: a small JSON beside the results, with versions, options, inputs and times."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

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

GONE, CHANGED = "is gone", "has changed since"


def _versions() -> dict[str, str]:
    from mil_tutorial import __version__

    found = {"mil_tutorial": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def record_path(folder: str | os.PathLike, command: str) -> Path:
    """Where the record of a command lies in a folder."""
    return Path(folder) / f"record-{command}.json"


class Record:
    """Made before the work, written after it: `with Record(folder, "labels", options, inputs): ...`, or `.write()` at the end.

    Args:
        folder: of the results.
        command: of `mil-tutorial`; names the file.
        options: what can be said in JSON; paths become text.
        inputs: files whose digests are kept.

    After an error nothing is written, nor if an input was replaced meanwhile.
    """

    def __init__(
        self, folder: str | os.PathLike, command: str, options: Mapping, inputs: Iterable[str | os.PathLike] = ()
    ):
        self.path, self.command, self.started = record_path(folder, command), command, datetime.now(timezone.utc)
        self.options = {
            k: v if isinstance(v, (str, int, float, bool, list, tuple, type(None))) else str(v)
            for k, v in options.items()
        }
        # Before the work, not after it: what is replaced meanwhile must not pass for what was used.
        self.inputs = {str(p): digest(p) for p in (Path(i).resolve() for i in inputs) if p.is_file()}

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.refuse_changes()
            self.write()

    def refuse_changes(self) -> None:
        """Nothing that the work stands on may have changed since it began.

        Raises:
            DataError: a file is gone, or is another one.
        """
        for name, how in changed_inputs({"inputs": self.inputs}):
            raise DataError(f"{name} {how} this command began; the results would be of neither. Run it again.")

    def write(self, results: Iterable[str | os.PathLike] = ()) -> None:
        """Write the JSON, with the digests of `results`; `refuse_changes` comes before the results, so before this."""
        ended = datetime.now(timezone.utc)
        record = {
            "command": self.command, "options": self.options, "versions": _versions(), "machine": platform.platform(),
            "started": self.started.isoformat(timespec="seconds"), "ended": ended.isoformat(timespec="seconds"),
            "seconds": round((ended - self.started).total_seconds(), 1),
            "inputs": self.inputs, "results": {str(Path(p).resolve()): digest(p) for p in results},
        }  # fmt: skip
        write_json(self.path, record)


def read_record(path: str | os.PathLike) -> dict:
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
            f"{path}: is no whole record ({error!s:.80}). Delete it; the results beside it stay."
        ) from error
    return record


def changed_inputs(record: Mapping) -> list[tuple[str, str]]:
    """Inputs of a record that are not what they were: path, and `GONE` or `CHANGED`."""
    found = []
    for name, before in record["inputs"].items():
        if not os.path.isfile(name):
            found.append((name, GONE))
        elif digest(name) != before:
            found.append((name, CHANGED))
    return found
