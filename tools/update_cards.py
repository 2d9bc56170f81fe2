"""Write what the last `make course` measured into the cards of the notebooks. `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARD = "# | **Measured** | runs in {seconds} s and takes {gigabytes} GB of memory, on two CPU cores |"
LINE = re.compile(
    "^" + re.escape(CARD).replace(r"\{seconds\}", r"(\d+)").replace(r"\{gigabytes\}", r"([\d.]+)") + "$", re.MULTILINE
)


def card(seconds: float, gigabytes: float) -> str:
    """The line of a card."""
    return CARD.format(seconds=max(1, round(seconds)), gigabytes=f"{gigabytes:.1f}")


def far(written: tuple[float, float], measured: tuple[float, float]) -> bool:
    """Whether seconds and gigabytes differ by more than machines do: by a factor of 4 in time, by a third in memory."""
    (seconds, gigabytes), (seconds_now, gigabytes_now) = written, measured
    slower = not seconds / 4 - 5 < seconds_now < seconds * 4 + 5
    return slower or abs(gigabytes - gigabytes_now) > 0.35 * max(gigabytes, 0.3)


def main(check: bool) -> int:
    """Update the cards, or say which of them are far from what was measured."""
    file = ROOT / "build" / "notebooks" / "course.json"
    if not file.exists():
        print(f"{file} does not exist. Run `make course` first.")
        return 2
    wrong = []
    for run in json.loads(file.read_text(encoding="utf-8")):
        script = ROOT / "notebooks" / "scripts" / f"{run['name']}.py"
        text = script.read_text(encoding="utf-8")
        card_now = LINE.search(text)
        if card_now is None:
            wrong.append(f"{run['name']}: its card has no line '**Measured**'")
        elif check:
            if far((float(card_now[1]), float(card_now[2])), (run["seconds"], run["gigabytes"])):
                measured = f"{run['seconds']} s and {run['gigabytes']} GB"
                wrong.append(f"{run['name']}: says {card_now[1]} s and {card_now[2]} GB, measured {measured}")
        else:
            script.write_text(LINE.sub(card(run["seconds"], run["gigabytes"]), text), encoding="utf-8")
    print("\n".join(wrong) or ("cards agree" if check else "cards written; now run `make notebooks`"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
