"""From one Dask worker to two: python benchmarks/cluster.py

A real scheduler and worker processes on this machine, one thread each; the same slides with one worker and with two,
each time into a new folder, after every worker has loaded its encoder. Beside it the most that this machine gives: the
encoder alone on images in memory, on one worker and on two at once.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

from mil_tutorial import open_data
from mil_tutorial.commands.engine import run_tasks
from mil_tutorial.commands.prepare import prepare_on_worker, shared_encoder
from mil_tutorial.devices import threads
from mil_tutorial.process import keep_freed_memory
from mil_tutorial.slides.options import PrepareOptions
from mil_tutorial.slides.prepare import BATCH


def warm_up() -> str:
    """Import torch and load the encoder, which every worker does once; freed memory is kept, as `engine` sets it."""
    keep_freed_memory()
    return shared_encoder("efficientnet_lite0")[0].name


def encoder_alone(n: int = 256) -> float:
    """Images a second of the encoder on this worker, without slides and files."""
    encoder = shared_encoder("efficientnet_lite0")[0]
    images = np.random.default_rng(0).integers(0, 256, (BATCH, encoder.px, encoder.px, 3), dtype=np.uint8)
    with threads(1):
        start = time.perf_counter()
        for _ in range(0, n, BATCH):
            encoder.encode(images)
        return n / (time.perf_counter() - start)


def measure(workers: int, slides: list[Path], target: Path) -> tuple[float, float, int]:
    """Seconds for all slides, images a second of the encoder alone on all workers together, number of patches."""
    options = PrepareOptions(patch_size=256)  # four times the patches
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        with Client(address) as client:
            client.run(warm_up)
            alone = sum(client.run(encoder_alone).values())
        tasks = {p.stem: (str(p), str(target.resolve()), options) for p in slides}
        start = time.perf_counter()
        results, errors = run_tasks(prepare_on_worker, tasks, scheduler=address, progress=False)
        seconds = time.perf_counter() - start
    assert not errors and len(results) == len(slides), errors
    return seconds, alone, sum(n for n, _ in results.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/cluster"))
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    data = open_data("")
    names = data.split("train")["wsi_name"].tolist()[: args.slides]
    slides = [data.slide_path(name) for name in names]
    seconds, alone = {1: [], 2: []}, {1: [], 2: []}
    for round_ in range(args.rounds):
        for workers in (1, 2):
            target = args.folder / f"{round_}_{workers}"
            shutil.rmtree(target, ignore_errors=True)
            took, rate, n = measure(workers, slides, target)
            seconds[workers].append(took)
            alone[workers].append(rate)
            print(f"round {round_}, {workers} workers: {len(slides)} slides, {n} patches in {took:.1f} s", flush=True)
    for what, rates in (
        ("slides", {w: [len(names) / s for s in v] for w, v in seconds.items()}),
        ("encoder alone, patches", alone),
    ):
        rounds = ", ".join(f"{b / a:.2f}" for a, b in zip(rates[1], rates[2], strict=True))
        one, two = max(rates[1]), max(rates[2])
        print(f"{what}: best {one:.2f}/s with one worker, {two:.2f}/s with two: {two / one:.2f} x; rounds {rounds}")
    shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
