"""The data step against the plain loops that it replaces, side by side in one run: python benchmarks/data.py

Canvas, patch labels, preparation and `check`. Results are compared; ratios and peak memory are printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import tifffile
from big import big_slide

from mil_tutorial import Geometry, PrepareOptions, load_encoder, open_data, open_slide, read_canvas, trident
from mil_tutorial.commands.check import check_root
from mil_tutorial.fixture.plan import ROSTER
from mil_tutorial.slides.labels import label_patches
from mil_tutorial.slides.prepare import BATCH, _batches, encode_patches, find_patches


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def report(what: str, ours: float, plain: float, unit: str, note: str = "") -> None:
    print(f"{what:28} ours {ours:9.1f} {unit:10} plain {plain:9.1f} {unit:10} ratio {ours / plain:7.1f}   {note}")


def plain_canvas(slide, coords, side, px):
    """The original tutorial's loop: each patch at level 0, made small.

    Two things differ, so that the pictures can be compared: all pixels are averaged, and what lies beyond the slide is white.
    """
    patches = []
    for x, y in coords.tolist():
        patch = np.array(slide.read_region((x, y), 0, (side, side)))
        patch[patch[:, :, 3] == 0] = 255
        patch = patch[:, :, :3]
        patches.append(cv2.resize(patch, (px, px), interpolation=cv2.INTER_AREA))
    return np.array(patches)


def plain_fractions(mask_path, coords, side):
    """The original script's loop: cut each patch out of the mask's level 0 and count. It uses zarr; this reads the same tiles."""
    shares = []
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
            shares.append((np.where(patch == 2, 1, 0)).sum() / side**2)
    return np.array(shares, np.float32)


def canvas_and_labels(folder: Path, sample: int) -> None:
    slide_path, mask_path = big_slide(folder)
    with open_slide(slide_path) as slide:
        coords, geometry, _, _ = find_patches(slide, slide_path, PrepareOptions())
    side = geometry.patch_size_level0
    print(f"slide {geometry.width} x {geometry.height} px, {len(coords)} patches of {side} level-0 pixels")
    some = np.sort(np.random.default_rng(0).permutation(len(coords))[:sample])
    with open_slide(slide_path) as slide:
        (canvas, rows, columns), fast = timed(read_canvas, slide, coords, side, 50)
    with open_slide(slide_path) as slide:
        level0, slow = timed(plain_canvas, slide, coords[some], side, 50)
    ours = np.array(
        [canvas[r * 50 : r * 50 + 50, c * 50 : c * 50 + 50] for r, c in zip(rows[some], columns[some], strict=True)]
    )
    difference = np.abs(ours.astype(int) - level0).mean()
    report("canvas", len(coords) / fast, len(some) / slow, "patches/s", f"mean difference {difference:.2f} of 255")
    label_patches(mask_path, coords[:1], side)  # the first call loads the codecs
    labels, fast = timed(label_patches, mask_path, coords, side)
    counted, slow = timed(plain_fractions, mask_path, coords, side)
    assert np.array_equal(labels.fraction, counted), "the labels differ"
    report(
        "labels",
        len(coords) / fast,
        len(coords) / slow,
        "patches/s",
        f"all {len(coords)} equal, {(labels.label == 1).sum()} tumour",
    )


def preparation(folder: Path, n: int) -> None:
    slide_path, _ = big_slide(folder)
    encoder = load_encoder()
    pictures = np.random.default_rng(0).integers(0, 256, (64, encoder.px, encoder.px, 3), dtype=np.uint8)
    with open_slide(slide_path) as slide:
        (coords, geometry, _, _), find = timed(find_patches, slide, slide_path, PrepareOptions())
    patches = trident.Patches("big_001", coords[len(coords) // 2 :][:n], geometry)

    def alone():
        for i in range(0, n, BATCH):
            encoder.encode(pictures[i % 64 : i % 64 + BATCH])

    alone()  # warm
    target = folder / "features.h5"
    rates = []
    for _ in range(3):  # in turns, because the machine's speed drifts
        target.unlink(missing_ok=True)
        rates.append(
            (
                n / timed(encode_patches, slide_path, patches, target, encoder, "float32", "cpu", False)[1],
                n / timed(alone)[1],
            )
        )
    with open_slide(slide_path) as slide:
        start = time.perf_counter()
        for _ in _batches(slide, slide_path, patches.coords, geometry.patch_size_level0, encoder.px, 256):
            pass
        reading = n / (time.perf_counter() - start)
    print(f"{'reading patches alone, for a GPU':44} {reading:9.0f} patches/s")
    ours, plain = np.median(rates, axis=0)
    report(
        "preparation",
        ours,
        plain,
        "patches/s",
        f"plain: encoder alone, pictures in memory; tissue of the whole slide {find:.1f} s",
    )


ENCODE = """
import sys, time, numpy, torch
from mil_tutorial import encoders
keep, batch, threads = map(int, sys.argv[1:])
if not keep:
    encoders.keep_freed_memory = lambda: None
torch.set_num_threads(threads)
encoder = encoders.load_encoder()
pictures = numpy.random.default_rng(0).integers(0, 256, (64, encoder.px, encoder.px, 3), dtype=numpy.uint8)
def encode(repeats):
    for i in range(0, 64 * repeats, batch):
        encoder.encode(pictures[i % 64 : i % 64 + batch])
encode(1)  # warm
start = time.perf_counter()
encode(2)
print(128 / (time.perf_counter() - start))
"""


def encoding() -> None:
    """The encoder alone, in new processes: memory kept between batches, and given back to the system after each."""
    for what, threads, settings in (
        ("encoder, two threads", 2, {}),
        ("encoder, one thread", 1, {}),
        ("encoder, as Dask starts it", 1, {"MALLOC_TRIM_THRESHOLD_": "65536"}),
    ):
        rates = [
            [
                float(
                    subprocess.run(
                        [sys.executable, "-c", ENCODE, str(keep), str(batch), str(threads)],
                        env=os.environ | settings,
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for keep, batch in ((1, BATCH), (0, 8))
            ]
            for _ in range(3)
        ]
        ours, plain = np.max(rates, axis=0)
        rounds = ", ".join(f"{a / b:.1f}" for a, b in rates)
        report(what, ours, plain, "patches/s", f"rounds {rounds}; plain: memory given back, eight at once")


def make_tree(root: Path, n: int, patches: int) -> None:
    """A data root of n slides: features as TRIDENT lays them out, and the fixture's slides and masks under other names."""
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
    result, seconds = timed(check_root, root, None, False, os.cpu_count())
    errors = [f.what for f in result.findings if f.level == "error"]
    assert not errors, errors[:3]
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
