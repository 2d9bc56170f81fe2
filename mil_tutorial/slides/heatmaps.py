"""Patch scores in colour: on a canvas of patches, or where the patches are on the slide."""

from __future__ import annotations

import os

import numpy as np
import openslide
from numpy.typing import ArrayLike

from mil_tutorial.errors import Found, require, require_integer, require_number
from mil_tutorial.geometry import as_coords, as_numbers, as_scores, as_side
from mil_tutorial.slides.plots import read_thumbnail

HIGH_COLOR = (0.84, 0.15, 0.16)  # the reds and greens of torchmil's default, for the same image

LOW_COLOR = (0.17, 0.63, 0.17)

AT_ONCE = 256  # patches that are blended together; a slide has tens of thousands


def draw_heatmap(
    canvas: np.ndarray,
    values: ArrayLike,
    rows: ArrayLike,
    columns: ArrayLike,
    px: int,
    *,
    alpha: float = 0.5,
    max_color: tuple[float, float, float] = HIGH_COLOR,
    min_color: tuple[float, float, float] = LOW_COLOR,
    cmap: str | None = None,
) -> np.ndarray:
    """Colour the patches of a canvas by their values, all at once.

    Args:
        canvas: uint8 (height, width, 3) from `read_canvas`.
        values: (n,) in [0, 1]. NaN leaves a patch as it is.
        rows, columns: (n,) places of the patches, from `read_canvas`: whole numbers; both floats off the grid, where a
            later patch covers those before it.
        px: side of a patch on the canvas.
        alpha: weight of the colour against the tissue, 0 to 1.
        max_color, min_color: RGB in [0, 1] for values 1 and 0.
        cmap: name of a matplotlib colour map, used in place of the two colours.

    Returns:
        A new canvas.

    Raises:
        ParameterError: one of them does not fit; the message names it.

    >>> canvas = np.full((2, 4, 3), 200, np.uint8)  # two places, each two pixels wide
    >>> draw_heatmap(canvas, [1], [0], [1], 2, alpha=1, max_color=(1, 0, 0))[0].tolist()
    [[200, 200, 200], [200, 200, 200], [255, 0, 0], [255, 0, 0]]
    """
    values = as_numbers(values, "values", "one number in [0, 1], or NaN, for each patch").ravel()
    known = ~np.isnan(values)
    outside = int(np.count_nonzero((values[known] < 0) | (values[known] > 1)))
    require(not outside, "values", Found(f"{outside} outside [0, 1]"), "numbers in [0, 1]; scale them first")
    place = as_scores(rows, len(values), parameter="rows"), as_scores(columns, len(values), parameter="columns")
    off_grid = all(np.asarray(places).dtype.kind == "f" for places in (rows, columns))  # as `read_canvas` gives them
    canvas = _as_canvas(canvas, px, off_grid)
    y = _as_pixels(place[0], "rows", px, canvas.shape[0], off_grid)[known]
    x = _as_pixels(place[1], "columns", px, canvas.shape[1], off_grid)[known]
    require_number("alpha", alpha, low=0, high=1)
    if cmap is None:
        high, low = _as_color(max_color, "max_color"), _as_color(min_color, "min_color")
        colors = values[known, None] * high + (1 - values[known, None]) * low
    else:
        colors = _map_colors(cmap, values[known])
    out = canvas.copy()
    if off_grid:
        for top, left, color in zip(y.tolist(), x.tolist(), 255 * colors, strict=True):
            square = np.s_[top : top + px, left : left + px]
            out[square] = (1 - alpha) * canvas[square] + alpha * color
        return out
    tiles = out.reshape(out.shape[0] // px, px, out.shape[1] // px, px, 3)
    row, column = y // px, x // px
    for start in range(0, len(row), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        patches = (1 - alpha) * tiles[row[part], :, column[part]] + alpha * 255 * colors[part, None, None]
        tiles[row[part], :, column[part]] = patches.astype(np.uint8)
    return out


def _as_canvas(canvas: np.ndarray, px: int, off_grid: bool) -> np.ndarray:
    """A canvas uint8 (height, width, 3); on a grid, whole rows and columns of patches."""
    require_integer("px", px, low=1)
    canvas = np.asarray(canvas)
    good = canvas.dtype == np.uint8 and canvas.ndim == 3 and canvas.shape[2] == 3
    found = Found(f"shape {canvas.shape} of {canvas.dtype}")
    require(good, "canvas", found, "uint8 of shape (height, width, 3), as `read_canvas` gives it")
    height, width = canvas.shape[:2]
    found = Found(f"{px} for a canvas of {width} x {height} pixels")
    good = off_grid or (height % px == 0 and width % px == 0)
    require(good, "px", found, "the px that the canvas was made with")
    return canvas


def _as_pixels(numbers: np.ndarray, parameter: str, px: int, limit: int, off_grid: bool) -> np.ndarray:
    """First pixels of the patches on a canvas of `limit` pixels, int64 (n,), from their rows or columns."""
    pixels = np.round(numbers * px)
    whole = np.abs(pixels - numbers * px) < 1e-6 if off_grid else numbers % 1 == 0
    bad = numbers[~whole | (pixels < 0) | (pixels + px > limit)]
    kind = f"multiples of 1/{px}" if off_grid else "whole numbers"
    expected = f"{kind} from 0 to {(limit - px) / px:g}, the last of this canvas"
    require(not len(bad), parameter, Found(f"{bad[:1]}"), expected)
    return pixels.astype(np.int64)


def _as_color(color: ArrayLike, parameter: str) -> np.ndarray:
    """RGB (3,) in [0, 1]."""
    rgb = as_scores(color, 3, parameter=parameter)
    require(bool(((rgb >= 0) & (rgb <= 1)).all()), parameter, color, "red, green and blue in [0, 1]")
    return rgb


def _map_colors(cmap: str, values: np.ndarray) -> np.ndarray:
    """RGB (n, 3) in [0, 1] of a matplotlib colour map for values in [0, 1]."""
    from matplotlib import colormaps

    require(cmap in list(colormaps), "cmap", cmap, "the name of a matplotlib colour map, such as 'viridis'")
    return colormaps[cmap](values)[:, :3]


def draw_scores(
    slide: openslide.AbstractSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    score: ArrayLike,
    low: float,
    high: float,
    *,
    alpha: float = 0.55,
    cmap: str = "viridis",
    longest: int = 1000,
) -> np.ndarray:
    """A thumbnail with patch scores in colour at their places. Where patches overlap, their mean is shown.

    Args:
        slide, coords, patch_size_level0, longest: as `draw_patches`.
        score: (n,) finite scores.
        low, high: scores at the ends of the colour map. Give the same for all slides that are compared.
        alpha: weight of the colour against the tissue, 0 to 1.
        cmap: name of a matplotlib colour map.

    Returns:
        uint8 (h, w, 3) RGB.

    Raises:
        ParameterError: not one finite score for each patch, or `low` is not below `high`.
    """
    coords, side = as_coords(coords), as_side(patch_size_level0)
    score = as_scores(score, len(coords))
    require_number("low", low)
    require_number("high", high)
    require(low < high, "high", high, f"a number above low, which is {low}")
    require_number("alpha", alpha, low=0, high=1)
    image, size = read_thumbnail(slide, longest)
    factor = np.array(image.shape[1::-1]) / size
    total, count = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    corners = np.round(coords * factor).astype(int), np.round((coords + side) * factor).astype(int)
    for (x0, y0), (x1, y1), value in zip(*(c.tolist() for c in corners), score.tolist(), strict=True):
        total[max(0, y0) : y1, max(0, x0) : x1] += value
        count[max(0, y0) : y1, max(0, x0) : x1] += 1
    covered = count > 0
    colors = 255 * _map_colors(cmap, np.clip((total[covered] / count[covered] - low) / (high - low), 0, 1))
    image[covered] = (1 - alpha) * image[covered] + alpha * colors
    return image
