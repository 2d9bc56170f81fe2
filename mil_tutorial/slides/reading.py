"""Open a slide, read one patch or all of it from the level that fits, lay its patches on a canvas.

A whole-slide image is a pyramid: level 0 is the full resolution, each further level the same image made smaller.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import openslide
from openslide import AbstractSlide

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number
from mil_tutorial.geometry import as_coords, as_side, grid_cells, grid_step
from mil_tutorial.remote import place
from mil_tutorial.slides.far import FarSlide, fetch_patches
from mil_tutorial.slides.tiff import LARGEST_TILE, TiffLevel, open_level

BLOCK = 1024  # side in pixels of what is read from a level at once: whole tiles that stay in the cache

LARGEST_IMAGE = 1 << 31  # pixels of a canvas or an overview; more is a slip of the caller

LARGEST_PATCH = 1 << 15  # pixels of a patch's side at the level that it is read from

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".dcm", ".svslide")


def open_slide(path: str | os.PathLike) -> AbstractSlide:
    """Open a slide or a mask with OpenSlide; from an address (https://…) tile by tile, see `far`.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    path = place(path)
    if isinstance(path, str):
        return FarSlide(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Check the folder and the slide's name.")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: OpenSlide cannot open it ({error}). Expected a whole-slide image such as .svs, .ndpi or a tiled"
            " pyramidal TIFF. Check that the file was copied to its end."
        ) from error
    for level in range(slide.level_count):  # OpenSlide ends the whole program when it cannot allocate one tile
        sides = (slide.properties.get(f"openslide.level[{level}].tile-{what}", "0") for what in ("width", "height"))
        width, height = (int(s) if s.isdecimal() else 0 for s in sides)
        if width * height > LARGEST_TILE:
            slide.close()
            raise DataError(
                f"{path}: level {level} has tiles of {width} x {height} pixels, which no scanner writes."
                " The file is damaged. Copy it again."
            )
    return slide


@contextmanager
def opened(slide: AbstractSlide | str | os.PathLike) -> Iterator[tuple[AbstractSlide, str]]:
    """A slide that is open already, or its path or address: gives the open slide, and its name.

    Only what is opened here is closed at the end. Errors are those of `open_slide`, and `ParameterError`: neither.
    """
    if isinstance(slide, str | os.PathLike):
        with open_slide(slide) as own:
            yield own, str(slide)
        return
    require(isinstance(slide, AbstractSlide), "slide", slide, "an open slide or its path")
    yield slide, str(getattr(slide, "_filename", "slide"))


def stated_mpp(slide: AbstractSlide) -> float | None:
    """µm per pixel at level 0 as the file says it; None if it does not."""
    try:
        value = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
    except (KeyError, ValueError):
        return None
    return value if 0 < value < 100 else None


def slide_mpp(slide: AbstractSlide, path: str | os.PathLike, default: float | None = None) -> float:
    """µm per pixel at level 0: what the file says, else `default`.

    Raises:
        DataError: the file does not say it, and there is no default.
    """
    stated = stated_mpp(slide)
    value = default if stated is None else stated
    if value is None:
        raise DataError(
            f"{path}: the file does not say how large a pixel is"
            f" (openslide.mpp-x is {slide.properties.get(openslide.PROPERTY_NAME_MPP_X)!r})."
            " Without it magnification means nothing. Give its mpp: 0.25 for 40x, 0.5 for 20x."
        )
    return float(value)


def read_patch(
    slide: AbstractSlide, x: int, y: int, side_level0: int, px: int, path: str | os.PathLike | None = None
) -> np.ndarray:
    """Read a square patch and scale it to `px` pixels, from the smallest level that still has as many pixels.

    Args:
        slide: an open slide.
        x, y: top-left corner in level-0 pixels.
        side_level0: side of the patch in level-0 pixels.
        px: side of the result.
        path: named in errors; by default the slide's own.

    Returns:
        uint8 (px, px, 3) RGB; what is outside the slide is white.

    Raises:
        ParameterError: a place or a size that is not a number of pixels.
        DataError: the file is damaged there.
    """
    side = as_side(side_level0, parameter="side_level0")
    require_integer("px", px, low=1)
    for parameter, value in (("x", x), ("y", y)):
        require_number(parameter, value)
    with opened(slide) as (own, own_path):
        _require_readable(own, side, side / px, parameter="side_level0")
        rgb = _read_region(own, (int(x), int(y)), (side, side), side / px, path or own_path)
    return _resize(rgb, px)


def _require_readable(slide: AbstractSlide, side: int, downsample: float, *, parameter: str) -> None:
    """A patch must fit into memory at the level that it is read from."""
    factor = slide.level_downsamples[slide.get_best_level_for_downsample(downsample * 1.01)]
    require(side / factor <= LARGEST_PATCH, parameter, side, f"at most {int(LARGEST_PATCH * factor)} for this slide")


def _resize(rgb: np.ndarray, px: int) -> np.ndarray:
    return cv2.resize(rgb, (px, px), interpolation=cv2.INTER_AREA if rgb.shape[0] >= px else cv2.INTER_LINEAR)


def _read_region(
    slide: AbstractSlide,
    corner: tuple[int, int],
    size_level0: tuple[int, int],
    downsample: float,
    path: str | os.PathLike,
) -> np.ndarray:
    """RGB of a rectangle, read at the coarsest level whose downsample is at most `downsample`."""
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    factor = slide.level_downsamples[level]
    width, height = (max(1, round(side / factor)) for side in size_level0)
    (x, y), shift = corner, (0, 0)
    if factor == int(factor) > 1:
        # OpenSlide is four times faster where a pixel of the level begins: elsewhere it interpolates.
        shift = (round(x % factor / factor), round(y % factor / factor))
        x, y = int(x - x % factor), int(y - y % factor)
    try:
        region = slide.read_region((x, y), level, (width + shift[0], height + shift[1]))
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: OpenSlide fails at x={x}, y={y}, level {level} ({error}). The file is damaged or cut short."
            " Copy it again."
        ) from error
    rgba = np.asarray(region)[shift[1] :, shift[0] :]
    if rgba[:, :, 3].min() == 255:
        return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    # OpenSlide leaves what was never scanned transparent; on the microscope it would be bright.
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)


def read_overview(slide: AbstractSlide, downsample: float, path: str | os.PathLike | None = None) -> np.ndarray:
    """The whole slide made smaller by `downsample`: uint8 (height / downsample, width / downsample, 3) RGB.

    It is read block by block from the level that fits, so that memory holds the result and one block only.

    Args:
        slide: an open slide.
        downsample: level-0 pixels of one pixel of the result.
        path: named in errors; by default the slide's own.

    Raises:
        ParameterError: a `downsample` that is no positive number, or so small that the result is too large.
        DataError: the file is damaged.
    """
    require_number("downsample", downsample, low=0, open_low=True)
    with opened(slide) as (own, own_path):
        width, height = own.dimensions
        columns, rows = max(1, round(width / downsample)), max(1, round(height / downsample))
        require(
            columns * rows <= LARGEST_IMAGE,
            "downsample",
            Found(f"{downsample:g}, which gives {columns} x {rows} pixels"),
            "a larger number",
        )
        out = np.empty((rows, columns, 3), np.uint8)
        fetch_patches(own, np.zeros((1, 2)), max(own.dimensions), max(own.dimensions) / downsample)
        level = own.get_best_level_for_downsample(downsample * 1.01)
        side = 8 * BLOCK if max(own.level_dimensions[level]) <= 8 * BLOCK else 2 * BLOCK  # a small level in one go
        block = max(1, int(side * own.level_downsamples[level] / downsample))  # pixels of the result
        for top in range(0, rows, block):
            bottom = min(rows, top + block)
            y0, y1 = (round(r * height / rows) for r in (top, bottom))
            for left in range(0, columns, block):
                right = min(columns, left + block)
                x0, x1 = (round(c * width / columns) for c in (left, right))
                region = _read_region(own, (x0, y0), (x1 - x0, y1 - y0), downsample, path or own_path)
                size = (right - left, bottom - top)
                out[top:bottom, left:right] = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
    return out


def read_canvas(
    slide: AbstractSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    px: int = 50,
    *,
    step_level0: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the patches of a slide on a white canvas, each `px` pixels wide, at its place in the grid.

    The patches are read from the pyramid level that fits `px`, many neighbours at once, on all cores.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        px: side of a patch on the canvas.
        step_level0: distance between neighbours in level-0 pixels; by default it is read off the coordinates, so that
            overlapping patches get places of their own, too.

    Returns:
        canvas uint8 ((max_row + 1) * px, (max_column + 1) * px, 3), rows (n,) and columns (n,) int64 from 0.

    Raises:
        ParameterError: coordinates are not (n, 2), a size is not a whole number of pixels, or the canvas is too large.
        DataError: the slide is damaged.
    """
    coords, side = as_coords(coords), as_side(patch_size_level0)
    require_integer("px", px, low=1)
    step = grid_step(coords, side) if step_level0 is None else as_side(step_level0, parameter="step_level0")
    columns, rows = grid_cells(coords, step).T
    height, width = ((int(places.max(initial=0)) + 1) * px for places in (rows, columns))
    found = Found(f"{px}, which gives a canvas of {width} x {height} pixels")
    require(height * width <= LARGEST_IMAGE, "px", found, "a smaller number, and coordinates of one slide")
    canvas = np.full((height, width, 3), 255, np.uint8)
    with opened(slide) as (own, path):
        if len(coords):
            _lay_patches(own, path, canvas, coords, rows, columns, side, step, px)
    return canvas, rows, columns


def _lay_patches(
    slide: AbstractSlide,
    path: str,
    canvas: np.ndarray,
    coords: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    side: int,
    step: int,
    px: int,
) -> None:
    """Read the patches, block by block, and write them into the canvas."""
    # Twice as many pixels as asked for: from the nearest level, the canvas differs nearly twice as much from level 0's.
    downsample = max(1.0, side / px / 2)
    _require_readable(slide, side, downsample, parameter="patch_size_level0")
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    factor = slide.level_downsamples[level]
    per_block = max(1, int(2 * BLOCK * factor / step))
    _, block = np.unique(rows // per_block * (columns.max() + 1) + columns // per_block, return_inverse=True)
    order = np.argsort(block, kind="stable")
    size = max(1, round(side / factor))  # of a patch in pixels of that level

    fetch_patches(slide, coords, side, side / downsample)

    def lay(members: np.ndarray, tiles: TiffLevel | None) -> None:
        low, high = coords[members].min(0), coords[members].max(0) + side
        if tiles is None:
            region = _read_region(slide, tuple(low.tolist()), tuple((high - low).tolist()), downsample, path)
        else:
            start, extent = np.round(low / factor).astype(int), np.ceil((high - low) / factor).astype(int)
            region = tiles.read(*start.tolist(), *extent.tolist())
        for i, (x, y) in zip(members, np.round((coords[members] - low) / factor).astype(int).tolist(), strict=True):
            r, c = rows[i] * px, columns[i] * px
            canvas[r : r + px, c : c + px] = _resize(region[y : y + size, x : x + size], px)

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
