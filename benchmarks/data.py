"""The data step against the plain loops that it replaces, side by side in one run: python benchmarks/data.py

Canvas, patch labels, preparation and `check`. Results are compared; ratios and peak memory are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import openslide
import pandas as pd
import tifffile
from big import big_slide

from mil_tutorial import (
    Geometry,
    PrepareOptions,
    label_patches,
    load_encoder,
    open_data,
    open_slide,
    read_canvas,
    trident,
)
from mil_tutorial.commands.check import check_root
from mil_tutorial.fixture.plan import ROSTER
from mil_tutorial.process import keep_freed_memory
from mil_tutorial.slides.coordinates import find_patches
from mil_tutorial.slides.prepare import BATCH, encode_patches, patch_batches
from mil_tutorial.slides.reading import slide_mpp


def timed(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - start


def report(what: str, ours: float, plain: float, note: str = "") -> None:
    """One line of two speeds in patches/s."""
    print(f"{what:28} ours {ours:9.1f} patches/s  plain {plain:9.1f} patches/s  ratio {ours / plain:7.1f}   {note}")


def patches_of(slide_path: Path) -> trident.Patches:
    """The patches of a slide, 512 px at 20x."""
    with open_slide(slide_path) as slide:
        return find_patches(slide, slide_path, PrepareOptions(), mpp=slide_mpp(slide, slide_path))[0]


def plain_canvas(slide: openslide.OpenSlide, coords: np.ndarray, side: int, px: int) -> np.ndarray:
    """The original tutorial's loop: each patch at level 0, made small.

    Two things differ, so that the images can be compared: all pixels are averaged, and what is beyond the slide is
    white.
    """
    patches = []
    for x, y in coords.tolist():
        patch = np.array(slide.read_region((x, y), 0, (side, side)))
        patch[patch[:, :, 3] == 0] = 255
        patch = patch[:, :, :3]
        patches.append(cv2.resize(patch, (px, px), interpolation=cv2.INTER_AREA))
    return np.array(patches)


def plain_fractions(mask_path: Path, coords: np.ndarray, side: int) -> np.ndarray:
    """The original script's loop: cut each patch out of the mask's level 0 and count.

    It uses zarr, see below; this decodes the same tiles without it.
    """
    fractions = []
    with tifffile.TiffFile(mask_path) as tiff:
        page, handle = tiff.pages[0], tiff.filehandle
        across = -(-page.imagewidth // page.tilewidth)
        tw, th = page.tilewidth, page.tilelength
        for x, y in coords.tolist():
            patch = np.zeros((side, side), np.uint8)
            for row in range(y // th, -(-min(y + side, page.imagelength) // th)):
                for column in range(x // tw, -(-min(x + side, page.imagewidth) // tw)):
                    k = row * across + column
                    handle.seek(page.dataoffsets[k])
                    tile = page.decode(handle.read(page.databytecounts[k]), k, _fullsize=True)[0].reshape(th, tw)
                    x0, y0 = column * tw - x, row * th - y
                    part = patch[max(0, y0) : y0 + th, max(0, x0) : x0 + tw]
                    part[:] = tile[max(0, -y0) :, max(0, -x0) :][: part.shape[0], : part.shape[1]]
            fractions.append((np.where(patch == 2, 1, 0)).sum() / side**2)
    return np.array(fractions, np.float32)


def zarr_fractions(mask_path: Path, coords: np.ndarray, side: int) -> np.ndarray:
    """The same as the original script does it: patches are cut out by zarr."""
    import zarr

    mask = zarr.open(tifffile.imread(mask_path, aszarr=True, level=0), mode="r")
    parts = (np.asarray(mask[y : y + side, x : x + side]) for x, y in coords.tolist())
    return np.array([np.where(part == 2, 1, 0).sum() / side**2 for part in parts], np.float32)


def canvas_and_labels(folder: Path, sample: int) -> None:
    slide_path, mask_path = big_slide(folder)
    patches = patches_of(slide_path)
    coords, geometry, side = patches.coords, patches.geometry, patches.geometry.patch_size_level0
    print(f"slide {geometry.width} x {geometry.height} px, {len(coords)} patches of {side} level-0 pixels")
    some = np.sort(np.random.default_rng(0).permutation(len(coords))[:sample])
    with open_slide(slide_path) as slide:
        (canvas, rows, columns), fast = timed(read_canvas, slide, coords, side, 50)
    with open_slide(slide_path) as slide:
        level0, slow = timed(plain_canvas, slide, coords[some], side, 50)
    corners = zip(rows[some] * 50, columns[some] * 50, strict=True)
    ours = np.array([canvas[r : r + 50, c : c + 50] for r, c in corners])
    difference = np.abs(ours.astype(int) - level0).mean()
    report("canvas", len(coords) / fast, len(some) / slow, f"mean difference {difference:.2f} of 255")
    label_patches(mask_path, coords[:1], side)  # the first call loads the codecs
    labels, fast = timed(label_patches, mask_path, coords, side)
    counted, slow = timed(plain_fractions, mask_path, coords, side)
    assert np.array_equal(labels.fraction, counted), "the labels differ"
    note = f"all {len(coords)} equal, {(labels.label == 1).sum()} tumour"
    report("labels", len(coords) / fast, len(coords) / slow, note)
    if importlib.util.find_spec("zarr") is None:
        print("labels beside zarr: not measured, it is not installed (pip install zarr)")
        return
    counted, slow = timed(zarr_fractions, mask_path, coords[some], side)
    assert np.array_equal(labels.fraction[some], counted), "the labels differ"
    report("labels, zarr", len(coords) / fast, len(some) / slow, "the same")


def preparation(folder: Path, n: int) -> None:
    slide_path, _ = big_slide(folder)
    encoder = load_encoder()
    images = np.random.default_rng(0).integers(0, 256, (64, encoder.px, encoder.px, 3), dtype=np.uint8)
    everything, find = timed(patches_of, slide_path)
    middle = len(everything.coords) // 2
    patches = trident.Patches("big_001", everything.coords[middle : middle + n], everything.geometry)

    def alone() -> None:
        for i in range(0, n, BATCH):
            encoder.encode(images[i % 64 : i % 64 + BATCH])

    alone()  # warm
    target = folder / "features.h5"
    rates = []
    for _ in range(3):  # in turns, because the machine's speed drifts
        target.unlink(missing_ok=True)
        whole = timed(encode_patches, slide_path, patches, target, encoder, progress=False)[1]
        rates.append((n / whole, n / timed(alone)[1]))
    with open_slide(slide_path) as slide:
        start = time.perf_counter()
        for _ in patch_batches(slide, slide_path, patches, px=encoder.px, size=256):
            pass
        reading = n / (time.perf_counter() - start)
    print(f"{'reading patches alone, for a GPU':44} {reading:9.0f} patches/s")
    ours, plain = np.median(rates, axis=0)
    note = f"plain: encoder alone, images in memory; tissue of the whole slide {find:.1f} s"
    report("preparation", ours, plain, note)


ENCODE = """
import sys, time, numpy, torch
from mil_tutorial.process import keep_freed_memory
from mil_tutorial.slides.encoders import load_encoder
keep, batch, threads = map(int, sys.argv[1:])
if keep:
    keep_freed_memory()
torch.set_num_threads(threads)
encoder = load_encoder()
images = numpy.random.default_rng(0).integers(0, 256, (64, encoder.px, encoder.px, 3), dtype=numpy.uint8)
def encode(repeats):
    for i in range(0, 64 * repeats, batch):
        encoder.encode(images[i % 64 : i % 64 + batch])
encode(1)  # warm
start = time.perf_counter()
encode(2)
print(128 / (time.perf_counter() - start))
"""


def encoding_rate(keep: int, batch: int, threads: int, settings: Mapping[str, str]) -> float:
    """Patches a second of the encoder in a process of its own."""
    command = [sys.executable, "-c", ENCODE, str(keep), str(batch), str(threads)]
    return float(subprocess.run(command, env=os.environ | settings, check=True, capture_output=True, text=True).stdout)


def encoding() -> None:
    """The encoder alone, in new processes: memory kept between batches, and given back to the system after each."""
    for what, threads, settings in (
        ("encoder, two threads", 2, {}),
        ("encoder, one thread", 1, {}),
        ("encoder, as Dask starts it", 1, {"MALLOC_TRIM_THRESHOLD_": "65536"}),
    ):
        rates = [
            [encoding_rate(keep, batch, threads, settings) for keep, batch in ((1, BATCH), (0, 8))] for _ in range(3)
        ]
        ours, plain = np.max(rates, axis=0)
        rounds = ", ".join(f"{a / b:.1f}" for a, b in rates)
        report(what, ours, plain, f"rounds {rounds}; plain: memory given back, eight at once")


def make_tree(root: Path, n: int, patches: int) -> None:
    """A data root of n slides: features as TRIDENT lays them out, the fixture's slides and masks under other names."""
    run = root / "trident_processed" / "20x_512px_0px_overlap"
    if (root / "wsi_labels.csv").exists():
        return
    data = open_data("")
    rng = np.random.default_rng(0)
    names = [f"slide_{i:03d}" for i in range(n)]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        source = [x for x in ROSTER if x.startswith("normal" if i % 2 == 0 else "tumor")][i % 4]
        slide = data.slide_path(source)
        (root / "images" / f"{name}.tif").symlink_to(slide)
        (root / "masks" / f"{name}_mask.tif").symlink_to(data.mask_path(source))
        with open_slide(slide) as opened:
            width, height = opened.dimensions
        g = Geometry.for_slide(mpp=0.243, width=width, height=height, magnification=20, patch_size=512, overlap=440)
        coords = g.grid()[:patches]
        trident.write_patches(run / "patches" / f"{name}_patches.h5", coords, g)
        target = run / "features_random" / f"{name}.h5"
        target.parent.mkdir(exist_ok=True)
        with h5py.File(target, "w") as file:
            values = rng.standard_normal((len(coords), 768), np.float32)
            file.create_dataset("features", data=values, chunks=(1, 768), maxshape=(None, 768))
            file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
        with h5py.File(run / "patches" / f"{name}_patches.h5") as file:
            attributes = dict(file["coords"].attrs)
        with h5py.File(target, "a") as file:
            file["coords"].attrs.update(attributes)
    table = pd.DataFrame({"wsi_name": names, "wsi_label": [i % 2 for i in range(n)]})
    table[: n * 2 // 3].to_csv(root / "train.csv", index=False)
    table[n * 2 // 3 :].to_csv(root / "test.csv", index=False)
    table.to_csv(root / "wsi_labels.csv", index=False)


def check(folder: Path, n: int, patches: int) -> None:
    root = folder / f"tree_{n}_{patches}"
    make_tree(root, n, patches)
    size = sum(p.stat().st_size for p in root.rglob("*.h5"))
    result, seconds = timed(check_root, root, progress=False, workers=os.cpu_count())
    assert not result.spoiled, result.errors[:3]
    print(f"{'check':28} {n} slides, {size / 1e9:.1f} GB of features and coordinates: {seconds:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/benchmarks"), help="where the large slide and the tree are made"
    )
    parser.add_argument("--plain", type=int, default=200, help="patches that the plain canvas loop reads")
    parser.add_argument("--encode", type=int, default=320, help="patches that are encoded")
    parser.add_argument("--slides", type=int, default=400, help="slides of the tree for `check`")
    parser.add_argument("--patches", type=int, default=1000, help="patches of each of them")
    parser.add_argument("--only", choices=["canvas", "encoder", "prepare", "check"])
    parser.add_argument("--clean", action="store_true", help="remove what was made, at the end")
    args = parser.parse_args()
    keep_freed_memory()  # as the command does
    parts = {
        "canvas": lambda: canvas_and_labels(args.folder, args.plain),
        "encoder": encoding,
        "prepare": lambda: preparation(args.folder, args.encode),
        "check": lambda: check(args.folder, args.slides, args.patches),
    }
    for name, part in parts.items():
        if args.only in (None, name):
            part()
            print(f"{'':28} peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
    if args.clean:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
