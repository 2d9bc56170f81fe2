"""FROC, the CAMELYON16 challenge's measure of localization: sensitivity against false positives per slide.

Source: the official definition of CAMELYON16 (Ehteshami Bejnordi et al., JAMA 2017), written anew from its description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil_tutorial.localization.lesions import Lesions

RATES = (0.25, 0.5, 1, 2, 4, 8)  # false positives per slide that the score averages over


@dataclass(frozen=True)
class Froc:
    """The curve, from many false positives to none, and its score: mean sensitivity at 1/4 to 8 false positives per slide.

    `low` and `high` are the score's 95 % bootstrap interval over slides, NaN unless asked for.
    """

    fp_per_slide: np.ndarray
    sensitivity: np.ndarray
    score: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class _SlideScores:
    """One slide: scores of its false positives, and of each lesion (0 where nothing hit it)."""

    false_positives: np.ndarray
    lesions: np.ndarray
    itc: np.ndarray


def _score_slide(name: str, points: np.ndarray, found: Lesions | None) -> _SlideScores:
    points = np.asarray(points, np.float64)
    if points.size == 0:
        points = points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"slide {name}: detections have shape {points.shape}, expected (k, 3): probability, x, y.")
    if not np.isfinite(points).all():
        raise ValueError(f"slide {name} has detections that are NaN or infinite.")
    if (points[:, 0] < 0).any():
        raise ValueError(
            f"slide {name} has a detection with the probability {points[:, 0].min():g}, expected 0 or more."
        )
    if found is None:
        return _SlideScores(points[:, 0], np.empty(0), np.empty(0))
    number = np.array([_lesion_at(found, x, y) for _, x, y in points], np.int64)
    best = np.zeros(int(found.labels.max()) + 1)
    np.maximum.at(best, number, points[:, 0])
    itc = np.isin(np.arange(1, len(best)), list(found.itc))
    return _SlideScores(points[number == 0, 0], best[1:][~itc], best[1:][itc])


def _curve(slides: Sequence[_SlideScores]) -> tuple[np.ndarray, np.ndarray, float]:
    """Curve and score of some slides, each as often as it stands there."""
    false_positives, hits, itc = (
        np.concatenate([getattr(s, k) for s in slides]) for k in ("false_positives", "lesions", "itc")
    )
    # The official thresholds take in the scores of isolated cells' lesions too; they add points, never hits.
    thresholds = np.unique(np.concatenate([false_positives, hits, itc]))[1:]
    above = [len(v) - np.searchsorted(np.sort(v), thresholds, side="left") for v in (false_positives, hits)]
    fp = np.append(above[0], 0) / len(slides)
    sensitivity = np.append(above[1], 0) / len(hits)
    return fp, sensitivity, float(np.mean([sensitivity[fp <= rate].max() for rate in RATES]))


def froc(
    detections: Mapping[str, np.ndarray], lesions: Mapping[str, Lesions | None], n_bootstrap: int = 0, seed: int = 0
) -> Froc:
    """FROC of all slides, normal ones included.

    Args:
        detections: for each slide (k, 3) of probability, x, y in level-0 pixels; k may be 0, a slide may be missing.
        lesions: for each slide its `Lesions`, None for a normal slide. These slides are the ones that count;
            leave test_114 out, whose annotation is not complete.
        n_bootstrap: resamples for the score's interval: slides with lesions and slides without, each with replacement.
        seed: of the resamples.

    Raises:
        ValueError: no slides, detections on a slide that `lesions` lacks, detections that are not (k, 3), are NaN or
            negative, or no lesion at all.
    """
    if not lesions:
        raise ValueError("no slides to score.")
    strange = sorted(set(detections) - set(lesions))
    if strange:
        raise ValueError(
            f"detections on {strange[0]}, which is not among the slides to score. Give its lesions, or None if it is normal."
        )
    slides = [_score_slide(name, detections.get(name, np.empty((0, 3))), found) for name, found in lesions.items()]
    if not sum(len(s.lesions) for s in slides):
        raise ValueError("no slide has a lesion larger than isolated tumour cells, so sensitivity is not defined.")
    fp, sensitivity, score = _curve(slides)
    rng = np.random.default_rng(seed)
    groups = [[s for s in slides if len(s.lesions)], [s for s in slides if not len(s.lesions)]]
    drawn = [
        _curve([g[i] for g in groups if g for i in rng.integers(len(g), size=len(g))])[2] for _ in range(n_bootstrap)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn else (np.nan, np.nan)
    return Froc(fp, sensitivity, score, float(low), float(high))


def _lesion_at(found: Lesions, x: float, y: float) -> int:
    """Number of the lesion at a level-0 position, 0 for none."""
    row, column = int(y // found.downsample), int(x // found.downsample)
    inside = 0 <= row < found.labels.shape[0] and 0 <= column < found.labels.shape[1]
    return int(found.labels[row, column]) if inside else 0
