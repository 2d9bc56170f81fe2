"""Where the tissue is: a mask of a small overview, the fraction of it in each patch, and its outlines."""

from __future__ import annotations

import cv2
import numpy as np

from mil_tutorial.errors import Found, require
from mil_tutorial.slides.pen import find_pen

TISSUE_MPP = 8.0  # µm per pixel at which tissue is looked for


def segment_tissue(overview: np.ndarray, *, remove_penmarks: bool = True) -> np.ndarray:
    """Find tissue by Otsu's threshold on colour saturation: stained tissue is coloured, glass is grey.

    Args:
        overview: uint8 (h, w, 3) RGB at about 8 µm per pixel.
        remove_penmarks: pen is no tissue and does not count for the threshold, see `slides.pen`. Without any, the
            result is the same.

    Returns:
        uint8 (h, w), 1 where there is tissue. Specks are dropped and small holes are filled.

    Raises:
        ParameterError: the overview is not such an array.

    >>> overview = np.full((100, 100, 3), 240, np.uint8)
    >>> overview[20:60, 20:60] = (180, 90, 160)
    >>> tissue = segment_tissue(overview)
    >>> int(tissue[40, 40]), int(tissue[5, 5])
    (1, 0)
    """
    return divide_overview(overview, remove_penmarks=remove_penmarks)[0]


def divide_overview(overview: np.ndarray, *, remove_penmarks: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Tissue as `segment_tissue` finds it, and the pen that was left out, bool (h, w)."""
    overview = np.asarray(overview)
    good = overview.ndim == 3 and overview.shape[2] == 3 and overview.size > 0 and overview.dtype == np.uint8
    found = Found(f"shape {overview.shape} of {overview.dtype}")
    require(good, "overview", found, "an RGB image, uint8 of shape (height, width, 3)")
    smooth = cv2.medianBlur(overview, 5)
    hsv = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)
    saturation = hsv[:, :, 1].copy()
    saturation[hsv[:, :, 2] < 60] = 0  # black: beyond the scanned area, or marker ink
    pen = find_pen(overview) if remove_penmarks else np.zeros(saturation.shape, bool)
    counts = saturation[~pen].reshape(1, -1) if pen.any() else saturation
    threshold = cv2.threshold(counts, 0, 255, cv2.THRESH_OTSU)[0] if counts.size else 0
    lowest = max(threshold * 0.9, 12)  # Otsu alone loses pale tissue; 12: glass has a tint
    tissue: np.ndarray = ((saturation > lowest) & ~pen).astype(np.uint8)
    tissue = cv2.morphologyEx(tissue, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    contours, tree = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for i, contour in enumerate(contours):
        if cv2.contourArea(contour) < 50:  # 50 px are 0.0032 mm²: dust, or a gap in the tissue
            cv2.drawContours(tissue, [contour], 0, int(tree[0, i, 3] >= 0), cv2.FILLED)  # all at once take n² time
    tissue[pen] = 0
    return tissue, pen


def tissue_fraction(tissue: np.ndarray, coords: np.ndarray, side: int, downsample: tuple[float, float]) -> np.ndarray:
    """Fraction of tissue in each patch, float64 (n,).

    Args:
        tissue: (h, w) of 0 and 1.
        coords: (n, 2) x, y in level-0 pixels.
        side: side of a patch in level-0 pixels.
        downsample: level-0 pixels of one mask pixel, in x and y.
    """
    sums = cv2.integral(tissue)  # (h + 1, w + 1)
    factor = np.array(downsample)
    limit = np.array(tissue.shape[::-1])
    x0, y0 = np.clip(np.floor(coords / factor), 0, limit).astype(int).T
    x1, y1 = np.clip(np.ceil((coords + side) / factor), 0, limit).astype(int).T
    covered = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return covered / np.prod(np.maximum(side / factor, 1))


def tissue_outlines(tissue: np.ndarray, size: tuple[int, int]) -> list[list[np.ndarray]]:
    """Outlines of a tissue mask.

    Args:
        tissue: (h, w) of 0 and 1.
        size: width and height of the slide in level-0 pixels.

    Returns:
        Pieces of tissue, each as its outline and then its holes: closed rings, float64 (k, 2) in level-0 pixels.
    """
    contours, tree = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    factor = np.array(size) / tissue.shape[::-1]
    pieces = []
    for i, contour in enumerate(contours):
        if tree[0, i, 3] >= 0 or len(contour) < 3:
            continue
        rings = [contour] + [contours[j] for j in range(len(contours)) if tree[0, j, 3] == i and len(contours[j]) >= 3]
        pieces.append([np.vstack([r[:, 0], r[:1, 0]]) * factor for r in rings])
    return pieces
