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
        rows, columns: (n,) places of the patches.
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
    tiles = _as_tiles(canvas, px).copy()
    values = as_numbers(values, "values", "one number in [0, 1], or NaN, for each patch").ravel()
    known = ~np.isnan(values)
    outside = int(np.count_nonzero((values[known] < 0) | (values[known] > 1)))
    require(not outside, "values", Found(f"{outside} outside [0, 1]"), "numbers in [0, 1]; scale them first")
    row = _as_places(rows, "rows", known, tiles.shape[0])
    column = _as_places(columns, "columns", known, tiles.shape[2])
    require_number("alpha", alpha, low=0, high=1)
    if cmap is None:
        high, low = _as_color(max_color, "max_color"), _as_color(min_color, "min_color")
        colors = values[known, None] * high + (1 - values[known, None]) * low
    else:
        colors = _map_colors(cmap, values[known])
    blended = (1 - alpha) * tiles[row, :, column] + alpha * 255 * colors[:, None, None]
    tiles[row, :, column] = blended.astype(np.uint8)
    return tiles.reshape(canvas.shape)


def _as_tiles(canvas: np.ndarray, px: int) -> np.ndarray:
    """A canvas as (rows, px, columns, px, 3)."""
    require_integer("px", px, low=1)
    canvas = np.asarray(canvas)
    good = canvas.dtype == np.uint8 and canvas.ndim == 3 and canvas.shape[2] == 3
    found = Found(f"shape {canvas.shape} of {canvas.dtype}")
    require(good, "canvas", found, "uint8 of shape (height, width, 3), as `read_canvas` gives it")
    height, width = canvas.shape[:2]
    found = Found(f"{px} for a canvas of {width} x {height} pixels")
    require(height % px == 0 and width % px == 0, "px", found, "the px that the canvas was made with")
    return canvas.reshape(height // px, px, width // px, px, 3)


def _as_places(places: ArrayLike, parameter: str, known: np.ndarray, limit: int) -> np.ndarray:
    """Rows or columns of the `known` (n,) patches on a canvas that has `limit` of them, as int64."""
    numbers = as_scores(places, len(known), parameter=parameter)
    bad = numbers[(numbers % 1 != 0) | (numbers < 0) | (numbers >= limit)]
    found, expected = Found(f"{bad[:1]}"), f"whole numbers from 0 to {limit - 1}, the last of this canvas"
    require(not len(bad), parameter, found, expected)
    return numbers[known].astype(np.int64)


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
