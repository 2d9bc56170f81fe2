"""FROC, the CAMELYON16 challenge's measure of localization: sensitivity against false positives per slide.

Source: the official definition of CAMELYON16 (Ehteshami Bejnordi et al., JAMA 2017), written from its description.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mil_tutorial.errors import Found, require, require_integer
from mil_tutorial.localization.detections import as_detections
from mil_tutorial.localization.lesions import Lesions

RATES = (0.25, 0.5, 1, 2, 4, 8)  # false positives per slide that the score averages over

# Slides of CAMELYON16 whose lesions are not all annotated, so that a right detection may count as a false positive.
# Source: the data set's README, which names test_114.
NOT_EXHAUSTIVE = ("test_114",)


@dataclass(frozen=True)
class Froc:
    """The FROC curve and its score.

    Attributes:
        fp_per_slide, sensitivity: (k,) of the curve, from many false positives to none.
        score: mean sensitivity at 1/4 to 8 false positives per slide.
        low, high: the score's 95 % bootstrap interval over slides, NaN unless asked for.
        left_out: slides that were given and do not count.
    """

    fp_per_slide: np.ndarray
    sensitivity: np.ndarray
    score: float
    low: float = float("nan")
    high: float = float("nan")
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _SlideScores:
    """One slide: scores of its false positives, and of each lesion (0 where nothing hit it)."""

    false_positives: np.ndarray
    lesions: np.ndarray
    itc: np.ndarray


def _score_slide(points: np.ndarray, lesions: Lesions | None) -> _SlideScores:
    """Scores of one slide's detections (k, 3); None is a normal slide."""
    if lesions is None:
        return _SlideScores(points[:, 0], np.empty(0), np.empty(0))
    number = np.array([lesions.at(x, y) for _, x, y in points], np.int64)
    best = np.zeros(int(lesions.labels.max()) + 1)
    np.maximum.at(best, number, points[:, 0])
    itc = np.isin(np.arange(1, len(best)), list(lesions.itc))
    return _SlideScores(points[number == 0, 0], best[1:][~itc], best[1:][itc])


def _curve(slides: Sequence[_SlideScores]) -> tuple[np.ndarray, np.ndarray, float]:
    """Curve and score of some slides, each as often as it is there."""
    false_positives, hits, itc = (
        np.concatenate([getattr(s, k) for s in slides]) for k in ("false_positives", "lesions", "itc")
    )
    # The official thresholds take in the scores of isolated cells' lesions too; they add points, never hits.
    thresholds = np.unique(np.concatenate([false_positives, hits, itc]))[1:]
    above = [len(v) - np.searchsorted(np.sort(v), thresholds, side="left") for v in (false_positives, hits)]
    fp = np.append(above[0], 0) / len(slides)
    sensitivity = np.append(above[1], 0) / len(hits)
    return fp, sensitivity, float(np.mean([sensitivity[fp <= rate].max() for rate in RATES]))


def _without(
    detections: Mapping[str, ArrayLike], lesions: Mapping[str, Lesions | None], leave_out: Collection[str]
) -> tuple[dict[str, np.ndarray], dict[str, Lesions | None], tuple[str, ...]]:
    """Detections (k, 3) and lesions of the slides that count, checked, and the names of those that do not."""
    for parameter, value in (("detections", detections), ("lesions", lesions)):
        require(isinstance(value, Mapping), parameter, Found(type(value).__name__), "a dictionary by slide name")
    good = isinstance(leave_out, Collection) and not isinstance(leave_out, str)
    require(good, "leave_out", leave_out, "a collection of slide names, such as ('a', 'b')")
    left_out = tuple(sorted((set(detections) | set(lesions)) & set(leave_out)))
    kept = {name: slide for name, slide in lesions.items() if name not in left_out}
    require(bool(kept), "lesions", Found("no slides that count"), "at least one slide to score")
    for name, slide in kept.items():
        good = slide is None or isinstance(slide, Lesions)
        require(good, "lesions", Found(f"{type(slide).__name__} for slide {name}"), "Lesions, or None if it is normal")
    strange = sorted(set(detections) - set(kept) - set(left_out))
    found = Found(f"detections on {strange[0]}, which is not in lesions" if strange else "")
    require(not strange, "detections", found, "those of the slides to score. Give its lesions, or None if it is normal")
    points = {name: as_detections(detections.get(name, ()), slide=name) for name in kept}
    for name, values in points.items():
        lowest = values[:, 0].min(initial=0)
        require(lowest >= 0, "detections", Found(f"{lowest:g} on slide {name}"), "probabilities of at least 0")
    return points, kept, left_out


def froc(
    detections: Mapping[str, ArrayLike],
    lesions: Mapping[str, Lesions | None],
    *,
    n_bootstrap: int = 0,
    seed: int = 0,
    leave_out: Collection[str] = NOT_EXHAUSTIVE,
) -> Froc:
    """FROC of all slides, normal ones included.

    Args:
        detections: for each slide (k, 3) of probability, x, y in level-0 pixels; k may be 0, a slide may be missing.
        lesions: for each slide its `Lesions`, None for a normal slide. These slides are the ones that count.
        n_bootstrap: resamples for the score's interval: slides with lesions and without, each with replacement.
        seed: of the resamples.
        leave_out: slides that do not count, because not all their lesions are annotated: CAMELYON16's test_114. A
            warning and `left_out` name those that were given.

    Raises:
        ParameterError: no slides, detections on a slide that `lesions` lacks, detections that are not (k, 3), are NaN
            or negative, or no lesion at all.
    """
    require_integer("n_bootstrap", n_bootstrap, low=0)
    require_integer("seed", seed, low=0)
    points, kept, left_out = _without(detections, lesions, leave_out)
    if left_out:
        names = ", ".join(left_out)
        warnings.warn(f"FROC leaves out {names}: not all lesions there are annotated.", stacklevel=2)
    slides = [_score_slide(points[name], slide) for name, slide in kept.items()]
    groups = [[s for s in slides if len(s.lesions)], [s for s in slides if not len(s.lesions)]]
    found = Found("no slide with a lesion larger than isolated tumour cells")
    require(bool(groups[0]), "lesions", found, "at least one, or sensitivity is not defined")
    fp, sensitivity, score = _curve(slides)
    rng = np.random.default_rng(seed)
    drawn = [
        _curve([g[i] for g in groups if g for i in rng.integers(len(g), size=len(g))])[2] for _ in range(n_bootstrap)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn else (np.nan, np.nan)
    return Froc(fp, sensitivity, score, float(low), float(high), left_out)
