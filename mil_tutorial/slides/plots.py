"""Images for a reader: side by side, as a contact sheet of patches, as a thumbnail with the patches' outlines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import openslide
from numpy.typing import ArrayLike

from mil_tutorial.errors import Found, require, require_integer, require_number
from mil_tutorial.geometry import as_coords, as_labels, as_numbers, as_side
from mil_tutorial.slides.far import fetch_patches
from mil_tutorial.slides.reading import opened, read_overview, read_patch
from mil_tutorial.style import ACCENT, GREY, NORMAL, TUMOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_NAMES = {-1: "unknown", 0: "normal", 1: "tumour"}

LABEL_COLORS = {-1: GREY, 0: NORMAL, 1: TUMOR}

LONGEST = 2500  # pixels of an image that is shown as it is


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """An image uint8 (h, w, 3) RGB as the bytes of a JPEG file."""
    _, code = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return code.tobytes()


def show_images(
    images: Sequence[np.ndarray], titles: Sequence[str], *, width: float = 12.0, height: float | None = None
) -> np.ndarray:
    """Show images side by side without axes; returns the axes for more drawing.

    Args:
        images: each (h, w, 3), or (h, w) for grey.
        titles: one for each.
        width: of the figure in inches.
        height: of the figure in inches; by default it follows from the images.

    Raises:
        ParameterError: no images, or not one title for each.
    """
    import matplotlib.pyplot as plt

    images = [np.asarray(image) for image in images]
    good = all(image.size and (image.ndim == 2 or image.shape[2:] in ((3,), (4,))) for image in images)
    found = Found(f"shapes {[image.shape for image in images]}")
    require(good and len(images) > 0, "images", found, "at least one image, each (h, w, 3) or (h, w)")
    require(len(titles) == len(images), "titles", Found(f"{len(titles)}"), f"one for each of {len(images)} images")
    require_number("width", width, low=0, open_low=True)
    if height is None:
        height = width / len(images) * max(image.shape[0] / image.shape[1] for image in images) + 0.4
    require_number("height", height, low=0, open_low=True)
    figure, axes = plt.subplots(1, len(images), figsize=(width, height), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)  # in its own pixels, also where it is shrunk
        axis.imshow(_shrunk(image), cmap="gray" if image.ndim == 2 else None, extent=extent)
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return axes[0]


def _shrunk(image: np.ndarray) -> np.ndarray:
    """An image that matplotlib draws in little memory: it would make several copies of one of 8000 x 8000 pixels."""
    factor = max(1, max(image.shape[:2]) // LONGEST)
    if factor == 1 or image.dtype != np.uint8:
        return image
    height, width = (-(-side // factor) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def show_patches(
    slide: openslide.AbstractSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    *,
    labels: ArrayLike | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    px: int = 128,
) -> Figure:
    """A contact sheet: the patches side by side, with number, place and label.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels; 64 are enough for one look.
        patch_size_level0: side of a patch in level-0 pixels.
        labels: (n,) of 1 tumour, 0 normal, -1 unknown: a frame's colour and a word.
        captions: (n,) a line of your own below each patch, instead of its coordinates.
        columns: patches in a row.
        px: side of a patch in the sheet.

    Returns:
        matplotlib's figure.

    Raises:
        ParameterError: no patch, not one label or caption for each, or a size that is not a whole number.
    """
    import matplotlib.pyplot as plt

    coords, side = as_coords(coords), as_side(patch_size_level0)
    n = len(coords)
    require(n > 0, "coords", Found("no patches"), "at least one; does the slide have tissue?")
    require_integer("columns", columns, low=1)
    known = None if labels is None else as_labels(labels, n).tolist()
    texts = [f"x {x}\ny {y}" for x, y in coords.tolist()] if captions is None else np.ravel(captions).tolist()
    require(len(texts) == n, "captions", Found(f"{len(texts)} captions"), f"one for each of {n} patches")
    with opened(slide) as (own, path):
        fetch_patches(own, coords, side, px)
        images = [read_patch(own, x, y, side, px, path) for x, y in coords.tolist()]
    columns = min(columns, n)
    rows = -(-n // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 2.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    for i, (image, axis) in enumerate(zip(images, axes.flat, strict=False)):
        axis.imshow(image)
        _frame(axis, i, None if known is None else known[i], str(texts[i]))
    return figure


def _frame(axis: Axes, number: int, label: int | None, text: str) -> None:
    """Number, label and text of one patch of a contact sheet, and a frame in its label's colour."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=label is not None, color=LABEL_COLORS[-1 if label is None else label], linewidth=3)
    axis.set_xlabel(text.replace("$", r"\$"), fontsize=8)
    axis.set_title(f"{number}" if label is None else f"{number}: {LABEL_NAMES[label]}", fontsize=9)


def to_rgb(color: str) -> tuple[int, ...]:
    """A colour such as #D55E00 as three numbers."""
    return tuple(bytes.fromhex(color[1:]))


def draw_patches(
    slide: openslide.AbstractSlide | str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    *,
    labels: ArrayLike | None = None,
    contours: Sequence[np.ndarray] = (),
    longest: int = 1000,
) -> np.ndarray:
    """A thumbnail with the outlines of the patches, and of the tissue or the tumour, at their places.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels. Overlapping patches overlap in the
            image, those at the border reach past it.
        patch_size_level0: side of a patch in level-0 pixels.
        labels: (n,) of 1 tumour, 0 normal, -1 unknown, which choose the colours.
        contours: outlines, each (k, 2) x, y in level-0 pixels, drawn in green.
        longest: longer side of the image in pixels.

    Returns:
        uint8 (h, w, 3) RGB.

    Raises:
        ParameterError: not one label for each patch, or a size that is not a whole number.
    """
    image, size = read_thumbnail(slide, longest)
    return outline_patches(image, size, coords, patch_size_level0, labels=labels, contours=contours)


def read_thumbnail(
    slide: openslide.AbstractSlide | str | os.PathLike, longest: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """The whole slide, its longer side `longest` pixels, and its size at level 0."""
    require_integer("longest", longest, low=1)
    with opened(slide) as (own, path):
        return read_overview(own, max(1.0, max(own.dimensions) / longest), path), own.dimensions


def outline_patches(
    image: np.ndarray,
    size_level0: tuple[int, int],
    coords: ArrayLike,
    patch_size_level0: int,
    *,
    labels: ArrayLike | None = None,
    contours: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """`draw_patches` on a copy of an image (h, w, 3) that shows a whole slide of `size_level0` = width, height."""
    coords, side = as_coords(coords), as_side(patch_size_level0)
    known = None if labels is None else as_labels(labels, len(coords)).tolist()
    for contour in contours:
        outline = as_numbers(contour, "contours", "outlines of numbers x, y")
        good = outline.ndim == 2 and outline.shape[1] == 2 and np.isfinite(outline).all()
        require(bool(good), "contours", Found(f"shape {outline.shape}"), "outlines (k, 2) of finite numbers")
    image = image.copy()
    factor = np.array(image.shape[1::-1]) / size_level0
    corners = np.round(coords * factor).astype(int), np.round((coords + side) * factor).astype(int) - 1
    colors = {k: to_rgb(v) for k, v in LABEL_COLORS.items()}
    inset = 0 if known is None else 1  # frames of two colours must not cover each other
    for i in range(len(coords)):
        color = (40, 40, 40) if known is None else colors[known[i]]
        low, high = corners[0][i] + inset, corners[1][i] - inset
        cv2.rectangle(image, low.tolist(), high.tolist(), color, 1 + inset)
    scaled = [np.round(np.asarray(c) * factor).astype(np.int32) for c in contours]
    return cv2.polylines(image, scaled, True, to_rgb(ACCENT), 2, cv2.LINE_AA)
