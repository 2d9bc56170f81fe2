"""Pictures for a reader's eyes: heatmaps on a canvas, contact sheets of patches, the grid on a thumbnail."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
import openslide

from mil_tutorial.geometry import as_coords
from mil_tutorial.slides.reading import open_slide, read_overview, read_patch
from mil_tutorial.style import ACCENT, GREY, NORMAL, TUMOR

LABEL_NAMES = {-1: "unknown", 0: "normal", 1: "tumour"}

LABEL_COLORS = {-1: GREY, 0: NORMAL, 1: TUMOR}


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """A picture uint8 (h, w, 3) RGB as the bytes of a JPEG file."""
    _, code = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return code.tobytes()


def show_images(images, titles, width: float = 12.0, heights: float | None = None):
    """Pictures side by side without axes; returns the axes for more drawing.

    Args:
        images: list of (h, w, 3) or (h, w) arrays.
        titles: one for each.
        width: of the figure in inches; `heights` likewise, chosen from the pictures by default.
    """
    import matplotlib.pyplot as plt

    ratio = max(image.shape[0] / image.shape[1] for image in images)
    height = heights or width / len(images) * ratio + 0.4
    figure, axes = plt.subplots(1, len(images), figsize=(width, height), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        axis.imshow(image, cmap="gray" if image.ndim == 2 else None)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return axes[0]


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


def show_patches(
    slide: openslide.OpenSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    labels: Sequence[int] | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    px: int = 128,
):
    """A contact sheet: the patches one beside the other, with number, place and label.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels; 64 are enough for one look.
        patch_size_level0: side of a patch in level-0 pixels.
        labels: (n,) of 1 tumour, 0 normal, -1 unknown: a frame's colour and a word.
        captions: (n,) a line of your own under each patch, in place of its place.
        columns: patches in a row.
        px: side of a patch in the sheet.

    Returns:
        matplotlib's figure.

    Raises:
        ValueError: no patch, or not one label or caption for each.
    """
    import matplotlib.pyplot as plt

    if isinstance(slide, (str, os.PathLike)):
        with open_slide(slide) as opened:
            return show_patches(opened, coords, patch_size_level0, labels, captions, columns, px)
    coords = as_coords(coords)
    if not len(coords):
        raise ValueError("no patches to show. Does the slide have tissue?")
    for what, given in (("labels", labels), ("captions", captions)):
        if given is not None and len(given) != len(coords):
            raise ValueError(f"{len(given)} {what} for {len(coords)} patches, expected one for each.")
    columns = min(columns, len(coords))
    rows = -(-len(coords) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 2.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(coords) :]:
        axis.set_visible(False)
    path = getattr(slide, "_filename", "slide")
    for i, ((x, y), axis) in enumerate(zip(coords.tolist(), axes.flat, strict=False)):
        axis.imshow(read_patch(slide, x, y, patch_size_level0, px, path))
        axis.set(xticks=[], yticks=[])
        label = None if labels is None else int(labels[i])
        for spine in axis.spines.values():
            spine.set(visible=label is not None, color=LABEL_COLORS.get(label, GREY), linewidth=3)
        text = f"x {x}\ny {y}" if captions is None else str(captions[i])
        axis.set_xlabel(text.replace("$", r"\$"), fontsize=8)
        axis.set_title(f"{i}" if label is None else f"{i}: {LABEL_NAMES.get(label, label)}", fontsize=9)
    return figure


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def draw_patches(
    slide: openslide.OpenSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    labels: Sequence[int] | None = None,
    contours: Sequence[np.ndarray] = (),
    longest: int = 1000,
) -> np.ndarray:
    """A thumbnail with the outlines of the patches, and of the tissue or the tumour, where they lie.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels. Overlapping patches overlap in the picture,
            those at the border reach past it.
        patch_size_level0: side of a patch in level-0 pixels.
        labels: (n,) of 1 tumour, 0 normal, -1 unknown, which choose the colours.
        contours: outlines, each (k, 2) x, y in level-0 pixels, drawn in green.
        longest: longer side of the picture in pixels.

    Returns:
        uint8 (h, w, 3) RGB.
    """
    if isinstance(slide, (str, os.PathLike)):
        with open_slide(slide) as opened:
            return draw_patches(opened, coords, patch_size_level0, labels, contours, longest)
    picture = read_overview(slide, max(1.0, max(slide.dimensions) / longest))
    return outline_patches(picture, slide.dimensions, coords, patch_size_level0, labels, contours)


def outline_patches(
    picture: np.ndarray,
    size_level0: tuple[int, int],
    coords: np.ndarray,
    patch_size_level0: int,
    labels=None,
    contours=(),
) -> np.ndarray:
    """`draw_patches` on a copy of a picture (h, w, 3) that shows a whole slide of `size_level0` = width, height."""
    coords = as_coords(coords)
    if labels is not None and len(labels) != len(coords):
        raise ValueError(f"{len(labels)} labels for {len(coords)} patches, expected one for each.")
    picture = picture.copy()
    factor = np.array(picture.shape[1::-1]) / size_level0
    corners = np.round(coords * factor).astype(int), np.round((coords + patch_size_level0) * factor).astype(int) - 1
    colors = {k: _rgb(v) for k, v in LABEL_COLORS.items()}
    inset = 0 if labels is None else 1  # frames of two colours must not cover each other
    for i in range(len(coords)):
        color = (40, 40, 40) if labels is None else colors[int(labels[i])]
        low, high = corners[0][i] + inset, corners[1][i] - inset
        cv2.rectangle(picture, low.tolist(), high.tolist(), color, 1 + inset)
    scaled = [np.round(np.asarray(c) * factor).astype(np.int32) for c in contours]
    return cv2.polylines(picture, scaled, True, _rgb(ACCENT), 2, cv2.LINE_AA)


def draw_scores(
    slide: openslide.OpenSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    score: np.ndarray,
    low: float,
    high: float,
    alpha: float = 0.55,
    cmap: str = "viridis",
    longest: int = 1000,
) -> np.ndarray:
    """A thumbnail with patch scores in colour, where they lie. Where patches overlap, their mean is shown.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        score: (n,) finite scores.
        low, high: scores of the colour map's ends. Give the same for all slides that are compared.
        alpha: weight of the colour against the tissue.
        cmap: name of a matplotlib colour map.
        longest: longer side of the picture in pixels.

    Returns:
        uint8 (h, w, 3) RGB.

    Raises:
        ValueError: not one finite score for each patch, or `low` is not below `high`.
    """
    from matplotlib import colormaps

    if isinstance(slide, (str, os.PathLike)):
        with open_slide(slide) as opened:
            return draw_scores(opened, coords, patch_size_level0, score, low, high, alpha, cmap, longest)
    coords, score = as_coords(coords), np.asarray(score, np.float64).ravel()
    if len(score) != len(coords) or not np.isfinite(score).all():
        raise ValueError(f"{len(score)} scores for {len(coords)} patches, expected one finite score for each.")
    if not low < high:
        raise ValueError(f"the scale goes from {low} to {high}, expected low below high.")
    picture = read_overview(slide, max(1.0, max(slide.dimensions) / longest))
    factor = np.array(picture.shape[1::-1]) / slide.dimensions
    total, count = np.zeros(picture.shape[:2]), np.zeros(picture.shape[:2])
    corners = np.round(coords * factor).astype(int), np.round((coords + patch_size_level0) * factor).astype(int)
    for (x0, y0), (x1, y1), value in zip(*(c.tolist() for c in corners), score.tolist(), strict=True):
        total[max(0, y0) : y1, max(0, x0) : x1] += value
        count[max(0, y0) : y1, max(0, x0) : x1] += 1
    covered = count > 0
    mean = total[covered] / count[covered]
    colors = 255 * colormaps[cmap](np.clip((mean - low) / (high - low), 0, 1))[:, :3]
    picture[covered] = (1 - alpha) * picture[covered] + alpha * colors
    return picture
