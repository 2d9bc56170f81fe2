"""FROC, the CAMELYON16 challenge's measure of localization: sensitivity against false positives per slide.

Source: the official definition of CAMELYON16 (Ehteshami Bejnordi et al., JAMA 2017), written anew from its description.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from mil_tutorial.errors import DataError
from mil_tutorial.slides.annotations import Annotation
from mil_tutorial.slides.reading import open_slide

LEVEL = 5  # lesions are found at 1/32 of the full resolution

ITC_LENGTH = 275.0  # µm: lesions with a shorter major axis are isolated tumour cells

JOIN = 75.0  # µm: annotations closer than this are one lesion


@dataclass(frozen=True)
class Lesions:
    """The lesions of one slide.

    Attributes:
        labels: int32 (h, w), number of the lesion at each pixel of level 5, 0 elsewhere.
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


def lesions_from_annotation(tumor: np.ndarray, mpp: float = 0.243) -> Lesions | None:
    """Lesions from a mask of annotated tumour at level 5, (h, w); None if there is none."""
    tumor = np.asarray(tumor) > 0
    if not tumor.any():
        return None
    distance = cv2.distanceTransform((~tumor).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    joined = ndimage.binary_fill_holes(distance < JOIN / (mpp * 2**LEVEL * 2))
    labels, _ = ndimage.label(joined, structure=np.ones((3, 3)))
    small = (
        n
        for n, box in enumerate(ndimage.find_objects(labels), 1)
        if _major_axis(labels[box] == n) < ITC_LENGTH / (mpp * 2**LEVEL)
    )
    return Lesions(labels.astype(np.int32), frozenset(small))


def _major_axis(mask: np.ndarray) -> float:
    """Major axis of the ellipse with the mask's second moments, in pixels; a pixel counts as a unit square."""
    points = np.argwhere(mask).astype(np.float64)
    moments = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((2, 2))
    return float(4 * np.sqrt(np.linalg.eigvalsh(moments + np.eye(2) / 12)[-1]))


def lesions_from_polygons(annotation: Annotation, width: int, height: int, mpp: float = 0.243) -> Lesions | None:
    """Lesions of one slide from its polygons in level-0 pixels; None if there is none.

    Args:
        annotation: from `read_asap_xml`.
        width, height: of the slide in level-0 pixels.
        mpp: µm per pixel at level 0; the challenge takes 0.243 for every slide.
    """
    factor = 2**LEVEL
    filled = np.zeros((height // factor, width // factor), np.uint8)
    for polygons, value in ((annotation.tumor, 1), (annotation.holes, 0)):
        for polygon in polygons:
            cv2.fillPoly(filled, [np.round(polygon / factor - 0.5).astype(np.int32)], value)
    return lesions_from_annotation(filled, mpp)


def lesions_from_mask(mask_path: str | os.PathLike, tumor_value: int = 2, mpp: float = 0.243) -> Lesions | None:
    """Lesions of one slide from its mask pyramid.

    Args:
        tumor_value: the mask's value for tumour.
        mpp: µm per pixel at level 0; the challenge takes 0.243 for every slide.

    Returns:
        The lesions, or None for a slide without tumour.
    """
    factor = 2**LEVEL
    with open_slide(mask_path) as mask:
        width, height = mask.dimensions
        level = max(i for i, d in enumerate(mask.level_downsamples) if d < factor * 1.01)
        step = max(1, round(factor / mask.level_downsamples[level]))
        size = mask.level_dimensions[level]
        try:
            values = np.asarray(mask.read_region((0, 0), level, size))[:, :, 0]
        except Exception as error:  # as in labels: OpenSlide reports damage in several ways
            raise DataError(f"{mask_path}: cannot be read ({error}). The mask is damaged. Copy it again.") from error
    return lesions_from_annotation(values[::step, ::step] == tumor_value, mpp)
