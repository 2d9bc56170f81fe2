"""FROC, the CAMELYON16 challenge's measure of localization: sensitivity against false positives per slide.

Source: the official definition of CAMELYON16 (Ehteshami Bejnordi et al., JAMA 2017), written anew from its description.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from mil_tutorial.files import DataError
from mil_tutorial.slides import open_slide

LEVEL = 5  # lesions are found at 1/32 of the full resolution
ITC_LENGTH = 275.0  # µm: lesions with a shorter major axis are isolated tumour cells
JOIN = 75.0  # µm: annotations closer than this are one lesion
RATES = (0.25, 0.5, 1, 2, 4, 8)  # false positives per slide that the score averages over


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


@dataclass(frozen=True)
class Froc:
    """The curve, from many false positives to none, and its score: mean sensitivity at 1/4 to 8 false positives per slide."""

    fp_per_slide: np.ndarray
    sensitivity: np.ndarray
    score: float


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


def froc(detections: Mapping[str, np.ndarray], lesions: Mapping[str, Lesions | None]) -> Froc:
    """FROC of all slides, normal ones included.

    Args:
        detections: for each slide (k, 3) of probability, x, y in level-0 pixels; k may be 0, a slide may be missing.
        lesions: for each slide its `Lesions`, None for a normal slide. These slides are the ones that count;
            leave test_114 out, whose annotation is not complete.

    Raises:
        ValueError: no slides, detections on a slide that `lesions` lacks, probabilities that are NaN, or no lesion at all.
    """
    if not lesions:
        raise ValueError("no slides to score.")
    strange = sorted(set(detections) - set(lesions))
    if strange:
        raise ValueError(
            f"detections on {strange[0]}, which is not among the slides to score. Give its lesions, or None if it is normal."
        )
    total = sum(found.count for found in lesions.values() if found is not None)
    if total == 0:
        raise ValueError("no slide has a lesion larger than isolated tumour cells, so sensitivity is not defined.")
    false_positives, hits, itc_hits = [], [], []
    for name, found in lesions.items():
        points = np.asarray(detections.get(name, np.empty((0, 3))), np.float64).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise ValueError(f"slide {name} has detections that are NaN or infinite.")
        best = np.zeros(int(found.labels.max()) if found is not None else 0)
        for probability, x, y in points:
            number = _lesion_at(found, x, y)
            if number == 0:
                false_positives.append(probability)
            else:
                best[number - 1] = max(best[number - 1], probability)
        for i, score in enumerate(best, 1):
            (itc_hits if i in found.itc else hits).append(score)
    false_positives, hits = np.array(false_positives), np.array(hits)
    # The official thresholds take in the scores of isolated cells' lesions too; they add points, never hits.
    thresholds = np.unique(np.concatenate([false_positives, hits, itc_hits]))[1:]
    fp = np.array([(false_positives >= t).sum() for t in thresholds] + [0]) / len(lesions)
    sensitivity = np.array([(hits >= t).sum() for t in thresholds] + [0]) / total
    score = np.mean([sensitivity[fp <= rate].max() for rate in RATES])
    return Froc(fp, sensitivity, float(score))


def _lesion_at(found: Lesions | None, x: float, y: float) -> int:
    """Number of the lesion at a level-0 position, 0 for none."""
    if found is None:
        return 0
    row, column = int(y // found.downsample), int(x // found.downsample)
    inside = 0 <= row < found.labels.shape[0] and 0 <= column < found.labels.shape[1]
    return int(found.labels[row, column]) if inside else 0
