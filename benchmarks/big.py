"""Make a slide as large as CAMELYON16's, and its mask, for the benchmarks from one synthetic slide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from mil_tutorial import open_data, open_slide
from mil_tutorial.fixture.write import TILE, encode_deflate, encode_jpeg, write_pyramid

WIDTH, HEIGHT, MPP = 82_000, 79_000, 0.243
SOURCE, PERIOD = "tumor_003", (12_288, 6_144)  # width and height of the repeated piece: whole tiles at levels 0 to 2


def level_sizes(smallest: int = 700) -> list[tuple[int, int]]:
    """Height and width of each level, halved until the longer side is at most `smallest`."""
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
    sizes = level_sizes()
    while len(levels) < len(sizes):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))

    def tiles(image: np.ndarray, size: tuple[int, int]) -> Iterator[bytes]:
        height, width = image.shape[:2]
        known: dict[tuple[int, int], bytes] = {}
        for y in range(0, size[0], TILE):
            for x in range(0, size[1], TILE):
                key = (y % height, x % width)
                if key not in known:
                    rows = (np.arange(TILE) + key[0]) % height
                    columns = (np.arange(TILE) + key[1]) % width
                    known[key] = encode_jpeg(image[rows[:, None], columns])
                yield known[key]

    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, sizes, (tiles(p, s) for p, s in zip(levels, sizes, strict=True)), MPP, rgb=True)


def make_mask(path: Path, seed: int = 0) -> None:
    """Tissue all over and twelve large lesions of ragged outline, all different; 0, 1, 2 as in CAMELYON16's masks."""
    rng = np.random.default_rng(seed)
    lesions = []
    for _ in range(12):
        angle, size = np.linspace(0, 2 * np.pi, 4000, endpoint=False), rng.uniform(1500, 6000)
        waves = [rng.normal(0, 0.25 / k) * np.sin(k * angle + rng.uniform(0, 6)) for k in range(2, 40)]
        radius = size * (1 + np.sum(waves, axis=0))
        center = rng.uniform((8000, 8000), (WIDTH - 8000, HEIGHT - 8000))
        lesions.append((center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.int32))
    boxes = [(p.min(0), p.max(0)) for p in lesions]

    def tiles(factor: int, size: tuple[int, int]) -> Iterator[bytes]:
        plain = encode_deflate(np.ones((TILE, TILE), np.uint8))
        for y in range(0, size[0], TILE):
            for x in range(0, size[1], TILE):
                corner = np.array([x, y]) * factor
                end = corner + TILE * factor
                touched = [(high >= corner).all() and (low <= end).all() for low, high in boxes]
                near = [lesion for lesion, here in zip(lesions, touched, strict=True) if here]
                if not near:
                    yield plain
                    continue
                tile = np.ones((TILE, TILE), np.uint8)
                cv2.fillPoly(tile, [(p - corner) // factor for p in near], 2)
                yield encode_deflate(tile)

    sizes = level_sizes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, sizes, (tiles(2**k, s) for k, s in enumerate(sizes)), MPP, rgb=False)


def big_slide(folder: Path) -> tuple[Path, Path]:
    """Paths of the slide and its mask; they are made if they are not there yet (about a minute)."""
    slide, mask = folder / "images" / "big_001.tif", folder / "masks" / "big_001_mask.tif"
    for path, make in tqdm([(slide, make_slide), (mask, make_mask)], desc="Making the large slide", unit="file"):
        if not path.exists():
            make(path)
    return slide, mask
