"""How much and how long a slide costs that is read from afar: over a server on this machine that is as slow as the net.

python benchmarks/far.py [--megabytes 500] [--latency 0.02] [--rate 20e6]

It writes a Philips-like slide of noise into a temporary folder, and prints seconds, requests and bytes of: opening,
an overview, a canvas of 4 000 patches, patches one by one, and all of that a second time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from remote.philips import write_large
from remote.server import LocalServer, serving

from mil_tutorial import Geometry, open_slide, read_canvas, read_overview
from mil_tutorial.slides.far import FarSlide, fetch_patches
from mil_tutorial.slides.reading import read_patch


def measure(server: LocalServer, size: int, what: str, work: Callable[[], object]) -> object:
    """Do it, and print what it cost."""
    before, sent, begun = len(server.log), server.sent(), time.perf_counter()
    done = work()
    seconds, sent = time.perf_counter() - begun, server.sent() - sent
    print(f"{what:<34}{seconds:8.2f} s{len(server.log) - before:8} requests{sent / 1e6:9.2f} MB{sent / size:9.3%}")
    return done


def coordinates(slide: FarSlide, number: int) -> tuple[np.ndarray, int]:
    """Patches of 512 level-0 pixels in the middle of the slide, a round island as tissue is."""
    width, height = slide.dimensions
    geometry = Geometry.for_slide(mpp=0.2431, width=width, height=height, magnification=40, patch_size=512)
    grid, side = geometry.grid(), geometry.patch_size_level0
    order = np.argsort(np.square(grid + side / 2 - [width / 2, height / 2]).sum(1), kind="stable")
    return grid[np.sort(order[:number])], side


def use(server: LocalServer, size: int, again: str, patches: int) -> None:
    """Do everything once."""
    slide = measure(server, size, f"open{again}", lambda: open_slide(f"{server.address}/large.tif"))
    assert isinstance(slide, FarSlide)
    with slide:
        for pixels in (1000, 1400, 4000):
            downsample = max(slide.dimensions) / pixels
            measure(server, size, f"overview of {pixels} pixels{again}", partial(read_overview, slide, downsample))
        coords, side = coordinates(slide, patches)
        measure(server, size, f"canvas of {patches} patches{again}", lambda: read_canvas(slide, coords, side, 50))
        few = coords[:: len(coords) // 64][:64]

        def read(places: np.ndarray, fetch: bool) -> None:
            if fetch:
                fetch_patches(slide, places, side, 256)
            for x, y in places.tolist():
                read_patch(slide, x, y, side, 256)

        measure(server, size, f"64 patches, fetched at once{again}", lambda: read(few, True))
        measure(server, size, f"64 others, one by one{again}", lambda: read(few + [side, 0], False))
        measure(server, size, f"digest{again}", slide.digest)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=500, help="size of the slide, about")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--rate", type=float, default=20e6, help="bytes a second of each connection")
    parser.add_argument("--patches", type=int, default=4000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIL_TUTORIAL_CACHE"] = f"{folder}/cache"
        path = Path(folder) / "served" / "large.tif"
        path.parent.mkdir()
        write_large(path, width=53_760, height=round(61_440 * args.megabytes / 1036 / 512) * 512)
        size = path.stat().st_size
        print(f"slide of {size / 1e6:.0f} MB, {args.latency * 1000:.0f} ms, {args.rate / 1e6:.0f} MB/s a connection")
        with serving(path.parent) as server:
            server.behaviour.latency, server.behaviour.rate = args.latency, args.rate
            for again in ("", ", again"):
                use(server, size, again, args.patches)


if __name__ == "__main__":
    main()
