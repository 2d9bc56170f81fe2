"""A slide in tiles, as a page shows it: levels that halve from one to the next, and only where there are patches.

A tile is a square of `TILE` pixels. At a level of factor f it covers `TILE * f` level-0 pixels, and tile (0, 0) begins
at the slide's corner.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import openslide
from tqdm.auto import tqdm

from mil_tutorial.slides.far import fetch_patches
from mil_tutorial.slides.plots import encode_jpeg
from mil_tutorial.slides.reading import read_overview, read_region, stated_mpp
from mil_tutorial.slides.tiff import TiffLevel, open_level

TILE = 512  # pixels of a tile's side

OVERVIEW_PX = 1400  # longest side of the picture of the whole slide

QUALITY, LIMITED_QUALITY = 80, 60  # of the JPEGs; where level 0 is left out, the folder has to stay small

SMALL = 1 << 28  # level-0 pixels under patches: so much is shown at full resolution

LIMIT_MPP = 1.0  # µm per pixel of the finest tiles of what is larger

Key = tuple[int, int, int]  # factor, column, row


@dataclass(frozen=True)
class TilePlan:
    """Which tiles a page has.

    Attributes:
        size: width and height of the slide in level-0 pixels.
        mpp: µm per level-0 pixel; None if the file does not say it.
        factors: of the levels, coarse first; powers of two.
        tiles: factor -> (k, 2) column, row of its tiles, int64; None: all.
    """

    size: tuple[int, int]
    mpp: float | None
    factors: tuple[int, ...]
    tiles: dict[int, np.ndarray | None]

    def keys(self) -> list[Key]:
        """Every tile, level by level."""
        return [(f, *place) for f in self.factors for place in self.places(f).tolist()]

    def places(self, factor: int) -> np.ndarray:
        """(k, 2) column, row of a level's tiles."""
        places = self.tiles[factor]
        if places is None:
            columns, rows = (-(-side // (TILE * factor)) for side in self.size)
            places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), 2).reshape(-1, 2)
        return places

    def __contains__(self, key: Key) -> bool:
        factor, column, row = key
        if factor not in self.tiles:
            return False
        places = self.tiles[factor]
        if places is None:
            return all(0 <= n * TILE * factor < side for n, side in zip((column, row), self.size, strict=True))
        return bool((places == (column, row)).all(1).any())


def finest_factor(mpp: float | None, pixels: int, finest_mpp: float | None) -> int:
    """Level-0 pixels of one pixel of the finest tiles: the power of two that comes nearest to the wish.

    Args:
        mpp: µm per level-0 pixel, if it is known.
        pixels: level-0 pixels under patches.
        finest_mpp: the wish in µm per pixel; None: level 0 of what is small, else `LIMIT_MPP`.

    >>> finest_factor(0.25, 10**8, None), finest_factor(0.243, 10**9, None), finest_factor(0.25, 10**8, 0.5)
    (1, 4, 2)
    """
    if finest_mpp is None and pixels <= SMALL:
        return 1
    wish = (finest_mpp or LIMIT_MPP) / (mpp or 0.25)
    return 2 ** max(0, round(math.log2(wish)))


def plan_tiles(
    slide: openslide.AbstractSlide, coords: np.ndarray | None, side: int, finest_mpp: float | None = None
) -> TilePlan:
    """The tiles that the patches need; all tiles of all levels where `coords` is None.

    Args:
        slide: an open slide.
        coords: (n, 2) x, y of patches.
        side: of a patch in level-0 pixels.
        finest_mpp: as for `finest_factor`.
    """
    size, mpp = slide.dimensions, stated_mpp(slide)
    finest = 1 if coords is None else finest_factor(mpp, len(coords) * side**2, finest_mpp)
    coarsest = max(size) / OVERVIEW_PX  # the overview shows what is coarser
    factors = [f for k in range(32) if finest <= (f := 2**k) < max(coarsest, finest + 1)]
    tiles = {f: None if coords is None else _under(coords, side, f, size) for f in factors}
    return TilePlan(size, mpp, tuple(factors[::-1]), tiles)


def _under(coords: np.ndarray, side: int, factor: int, size: tuple[int, int]) -> np.ndarray:
    """(k, 2) column, row of the tiles that patches touch."""
    first, last = coords // (TILE * factor), (np.minimum(coords + side, size) - 1) // (TILE * factor)
    steps = np.indices((last - first).max(0, initial=0) + 1).reshape(2, -1).T
    places = np.maximum(0, np.minimum(first[:, None] + steps, last[:, None]))
    return np.unique(places.reshape(-1, 2), axis=0).astype(np.int64)


@contextmanager
def tile_reader(
    slide: openslide.AbstractSlide, path: str, factors: tuple[int, ...]
) -> Iterator[Callable[[Key], bytes]]:
    """A function that makes one tile, a JPEG; threads may share it. What is outside the slide is white."""
    quality = QUALITY if 1 in factors else LIMITED_QUALITY
    with ExitStack() as stack:
        levels = {f: slide.get_best_level_for_downsample(f * 1.01) for f in factors}
        opened: dict[int, TiffLevel | None] = {
            level: stack.enter_context(open_level(slide, path, level, samples=3)) for level in set(levels.values())
        }

        def read(key: Key) -> bytes:
            factor, column, row = key
            level = levels[factor]
            x, y = (n * TILE * factor for n in (column, row))
            tiles, shrink = opened[level], slide.level_downsamples[level]
            if tiles is None:
                rgb = read_region(slide, (x, y), (TILE * factor, TILE * factor), factor, path)
            else:
                px = max(1, round(TILE * factor / shrink))
                rgb = tiles.read(round(x / shrink), round(y / shrink), px, px)
            if rgb.shape[:2] != (TILE, TILE):
                rgb = cv2.resize(rgb, (TILE, TILE), interpolation=cv2.INTER_AREA)
            return encode_jpeg(rgb, quality=quality)

        yield read


def make_tiles(slide: openslide.AbstractSlide, path: str, plan: TilePlan, keep: Callable[[Key, bytes], None]) -> None:
    """Make all tiles of a plan, on all cores, and give each to `keep`.

    Raises:
        DataError: the slide is damaged.
    """
    keys = plan.keys()
    for factor in plan.factors:
        fetch_patches(slide, plan.places(factor) * (TILE * factor), TILE * factor, TILE)
    with tile_reader(slide, path, plan.factors) as read, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = zip(keys, pool.map(read, keys), strict=True)
        for key, tile in tqdm(made, total=len(keys), desc="Tiles", unit="tile", leave=False, delay=2):
            keep(key, tile)


def overview(slide: openslide.AbstractSlide, path: str) -> bytes:
    """A JPEG of the whole slide, `OVERVIEW_PX` long."""
    return encode_jpeg(read_overview(slide, max(1, max(slide.dimensions) / OVERVIEW_PX), path=path), quality=85)
