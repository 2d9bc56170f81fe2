"""The patches of a slide on a canvas: the tissue without the glass around it, small enough to look at."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from openslide import AbstractSlide

from mil_tutorial.errors import DataError, Found, require, require_integer
from mil_tutorial.geometry import as_coords, as_side, grid_places, grid_step
from mil_tutorial.slides.far import fetch_patches
from mil_tutorial.slides.reading import BLOCK, LARGEST_IMAGE, opened, read_region, require_readable, resize_patch
from mil_tutorial.slides.tiff import TiffLevel, open_level


def read_canvas(
    slide: AbstractSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    px: int = 50,
    *,
    step_level0: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the patches of a slide on a white canvas, each `px` pixels wide, at its place in the grid.

    Where pieces of tissue have grids of their own, patches lie at their true places, a patch's side being `px`; where
    two overlap, the later one is seen. The patches are read from the pyramid level that fits `px`, many neighbours at
    once, on all cores.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        px: side of a patch on the canvas.
        step_level0: distance between neighbours in level-0 pixels; by default it is read off the coordinates, so that
            overlapping patches get places of their own, too.

    Returns:
        canvas uint8 ((max_row + 1) * px, (max_column + 1) * px, 3), rows (n,) and columns (n,) int64 from 0; off the
        grid, float64: multiples of 1 / px, so that `row * px` is a patch's first line of pixels.

    Raises:
        ParameterError: coordinates are not (n, 2), a size is not a whole number of pixels, or the canvas is too large.
        DataError: the slide is damaged.
    """
    coords, side = as_coords(coords), as_side(patch_size_level0)
    require_integer("px", px, low=1)
    step = grid_step(coords, side) if step_level0 is None else as_side(step_level0, parameter="step_level0")
    places = grid_places(coords, step)
    on_grid = not (places % 1).any()
    corners = np.round(places if on_grid else places * (step / side) * px).astype(np.int64) * (px if on_grid else 1)
    width, height = (corners.max(0, initial=0) + px).tolist()
    found = Found(f"{px}, which gives a canvas of {width} x {height} pixels")
    require(height * width <= LARGEST_IMAGE, "px", found, "a smaller number, and coordinates of one slide")
    canvas = np.full((height, width, 3), 255, np.uint8)
    with opened(slide) as (own, path):
        if len(coords):
            seen = None if on_grid else _latest(corners, px, canvas.shape[:2])
            _lay_patches(own, path, canvas, coords, corners, side, px, seen)
    columns, rows = (corners // px if on_grid else corners / px).T
    return canvas, rows, columns


def _latest(corners: np.ndarray, px: int, shape: tuple[int, int]) -> np.ndarray:
    """Which patch is seen at each pixel of a canvas: its number, int32; -1 where none is."""
    number = np.full(shape, -1, np.int32)
    for i, (x, y) in enumerate(corners.tolist()):
        number[y : y + px, x : x + px] = i
    return number


def _lay_patches(
    slide: AbstractSlide,
    path: str,
    canvas: np.ndarray,
    coords: np.ndarray,
    corners: np.ndarray,
    side: int,
    px: int,
    seen: np.ndarray | None,
) -> None:
    """Read the patches, block by block, and write them at their `corners` (n, 2) x, y of the canvas.

    With `seen`, see `_latest`, they may overlap, and threads must not race for a pixel.
    """
    # Twice as many pixels as asked for: from the nearest level, the canvas differs nearly twice as much from level 0's.
    downsample = max(1.0, side / px / 2)
    require_readable(slide, side, downsample, parameter="patch_size_level0")
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    factor = slide.level_downsamples[level]
    column, row = ((coords - coords.min(0)) // max(1, int(2 * BLOCK * factor))).T
    _, block = np.unique(row * (column.max() + 1) + column, return_inverse=True)
    order = np.argsort(block, kind="stable")
    size = max(1, round(side / factor))  # of a patch in pixels of that level
    fetch_patches(slide, coords, side, side / downsample)

    def lay(members: np.ndarray, tiles: TiffLevel | None) -> None:
        low, high = coords[members].min(0), coords[members].max(0) + side
        if tiles is None:
            region = read_region(slide, tuple(low.tolist()), tuple((high - low).tolist()), downsample, path)
        else:
            start, extent = np.round(low / factor).astype(int), np.ceil((high - low) / factor).astype(int)
            region = tiles.read(*start.tolist(), *extent.tolist())
        for i, (x, y) in zip(members, np.round((coords[members] - low) / factor).astype(int).tolist(), strict=True):
            patch = resize_patch(region[y : y + size, x : x + size], px)
            c, r = corners[i]
            ours = True if seen is None else (seen[r : r + px, c : c + px] == i)[:, :, None]
            np.copyto(canvas[r : r + px, c : c + px], patch, where=ours)

    try:
        with open_level(slide, path, level, samples=3) as tiles, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            blocks = np.split(order, np.flatnonzero(np.diff(block[order])) + 1)
            list(pool.map(partial(lay, tiles=tiles), blocks))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs report damage in many ways; each means this file is not whole
        raise DataError(
            f"{path}: cannot be read at level {level} ({error!s:.160}). The file is damaged. Copy it again."
        ) from error
