"""For reports: how the checkpoint of `train` came about."""

from __future__ import annotations

import html
import os
from pathlib import Path

from mil_tutorial.commands import report
from mil_tutorial.commands.record import changed_inputs, read_record, record_path
from mil_tutorial.files import digest


def provenance(checkpoint: str | os.PathLike[str]) -> str:
    """For a report, in HTML: how the checkpoint came about, as its record says it."""
    path = record_path(Path(checkpoint).parent, f"train-{Path(checkpoint).stem}")
    heading = "<h2>Where the checkpoint comes from</h2>"
    if not path.is_file():
        return heading + f"<p>There is no record {html.escape(path.name)} beside it.</p>"
    record = read_record(path)
    if digest(checkpoint) not in record.get("results", {}).values():
        return heading + f"<p>The record {html.escape(path.name)} beside it is of another checkpoint.</p>"
    changed = [str(change) for change in changed_inputs(record)]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    rows = [
        ("record", path.resolve()),
        ("made", record["ended"]),
        ("options", ", ".join(f"{k} {v}" for k, v in record["options"].items() if v not in (None, False))),
        ("inputs", len(record["inputs"])),
        ("changed since", changed[0] + more if changed else "none"),
        *((f"version of {name}", version) for name, version in record["versions"].items()),
    ]
    return heading + report.table(("what", "value"), rows)
