"""Pen on a slide: ink of colours that haematoxylin and eosin cannot have.

Optical density tells dyes apart better than colour: it has the same shares of red, green and blue where a dye is thick
and where it is thin. Both dyes of a slide absorb green most; haematoxylin also red, both some blue. Green and blue ink
absorb more red than green; red ink absorbs blue nearly as much as green and hardly any red; black ink absorbs all three
alike. Purple and pink ink are not told from tissue, nor is blue or pale ink that lies over tissue.

Source: optical density and the dyes' shares of it, Ruifrok and Johnston 2001 (Anal. Quant. Cytol. Histol. 23, 291-299).
The limits were set on made images: tissue of a real slide in many stains, with pen of many inks drawn over it.
"""

from __future__ import annotations

import cv2
import numpy as np

SMALLEST = 150  # px, 0.01 mm² at 8 µm per pixel: less is ink on the tissue's margin, or a fold

GLASS = 0.08  # glass has less optical density than this

# Eosin and blood can be nearly as red as ink. But a pen goes over glass, and its ink is smooth.
GLASS_AROUND, ROUGH = 0.25, 0.10

# Green ink over tissue looks black.
GROWS = {"cold": ("cold", "black"), "hot": ("hot",), "black": ("black", "cold")}


def find_pen(overview: np.ndarray) -> np.ndarray:
    """Find pen of other colours than the stain's: green, blue, red and black.

    Args:
        overview: uint8 (h, w, 3) RGB at about 8 µm per pixel.

    Returns:
        bool (h, w), with a margin of two pixels; all False where there is none.

    >>> overview = np.full((100, 100, 3), 240, np.uint8)
    >>> overview[20:60, 20:60] = (180, 90, 160)
    >>> overview[70:90] = (30, 120, 60)
    >>> pen = find_pen(overview)
    >>> bool(pen[40, 40]), bool(pen[80, 40])
    (False, True)
    """
    smooth = cv2.medianBlur(overview, 5)
    light = np.maximum(np.percentile(smooth.reshape(-1, 3)[::7], 99, axis=0), 200)  # where there is nothing
    density, fine = (_density(image, light) for image in (smooth, overview))
    glass, grain = density.max(2) < GLASS, np.abs(fine - cv2.blur(fine, (3, 3)))[:, :, 1]
    sure, perhaps = _kinds(density, sure=True), _kinds(density, sure=False)
    pen = np.zeros(glass.shape, bool)
    for kind, mask in sure.items():
        seeds = np.zeros(glass.shape, bool)
        opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(3))
        _, number, boxes, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
        for i in np.flatnonzero(boxes[1:, cv2.CC_STAT_AREA] >= SMALLEST) + 1:
            x, y, w, h = boxes[i, :4].tolist()
            part = np.s_[max(0, y - 12) : y + h + 12, max(0, x - 12) : x + w + 12]
            piece = number[part] == i
            if kind != "hot" or _is_ink(piece, glass[part], grain[part], density[part][:, :, 1]):
                seeds[part] |= piece
        if seeds.any():  # all that touches them and may be the same ink: the edges of the strokes
            around = np.any([seeds, *(perhaps[k] for k in GROWS[kind])], axis=0)
            _, number = cv2.connectedComponents(around.astype(np.uint8), connectivity=8)
            pen |= np.isin(number, np.unique(number[seeds]))
    return cv2.dilate(pen.astype(np.uint8), _disc(5)) > 0


def _density(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Optical density of red, green and blue light, float32 (h, w, 3)."""
    return -np.log10(np.minimum((image + 1.0) / (light + 1), 1)).astype(np.float32)


def _kinds(density: np.ndarray, *, sure: bool) -> dict[str, np.ndarray]:
    """Ink by kind, bool (h, w): cold (green and blue), hot (red), black; not `sure`, what would do beside it."""
    red, green, blue = (density[:, :, i] for i in range(3))
    most, least = density.max(2), density.min(2)
    if sure:
        hotter = 0.62 - 0.25 * green  # dense ink may be nearer to eosin, which is seldom as dense
        return {
            "cold": (red > np.where(most > 0.30, 1.22, 1.6) * green) & (most > 0.20),
            "hot": (blue - red > hotter * green) & (red < 0.22 * green) & (green > 0.25),
            "black": (least > 0.82 * most) & (most > 0.35),
        }
    return {
        "cold": (red > 1.08 * green) & (most > 0.10),
        "hot": (blue - red > 0.36 * green) & (red < 0.28 * green) & (green > 0.10),
        "black": (least > 0.76 * most) & (most > 0.15),
    }


def _is_ink(piece: np.ndarray, glass: np.ndarray, grain: np.ndarray, density: np.ndarray) -> bool:
    """Whether a red piece is ink: enough of what is six to ten pixels away is glass, and it has no grain."""
    near, far = (cv2.dilate(piece.astype(np.uint8), _disc(size)) > 0 for size in (11, 21))
    ring = far & ~near
    over_glass = not ring.any() or glass[ring].mean() >= GLASS_AROUND
    return bool(over_glass and np.median(grain[piece]) < ROUGH * np.median(density[piece]))


def _disc(size: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
