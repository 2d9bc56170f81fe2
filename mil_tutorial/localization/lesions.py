"""Lesions as the CAMELYON16 challenge counts them: drawings near each other are one, the smallest do not count.

Source: the official definition of CAMELYON16 (Ehteshami Bejnordi et al., JAMA 2017), written from its description.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number
from mil_tutorial.hdf5 import new_array
from mil_tutorial.slides.annotations import Annotation
from mil_tutorial.slides.masks import factor_of, level_factors
from mil_tutorial.slides.reading import open_slide

LEVEL = 5  # lesions are found at 1/32 of the full resolution

ITC_LENGTH = 275.0  # µm: lesions with a shorter major axis are isolated tumour cells

JOIN = 75.0  # µm: annotations closer than this are one lesion


@dataclass(frozen=True)
class Lesions:
    """The lesions of one slide.

    Attributes:
        labels: whole numbers (h, w), number of the lesion at each pixel of level 5, 0 elsewhere.
        itc: numbers of the lesions that are isolated tumour cells.
        downsample: level-0 pixels of one pixel of `labels`.
    """

    labels: np.ndarray
    itc: frozenset[int]
    downsample: int = 2**LEVEL

    @property
    def count(self) -> int:
        """Lesions that are not isolated tumour cells."""
        return int(self.labels.max(initial=0)) - len(self.itc)

    def at(self, x: float, y: float) -> int:
        """Number of the lesion at a level-0 position, 0 for none."""
        row, column = int(y // self.downsample), int(x // self.downsample)
        inside = 0 <= row < self.labels.shape[0] and 0 <= column < self.labels.shape[1]
        return int(self.labels[row, column]) if inside else 0


def lesions_from_annotation(tumor: ArrayLike, mpp: float = 0.243) -> Lesions | None:
    """Lesions from a mask of annotated tumour at level 5, (h, w); None if there is none.

    Raises:
        ParameterError: `mpp` is not above 0, or the mask is not (h, w).
    """
    require_number("mpp", mpp, low=0, open_low=True)
    filled = np.asarray(tumor) > 0
    require(filled.ndim == 2, "tumor", Found(f"shape {filled.shape}"), "a mask (h, w)")
    if not filled.any():
        return None
    distance = cv2.distanceTransform((~filled).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    joined = ndimage.binary_fill_holes(distance < JOIN / (mpp * 2**LEVEL * 2))
    labels, _ = ndimage.label(joined, structure=np.ones((3, 3)))
    small = (
        n
        for n, box in enumerate(ndimage.find_objects(labels), 1)
        if _major_axis(labels[box] == n) < ITC_LENGTH / (mpp * 2**LEVEL)
    )
    kept = new_array(labels.shape, np.min_scalar_type(int(labels.max())))  # mostly a byte for each of 6 million pixels
    kept[...] = labels
    return Lesions(kept, frozenset(small))


def _major_axis(mask: np.ndarray) -> float:
    """Major axis of the ellipse with the mask's second moments, in pixels; a pixel counts as a unit square."""
    points = np.argwhere(mask).astype(np.float64)
    moments = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((2, 2))
    return float(4 * np.sqrt(np.linalg.eigvalsh(moments + np.eye(2) / 12)[-1]))


def lesions_from_polygons(annotation: Annotation, width: int, height: int, *, mpp: float = 0.243) -> Lesions | None:
    """Lesions of one slide from its polygons in level-0 pixels; None if there is none.

    Args:
        annotation: from `read_asap_xml`.
        width, height: of the slide in level-0 pixels.
        mpp: µm per pixel at level 0; the challenge takes 0.243 for every slide.

    Raises:
        ParameterError: a size is below one pixel of level 5, or `mpp` is not above 0.
    """
    factor = 2**LEVEL
    require_integer("width", width, low=factor)
    require_integer("height", height, low=factor)
    filled = np.zeros((height // factor, width // factor), np.uint8)
    for polygons, value in ((annotation.tumor, 1), (annotation.holes, 0)):
        for polygon in polygons:
            cv2.fillPoly(filled, [np.round(polygon / factor - 0.5).astype(np.int32)], value)
    return lesions_from_annotation(filled, mpp)


def lesions_from_mask(
    mask_path: str | os.PathLike[str],
    tumor_value: int = 2,
    *,
    mpp: float = 0.243,
    size: tuple[int, int] | None = None,
) -> Lesions | None:
    """Lesions of one slide from its mask pyramid.

    Args:
        mask_path: a pyramid that OpenSlide opens. Its levels may be padded to whole tiles.
        tumor_value: the mask's value for tumour.
        mpp: µm per pixel of the slide at level 0; the challenge takes 0.243 for every slide.
        size: width and height of the slide in level-0 pixels. Needed where the mask is a half, a quarter or an eighth
            of it; by default the mask has its size.

    Returns:
        The lesions, or None for a slide without tumour.

    Raises:
        ParameterError: `tumor_value` is not from 0 to 255, `mpp` is not above 0, or a size is no whole number above 0.
        DataError: no such file, it is damaged, or it is the mask of a slide of another size.
    """
    require_integer("tumor_value", tumor_value, low=0, high=255)
    require_number("mpp", mpp, low=0, open_low=True)
    for side in size or ():
        require_integer("size", side, low=1)
    with open_slide(mask_path) as mask:
        size = size or mask.dimensions
        pixels = 2**LEVEL / factor_of(mask, size, mask_path)  # of the mask's level 0 in one of the lesions' map
        factors = level_factors(mask)
        level = max(i for i, factor in enumerate(factors) if factor < pixels * 1.01)
        step = max(1, round(pixels / factors[level]))
        try:
            values = np.asarray(mask.read_region((0, 0), level, mask.level_dimensions[level]))[:, :, 0]
        except DataError:
            raise
        except Exception as error:  # as in labels: OpenSlide reports damage in several ways
            raise DataError(f"{mask_path}: cannot be read ({error}). The mask is damaged. Copy it again.") from error
    width, height = (-(-side // 2**LEVEL) for side in size)
    return lesions_from_annotation(values[::step, ::step][:height, :width] == tumor_value, mpp)
