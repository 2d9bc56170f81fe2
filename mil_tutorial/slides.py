"""Whole-slide images: open them, read patches from the level that fits, lay patches on a canvas.

A whole-slide image is a pyramid: level 0 is the full resolution, each further level the same picture made smaller.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import openslide

from mil_tutorial.files import DataError
from mil_tutorial.geometry import grid_cells

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
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: OpenSlide cannot open it ({error}). Expected a whole-slide image such as .svs, .ndpi or a tiled"
            " pyramidal TIFF. Is the file whole? Was it copied to the end?"
        ) from error


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
    return cv2.resize(rgb, (px, px), interpolation=cv2.INTER_AREA if rgb.shape[0] >= px else cv2.INTER_LINEAR)


def _read_region(slide, x, y, width_level0, height_level0, downsample, path):
    """RGB of a rectangle, read at the coarsest level whose downsample is at most `downsample`."""
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    factor = slide.level_downsamples[level]
    size = (max(1, round(width_level0 / factor)), max(1, round(height_level0 / factor)))
    try:
        region = np.asarray(slide.read_region((int(x), int(y)), level, size))
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: OpenSlide fails at x={x}, y={y}, level {level} ({error}). The file is damaged or cut short. Copy it again."
        ) from error
    if region[:, :, 3].min() == 255:
        return np.ascontiguousarray(region[:, :, :3])
    # OpenSlide leaves what was never scanned transparent; on the microscope it would be bright.
    alpha = region[:, :, 3:].astype(np.uint16)
    return ((region[:, :, :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)


def read_overview(slide: openslide.OpenSlide, downsample: float, path: str | os.PathLike = "slide") -> np.ndarray:
    """The whole slide made smaller by `downsample`: uint8 (height / downsample, width / downsample, 3) RGB.

    It is read in strips from the level that fits, so that memory holds the result and one strip only.
    """
    width, height = slide.dimensions
    out = np.empty((max(1, round(height / downsample)), max(1, round(width / downsample)), 3), np.uint8)
    level = slide.get_best_level_for_downsample(downsample * 1.01)
    budget = 4_000_000 * slide.level_downsamples[level] ** 2  # level-0 pixels of one strip
    rows = max(1, int(budget / width / downsample))
    for top in range(0, out.shape[0], rows):
        bottom = min(out.shape[0], top + rows)
        y0, y1 = (round(r * height / out.shape[0]) for r in (top, bottom))
        strip = _read_region(slide, 0, y0, width, y1 - y0, downsample, path)
        out[top:bottom] = cv2.resize(strip, (out.shape[1], bottom - top), interpolation=cv2.INTER_AREA)
    return out


def read_canvas(
    slide: openslide.OpenSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    px: int = 50,
    step_level0: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the patches of a slide on a white canvas, each `px` pixels wide, at its place in the grid.

    The patches are read from the pyramid level that fits `px`, several neighbours at once.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        px: side of a patch on the canvas.
        step_level0: distance between neighbours if patches overlap; the patch size by default.

    Returns:
        canvas uint8 ((max_row + 1) * px, (max_column + 1) * px, 3), rows (n,) and columns (n,) int64 from 0.
    """
    path = getattr(slide, "_filename", "slide")
    if isinstance(slide, (str, os.PathLike)):
        with open_slide(slide) as opened:
            return read_canvas(opened, coords, patch_size_level0, px, step_level0)
    coords = np.asarray(coords, np.int64).reshape(-1, 2)
    columns, rows = grid_cells(coords, step_level0 or patch_size_level0).T
    if not len(coords):
        return np.full((px, px, 3), 255, np.uint8), rows, columns
    canvas = np.full(((rows.max() + 1) * px, (columns.max() + 1) * px, 3), 255, np.uint8)
    for i in range(len(coords)):
        x, y = coords[i]
        r, c = rows[i] * px, columns[i] * px
        canvas[r : r + px, c : c + px] = read_patch(slide, x, y, patch_size_level0, px, path)
    return canvas, rows, columns


HIGH_COLOR = (0.84, 0.15, 0.16)  # the reds and greens of torchmil's default, for the same picture
LOW_COLOR = (0.17, 0.63, 0.17)


def draw_heatmap(
    canvas: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    px: int,
    alpha: float = 0.5,
    max_color: tuple[float, float, float] = HIGH_COLOR,
    min_color: tuple[float, float, float] = LOW_COLOR,
    cmap: str | None = None,
) -> np.ndarray:
    """Colour the patches of a canvas by their values, all at once.

    Args:
        canvas: uint8 (height, width, 3) from `read_canvas`.
        values: (n,) in [0, 1]. NaN leaves a patch as it is.
        rows, columns: (n,) places of the patches.
        px: side of a patch on the canvas.
        alpha: weight of the colour against the tissue.
        max_color, min_color: RGB in [0, 1] for values 1 and 0.
        cmap: name of a matplotlib colour map, used in place of the two colours.

    Returns:
        A new canvas.

    Raises:
        ValueError: a value lies outside [0, 1].
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise ValueError(
            f"values must lie in [0, 1], found {values[known].min():.3g} to {values[known].max():.3g}. Scale them first."
        )
    if cmap is None:
        colors = values[known, None] * np.asarray(max_color) + (1 - values[known, None]) * np.asarray(min_color)
    else:
        from matplotlib import colormaps

        colors = colormaps[cmap](values[known])[:, :3]
    out = canvas.copy()
    tiles = out.reshape(canvas.shape[0] // px, px, canvas.shape[1] // px, px, 3)
    place = (np.asarray(rows)[known], slice(None), np.asarray(columns)[known])
    blended = (1 - alpha) * tiles[place] + alpha * 255 * colors[:, None, None]
    tiles[place] = blended.astype(np.uint8)  # `tiles` is a view of `out`
    return out
