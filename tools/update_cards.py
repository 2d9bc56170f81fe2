"""Write what the last `make course` measured into the cards of the notebooks. `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(
    r"^# \| \*\*Measured\*\* \| runs in (\d+) s and takes ([\d.]+) GB of memory, on two CPU cores \|$", re.MULTILINE
)


def card(seconds: float, gigabytes: float) -> str:
    """The line of a card."""
    return f"# | **Measured** | runs in {max(1, round(seconds))} s and takes {gigabytes:.1f} GB of memory, on two CPU cores |"


def main(check: bool) -> int:
    """Update the cards, or say which of them are far from what was measured: a third in memory, a factor of 4 in time."""
    file = ROOT / "build" / "notebooks" / "course.json"
    if not file.exists():
        print(f"{file}: is not there. Run `make course` first.")
        return 2
    wrong = []
    for run in json.loads(file.read_text(encoding="utf-8")):
        script = ROOT / "notebooks" / "scripts" / f"{run['name']}.py"
        text = script.read_text(encoding="utf-8")
        said = LINE.search(text)
        if said is None:
            wrong.append(f"{run['name']}: its card has no line '**Measured**'")
        elif check:
            seconds, gigabytes = float(said[1]), float(said[2])
            if (
                abs(gigabytes - run["gigabytes"]) > 0.35 * max(gigabytes, 0.3)
                or not seconds / 4 - 5 < run["seconds"] < seconds * 4 + 5
            ):
                wrong.append(
                    f"{run['name']}: says {seconds:.0f} s and {gigabytes} GB, measured {run['seconds']} s and {run['gigabytes']} GB"
                )
        else:
            script.write_text(LINE.sub(card(run["seconds"], run["gigabytes"]), text), encoding="utf-8")
    print("\n".join(wrong) or ("cards agree" if check else "cards written; now run `make notebooks`"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
