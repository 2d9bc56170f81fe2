"""The six notebooks on the real CAMELYON16's sizes, from a server on this machine: python benchmarks/fetched.py

60 slides of 80 000 x 80 000 pixels with 20 000 patches and features of 384 numbers, in the form of their publishers:
Philips pyramids, ASAP masks, AEM's HDF5 file. Pictures are noise and features made up; what is measured is time, bytes
and memory. With --root, the data root stays there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from remote.philips import TILE, write_large, write_mask_levels
from remote.server import serving

from mil_tutorial import camelyon16_slides
from mil_tutorial.commands.course import run_course, table
from mil_tutorial.commands.main import main as command

AEM = "datasets/dazhangyu123/AEM-dataset/CAMELYON16/patch_feats_pretrain_medical_ssl.h5"
SIDE, MPP, LEVELS = 512, 0.2431, 8
DIM = 384


def write_mask(path: Path, across: int, lesion: tuple[int, int, int, int]) -> None:
    """An ASAP mask of whole tiles: glass at the border, tissue, tumour in `lesion` = left, top, right, bottom."""
    left, top, right, bottom = lesion
    x, y = np.meshgrid(np.arange(across), np.arange(across))
    value = ((x > 2) & (y > 2) & (x < across - 3) & (y < across - 3)).astype(np.uint8)
    value[(left <= x) & (x < right) & (top <= y) & (y < bottom)] = 2
    shapes, coded, known = [], [], {}
    for k in range(LEVELS - 1):
        n, side = 2**k, -(-across // 2**k)
        padded = np.zeros((side * n, side * n), np.uint8)
        padded[:across, :across] = value
        tiles = []
        for row, column in np.ndindex(side, side):
            part = padded[row * n : (row + 1) * n, column * n : (column + 1) * n]
            key = k if part.min() < part.max() else 0, part.tobytes() if part.min() < part.max() else int(part[0, 0])
            if key not in known:
                known[key] = imagecodecs.lzw_encode(np.kron(part, np.ones((TILE // n, TILE // n), np.uint8)))
            tiles.append(known[key])
        shapes.append((across * TILE // n,) * 2)
        coded.append(tiles)
    write_mask_levels(path, shapes, coded, MPP)


def corners_of(across: int, patches: int, rng: np.random.Generator) -> np.ndarray:
    """CLAM's corners: two pieces of tissue, each with a grid of its own."""
    parts = []
    rows = -(-patches // (2 * (across // 2 - 3)))
    for piece in range(2):
        x0, y0 = rng.integers(0, SIDE, 2) + (3 + piece * across // 2, 3) * np.array(SIDE)
        x, y = np.meshgrid(np.arange(across // 2 - 4) * SIDE + x0, np.arange(rows) * SIDE + y0)
        parts.append(np.stack([x.ravel(), y.ravel()], 1))
    return np.concatenate(parts)[:patches].astype(np.int64)


def write_world(folder: Path, slides: int, across: int, patches: int) -> list[str]:
    """What the servers hold; the names of the slides."""
    known = camelyon16_slides()
    parts = [known[(known["split"] == s) & (known["wsi_label"] == y)] for s in ("train", "test") for y in (0, 1)]
    names = sorted(name for part in parts for name in part["wsi_name"][: slides // 4])
    label = dict(zip(known["wsi_name"], known["wsi_label"], strict=True))
    root = folder / "CAMELYON16"
    for kind in ("images", "masks", "annotations", "evaluation"):
        (root / kind).mkdir(parents=True)
    slide = folder / "slide.tif"
    write_large(slide, width=across * TILE, height=across * TILE, levels=LEVELS)
    rng, lines, sums = np.random.default_rng(0), ["image,type,class,center"], []
    direction = rng.standard_normal(DIM).astype(np.float32)
    (folder / AEM).parent.mkdir(parents=True)
    with h5py.File(folder / AEM, "w") as file:
        for i, name in enumerate(tqdm(names, desc="Making slides", unit="slide")):
            os.link(slide, root / "images" / f"{name}.tif")
            mask = root / "masks" / f"{name}_mask.tif"
            left, top = rng.integers(6, across - 30, 2).tolist()
            size = int(rng.integers(4, 20)) if label[name] else 0
            write_mask(mask, across, (left, top, left + size, top + size))
            sums.append(f"{hashlib.md5(mask.read_bytes()).hexdigest()} *masks/{mask.name}")
            coords = corners_of(across, patches, rng)
            x, y = (coords / SIDE).T
            tumor = (x > left - 0.5) & (x < left + size - 0.5) & (y > top - 0.5) & (y < top + size - 0.5)
            values = rng.standard_normal((len(coords), DIM), np.float32) + 0.15 * tumor[:, None] * direction
            group = file.create_group(name)
            group.create_dataset("feat", data=values.astype(np.float16))
            group.create_dataset("coords", data=coords)
            group.attrs["label"] = int(label[name])
            kind = ("macro" if i % 2 else "micro") if label[name] else "negative"
            lines.append(f"{name}.tif,{'tumor' if label[name] else 'normal'},{kind},{i % 2}")
    (root / "evaluation" / "reference.csv").write_text("\n".join(lines) + "\n")
    (root / "checksums.md5").write_text("\n".join(sums) + "\n")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=60)
    parser.add_argument("--side", type=int, default=160, help="tiles of 512 pixels along a slide's side")
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--root", type=Path, help="keep the data root here")
    parser.add_argument("--out", type=Path, help="keep the executed notebooks here")
    parser.add_argument("--only", help="only this notebook")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary) / "world"
        names = write_world(world, args.slides, args.side, args.patches)
        root = args.root or Path(temporary) / "root"
        with serving(world) as server:
            os.environ.update(MIL_TUTORIAL_BUCKET=server.address, MIL_TUTORIAL_HUB=server.address)
            os.environ["MIL_TUTORIAL_CACHE"] = str(Path(temporary) / "cache")
            start = time.perf_counter()
            assert command(["get", "camelyon16", str(root), "--names", *names]) == 0
            sent = server.sent() / 1e6
            print(f"get: {len(names)} slides, {sent:.0f} MB in {time.perf_counter() - start:.0f} s", flush=True)
            start = time.perf_counter()
            runs = run_course(args.out or Path(temporary) / "out", data=root, only=args.only)
            took = time.perf_counter() - start
            print(table(runs))
            pictures = server.sent(re.escape("/images/")) / 1e6
            size = os.path.getsize(world / "slide.tif") / 1e6
            print(f"course: {took:.0f} s, {pictures:.0f} MB of pictures read, a slide has {size:.0f} MB")


if __name__ == "__main__":
    main()
