"""For reports: how the checkpoint of `train` came about."""

from __future__ import annotations

import html
import os
from pathlib import Path

from mil_tutorial.commands import report
from mil_tutorial.commands.record import changed_inputs, read_record, record_path
from mil_tutorial.files import digest


def origin(checkpoint: str | os.PathLike[str]) -> list[tuple[str, object]] | str:
    """How the checkpoint came about, as its record says it: what and value; or a sentence that says what is missing."""
    path = record_path(Path(checkpoint).parent, f"train-{Path(checkpoint).stem}")
    if not path.is_file():
        return f"There is no record {path.name} beside it."
    record = read_record(path)
    if digest(checkpoint) not in record.get("results", {}).values():
        return f"The record {path.name} beside it is of another checkpoint."
    changed = [str(change) for change in changed_inputs(record)]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return [
        ("record", path.resolve()),
        ("made", record["ended"]),
        ("options", ", ".join(f"{k} {v}" for k, v in record["options"].items() if v not in (None, False))),
        ("inputs", len(record["inputs"])),
        ("changed since", changed[0] + more if changed else "none"),
        *((f"version of {name}", version) for name, version in record["versions"].items()),
    ]


def provenance(checkpoint: str | os.PathLike[str]) -> str:
    """The same for a report, in HTML."""
    known = origin(checkpoint)
    what = f"<p>{html.escape(known)}</p>" if isinstance(known, str) else report.table(("what", "value"), known)
    return "<h2>Where the checkpoint comes from</h2>" + what
