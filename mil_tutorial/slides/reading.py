"""Whole-slide images: open them, read patches from the level that fits, lay patches on a canvas.

A whole-slide image is a pyramid: level 0 is the full resolution, each further level the same picture made smaller.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openslide

from mil_tutorial.errors import DataError
from mil_tutorial.geometry import as_coords, grid_cells, grid_step
from mil_tutorial.slides.tiff import open_level

BLOCK = 1024  # side in pixels of what is read from a level at once: whole tiles that stay in the cache

LARGEST_TILE = 1 << 26  # pixels of a tile; scanners write some 2**20 at most

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".dcm", ".svslide")


def open_slide(path: str | os.PathLike) -> openslide.OpenSlide:
    """Open a slide or a mask with OpenSlide.

    Raises:
        DataError: there is no such file, or OpenSlide cannot read it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Check the folder and the slide's name.")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: OpenSlide cannot open it ({error}). Expected a whole-slide image such as .svs, .ndpi or a tiled"
            " pyramidal TIFF. Is the file whole? Was it copied to the end?"
        ) from error
    for level in range(slide.level_count):  # OpenSlide ends the whole program when it cannot allocate one tile
        sides = (slide.properties.get(f"openslide.level[{level}].tile-{what}", "0") for what in ("width", "height"))
        width, height = (int(s) if s.isdecimal() else 0 for s in sides)
        if width * height > LARGEST_TILE:
            slide.close()
            raise DataError(
                f"{path}: level {level} has tiles of {width} x {height} pixels, which no scanner writes. The file is damaged. Copy it again."
            )
    return slide


def slide_mpp(slide: openslide.OpenSlide, path: str | os.PathLike, mpp: float | None = None) -> float:
    """µm per pixel at level 0: `mpp` if given, else what the file says.

    Raises:
        DataError: the file does not say it.
    """
    if mpp is not None:
        return float(mpp)
    found = slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < 100:
        raise DataError(
            f"{path}: the file does not say how large a pixel is (openslide.mpp-x is {found!r}). Without it magnification means"
            " nothing. Give it yourself: --mpp 0.25 for 40x, --mpp 0.5 for 20x."
        )
    return value


def read_patch(
    slide: openslide.OpenSlide, x: int, y: int, side_level0: int, px: int, path: str | os.PathLike = "slide"
) -> np.ndarray:
    """Read a square patch and scale it to `px` pixels, from the smallest level that still has as many pixels.

    Args:
        x, y: top-left corner in level-0 pixels.
        side_level0: side of the patch in level-0 pixels.
        px: side of the result.
        path: named in errors.

    Returns:
        uint8 (px, px, 3) RGB; what lies outside the slide is white.

    Raises:
        DataError: the file is damaged there.
    """
    rgb = _read_region(slide, x, y, side_level0, side_level0, side_level0 / px, path)
    return _resize(rgb, px)


def _resize(rgb: np.ndarray, px: int) -> np.ndarray:
    return cv2.resize(rgb, (px, px), interpolation=cv2.INTER_AREA if rgb.shape[0] >= px else cv2.INTER_LINEAR)


def _read_region(slide, x, y, width_level0, height_level0, downsample, path):
    """RGB of a rectangle, read at the coarsest level whose downsample is at most `downsample`."""
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    factor = slide.level_downsamples[level]
    size = (max(1, round(width_level0 / factor)), max(1, round(height_level0 / factor)))
    shift = (0, 0)
    if factor == int(factor) > 1:
        # OpenSlide is four times faster where a pixel of the level begins: elsewhere it interpolates.
        shift = (round(x % factor / factor), round(y % factor / factor))
        x, y = x - x % factor, y - y % factor
    try:
        region = slide.read_region((int(x), int(y)), level, (size[0] + shift[0], size[1] + shift[1]))
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: OpenSlide fails at x={x}, y={y}, level {level} ({error}). The file is damaged or cut short. Copy it again."
        ) from error
    rgba = np.asarray(region)[shift[1] :, shift[0] :]
    if rgba[:, :, 3].min() == 255:
        return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    # OpenSlide leaves what was never scanned transparent; on the microscope it would be bright.
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)


def read_overview(slide: openslide.OpenSlide, downsample: float, path: str | os.PathLike = "slide") -> np.ndarray:
    """The whole slide made smaller by `downsample`: uint8 (height / downsample, width / downsample, 3) RGB.

    It is read block by block from the level that fits, so that memory holds the result and one block only.
    """
    width, height = slide.dimensions
    out = np.empty((max(1, round(height / downsample)), max(1, round(width / downsample)), 3), np.uint8)
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    side = 8 * BLOCK if max(slide.level_dimensions[level]) <= 8 * BLOCK else 2 * BLOCK  # a small level in one go
    block = max(1, int(side * slide.level_downsamples[level] / downsample))  # pixels of the result
    for top in range(0, out.shape[0], block):
        bottom = min(out.shape[0], top + block)
        y0, y1 = (round(r * height / out.shape[0]) for r in (top, bottom))
        for left in range(0, out.shape[1], block):
            right = min(out.shape[1], left + block)
            x0, x1 = (round(c * width / out.shape[1]) for c in (left, right))
            region = _read_region(slide, x0, y0, x1 - x0, y1 - y0, downsample, path)
            out[top:bottom, left:right] = cv2.resize(region, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return out


def read_canvas(
    slide: openslide.OpenSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    px: int = 50,
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
        ValueError: coordinates are not (n, 2), or a size is not positive.
        DataError: the slide is damaged.
    """
    if isinstance(slide, (str, os.PathLike)):
        with open_slide(slide) as opened:
            return read_canvas(opened, coords, patch_size_level0, px, step_level0)
    path = getattr(slide, "_filename", "slide")
    coords, side = as_coords(coords), int(patch_size_level0)
    if side < 1 or px < 1:
        raise ValueError(f"patch_size_level0 is {side} and px is {px}, expected at least 1.")
    step = step_level0 or grid_step(coords, side)
    columns, rows = grid_cells(coords, step).T
    if not len(coords):
        return np.full((px, px, 3), 255, np.uint8), rows, columns
    if (rows.max() + 1) * (columns.max() + 1) * px * px > 2**31:
        raise ValueError(
            f"a canvas of {columns.max() + 1} x {rows.max() + 1} patches of {px} px is too large. Take a smaller px."
        )
    canvas = np.full(((rows.max() + 1) * px, (columns.max() + 1) * px, 3), 255, np.uint8)
    # Twice as many pixels as asked for: from the nearest level the picture differs from level 0's nearly twice as much.
    downsample = max(1.0, side / px / 2)
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    factor = slide.level_downsamples[level]
    per_block = max(1, int(2 * BLOCK * factor / step))
    _, block = np.unique(rows // per_block * (columns.max() + 1) + columns // per_block, return_inverse=True)
    order = np.argsort(block, kind="stable")
    size = max(1, round(side / factor))  # of a patch in pixels of that level

    def lay(members: np.ndarray) -> None:
        low, high = coords[members].min(0), coords[members].max(0) + side
        if tiles is None:
            region = _read_region(slide, *low.tolist(), *(high - low).tolist(), downsample, path)
        else:
            region = tiles.read(
                *np.round(low / factor).astype(int).tolist(), *np.ceil((high - low) / factor).astype(int).tolist()
            )
        for i, (x, y) in zip(members, np.round((coords[members] - low) / factor).astype(int).tolist(), strict=True):
            r, c = rows[i] * px, columns[i] * px
            canvas[r : r + px, c : c + px] = _resize(region[y : y + size, x : x + size], px)

    try:
        with open_level(slide, path, level, samples=3) as tiles, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lay, np.split(order, np.flatnonzero(np.diff(block[order])) + 1)))
    except DataError:
        raise
    except Exception as error:  # tifffile and its codecs report damage in many ways; each means this file is not whole
        raise DataError(
            f"{path}: cannot be read at level {level} ({error!s:.160}). The file is damaged. Copy it again."
        ) from error
    return canvas, rows, columns
