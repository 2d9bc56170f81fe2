"""What the six notebooks wait for, beside a plain training loop on the same machine: python benchmarks/course.py

Seconds of each notebook by itself, and how many of these went into imports, training, drawing synthetic slides, drawing
figures. Then the whole course as `make course` runs it. Machines differ: totals are given in plain loops, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mil_tutorial import ABMIL, collate_fn, open_data, split_bags
from mil_tutorial.commands.course import run_course
from mil_tutorial.devices import threads
from mil_tutorial.training.recipe import BATCH_SIZE, EPOCHS, LEARNING_RATE, WEIGHT_DECAY

WHAT = ("imports", "training", "slides", "figures")

# IPython runs it when a kernel starts. What it wraps counts its own time; `predict` is no part of `fit`.
STARTUP = """
import functools, json, os, time
_start = time.perf_counter()
import matplotlib.backends.backend_agg, matplotlib.pyplot, torch
import mil_tutorial.data, mil_tutorial.training.fit, mil_tutorial.training.predict
_spent = {"imports": time.perf_counter() - _start, "training": 0.0, "slides": 0.0, "figures": 0.0}

def _timed(owner, name, what):
    function = getattr(owner, name)
    @functools.wraps(function)
    def timed(*arguments, **more):
        start = time.perf_counter()
        try:
            return function(*arguments, **more)
        finally:
            _spent[what] += time.perf_counter() - start
    setattr(owner, name, timed)

_timed(mil_tutorial.training.fit, "fit", "training")
_timed(mil_tutorial.training.predict, "predict", "training")
_timed(mil_tutorial.data, "render", "slides")
_timed(matplotlib.backends.backend_agg.FigureCanvasAgg, "print_figure", "figures")

def _write(*_):
    with open("spent.json", "w") as file:
        json.dump(_spent, file)

get_ipython().events.register("post_run_cell", _write)
"""


def plain_loop() -> float:
    """Seconds of twenty epochs with validation on the synthetic slides: tensors and a loop, one thread."""
    train, val = split_bags(open_data().bags("train"))
    batches, held_out = (
        [
            collate_fn([bags[j] for j in range(i, min(i + BATCH_SIZE, len(bags)))])
            for i in range(0, len(bags), BATCH_SIZE)
        ]
        for bags in (train, val)
    )
    batches, held_out = ([(b["X"], b["mask"], b["Y"]) for b in part] for part in (batches, held_out))
    times = []
    with threads(1):
        for _ in range(3):
            torch.manual_seed(0)
            model = ABMIL(batches[0][0].shape[-1])
            optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            start = time.perf_counter()
            for _ in range(EPOCHS):
                for X, mask, Y in batches:
                    optimizer.zero_grad()
                    binary_cross_entropy_with_logits(model(X, mask), Y).backward()
                    optimizer.step()
                with torch.no_grad():
                    for X, mask, Y in held_out:
                        binary_cross_entropy_with_logits(model(X, mask), Y)
            times.append(time.perf_counter() - start)
    return min(times)


def _spin() -> None:
    while True:
        pass


@contextmanager
def beside(programs: int):
    """So many programs that compute without end."""
    busy = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(programs)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def one_by_one(folder: Path, only: str | None) -> float:
    """Each notebook by itself, with an empty cache for all; the sum of seconds."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-measure.py").write_text(STARTUP, encoding="utf-8")
    os.environ.update(IPYTHONDIR=str(folder / "ipython"), MIL_TUTORIAL_CACHE=str(folder / "cache"))
    total = 0.0
    print(f"{'notebook':30} seconds  " + "  ".join(f"{w:>8}" for w in WHAT) + "      rest")
    for number in range(1, 7):
        name = f"{number:02d}"
        if only and not name.startswith(only):
            continue
        (run,) = run_course(folder / "out", only=name, jobs=1)
        assert not run.error, run.error
        spent = json.loads((folder / "out" / "spent.json").read_text())
        rest = run.seconds - sum(spent.values())
        shares = "  ".join(f"{spent[w]:8.1f}" for w in WHAT)
        print(f"{run.name:30} {run.seconds:7.1f}  {shares}  {rest:8.1f}", flush=True)
        total += run.seconds
    del os.environ["IPYTHONDIR"]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="only this notebook, such as 05")
    parser.add_argument("--busy", type=int, default=0, help="busy programs beside it")
    args = parser.parse_args()
    before = os.environ.get("MIL_TUTORIAL_CACHE")
    loop = plain_loop()
    print(f"plain loop, {EPOCHS} epochs on the synthetic slides, one thread: {loop:.2f} s", flush=True)
    with beside(args.busy), tempfile.TemporaryDirectory() as folder:
        total = one_by_one(Path(folder), args.only)
        print(f"one by one: {total:.0f} s, {total / loop:.0f} times the plain loop", flush=True)
        if not args.only:
            os.environ["MIL_TUTORIAL_CACHE"] = str(Path(folder) / "another cache")
            start = time.perf_counter()
            run_course(Path(folder) / "out")
            took = time.perf_counter() - start
            print(f"as `make course` runs them: {took:.0f} s, {took / loop:.0f} times the plain loop", flush=True)
    os.environ.pop("MIL_TUTORIAL_CACHE")
    if before is not None:
        os.environ["MIL_TUTORIAL_CACHE"] = before
    print(f"plain loop again: {plain_loop():.2f} s")


if __name__ == "__main__":
    main()
