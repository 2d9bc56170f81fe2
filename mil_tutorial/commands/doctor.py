"""`mil-tutorial doctor`: is this laptop ready for the course? What is not ready comes with a remedy of one line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tqdm.auto import tqdm

from mil_tutorial import __version__
from mil_tutorial.commands import checks_of_machine as checks
from mil_tutorial.commands.checks_of_machine import NotReady, install_line


@dataclass(frozen=True)
class Answer:
    """What one check found.

    Attributes:
        name: of the check.
        state: `ok`; `note`, the course runs all the same; `bad`, it does not.
        found: in a few words.
        remedy: one line, "" where there is nothing to do.
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--network", action="store_true", help="also try whether there is a network; none is needed")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Check, say how each went; 0 if this machine is ready, else 1."""
    start = time.perf_counter()
    answers = examine(network=args.network, progress=not args.json)
    ready = not any(a.state == "bad" for a in answers)
    if args.json:
        print(json.dumps({"ready": ready, "checks": [asdict(a) for a in answers]}, indent=1))
        return int(not ready)
    print(f"\nThis laptop is {'ready' if ready else 'NOT ready'} ({time.perf_counter() - start:.0f} s).")
    print("If your teacher asked for it, send this line:")
    print(f"  {summary(answers)}")
    return int(not ready)


def examine(*, network: bool = False, progress: bool = True) -> list[Answer]:
    """Run all checks, one after the other, and print each as it ends.

    Args:
        network: also try whether the network is there.
        progress: print the lines and show a bar.
    """
    kernel = checks.start_kernel()  # takes seconds; the other checks run meanwhile
    chosen: list[tuple[str, Callable[[], str]]] = [
        *checks.CHECKS,
        ("Jupyter", lambda: checks.check_kernel(kernel)),
        *([("network", checks.check_network)] if network else []),
    ]
    answers = []
    with tqdm(chosen, desc="Is this laptop ready?", unit="check", disable=not progress, leave=False) as bar:
        for name, check in bar:
            bar.set_postfix_str(name)
            answers.append(ask(name, check))
            if progress:
                tqdm.write(line(answers[-1]))
    return answers


def ask(name: str, check: Callable[[], str]) -> Answer:
    """Run one check; whatever it raises becomes its answer."""
    try:
        return Answer(name, "ok", check())
    except NotReady as fault:
        return Answer(name, "note" if fault.only_note else "bad", fault.found, fault.remedy)
    except Exception as error:  # any fault of any package: the user shall see it in one line, and the other checks
        words = " ".join(str(error).split())[:160]
        return Answer(name, "bad", f"{type(error).__name__}: {words}", "install the course again: " + install_line())


def line(answer: Answer) -> str:
    """An answer as text: one line, and one more for the remedy."""
    text = f"  {'BAD' if answer.state == 'bad' else answer.state:<4}  {answer.name:<10} {answer.found}"
    return f"{text}\n        -> {answer.remedy}" if answer.remedy else text


def summary(answers: Sequence[Answer]) -> str:
    """One line for the teacher: ready or not, the versions, and what is missing. It names no person and no folder."""
    bad = [a.name for a in answers if a.state == "bad"]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    python = ".".join(map(str, sys.version_info[:3]))
    verdict = f"not ready: {', '.join(bad)}" if bad else "ready"
    return f"mil-tutorial {__version__}: {verdict} | Python {python} | {machine}"
