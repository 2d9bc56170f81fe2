"""A slide as large as CAMELYON16's, with its mask, made for the benchmarks from one synthetic slide."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from mil_tutorial import open_data, open_slide
from mil_tutorial.fixture.write import TILE, _encode_deflate, _encode_jpeg, _write_pyramid

WIDTH, HEIGHT, MPP = 82_000, 79_000, 0.243
SOURCE, PERIOD = "tumor_003", (12_288, 6_144)  # width and height of the repeated piece: whole tiles at levels 0 to 2


def _sizes(smallest=700):
    sizes = [(HEIGHT, WIDTH)]
    while max(sizes[-1]) > smallest:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def make_slide(path: Path) -> None:
    """The source slide repeated like wallpaper. Equal tiles are encoded once."""
    with open_slide(open_data("").slide_path(SOURCE)) as source:
        levels = []
        for level in range(source.level_count):
            size = tuple(p // 2**level for p in PERIOD)
            levels.append(np.asarray(source.read_region((0, 0), level, size))[:, :, :3])
    sizes = _sizes()
    while len(levels) < len(sizes):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))

    def tiles(picture, size):
        height, width = picture.shape[:2]
        known = {}
        for y in range(0, size[0], TILE):
            for x in range(0, size[1], TILE):
                key = (y % height, x % width)
                if key not in known:
                    rows = (np.arange(TILE) + key[0]) % height
                    columns = (np.arange(TILE) + key[1]) % width
                    known[key] = _encode_jpeg(picture[rows[:, None], columns])
                yield known[key]

    path.parent.mkdir(parents=True, exist_ok=True)
    _write_pyramid(path, sizes, (tiles(p, s) for p, s in zip(levels, sizes, strict=True)), MPP, rgb=True)


def make_mask(path: Path, seed: int = 0) -> None:
    """Tissue all over and twelve large lesions of ragged outline, none like another; 0, 1 and 2 as CAMELYON16's masks."""
    rng = np.random.default_rng(seed)
    lesions = []
    for _ in range(12):
        angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
        radius = rng.uniform(1500, 6000) * (
            1 + sum(rng.normal(0, 0.25 / k) * np.sin(k * angle + rng.uniform(0, 6)) for k in range(2, 40))
        )
        center = rng.uniform((8000, 8000), (WIDTH - 8000, HEIGHT - 8000))
        lesions.append((center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.int32))
    boxes = [(p.min(0), p.max(0)) for p in lesions]

    def tiles(factor, size):
        plain = _encode_deflate(np.ones((TILE, TILE), np.uint8))
        for y in range(0, size[0], TILE):
            for x in range(0, size[1], TILE):
                corner = np.array([x, y]) * factor
                near = [
                    p
                    for p, (low, high) in zip(lesions, boxes, strict=True)
                    if (high >= corner).all() and (low <= corner + TILE * factor).all()
                ]
                if not near:
                    yield plain
                    continue
                tile = np.ones((TILE, TILE), np.uint8)
                cv2.fillPoly(tile, [(p - corner) // factor for p in near], 2)
                yield _encode_deflate(tile)

    sizes = _sizes()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_pyramid(path, sizes, (tiles(2**k, s) for k, s in enumerate(sizes)), MPP, rgb=False)


def big_slide(folder: Path) -> tuple[Path, Path]:
    """Paths of the slide and its mask; they are made when they are not there yet (about a minute)."""
    slide, mask = folder / "images" / "big_001.tif", folder / "masks" / "big_001_mask.tif"
    for path, make in tqdm([(slide, make_slide), (mask, make_mask)], desc="Making the large slide", unit="file"):
        if not path.exists():
            make(path)
    return slide, mask
