"""Checks of the exercises of notebook 6: localization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mil_tutorial.exercises.checks import array, exercise, expect, number, refuse, run
from mil_tutorial.localization.detections import find_detections
from mil_tutorial.localization.scores import attention_times_n


def _are_numbers(values: np.ndarray, found: Any) -> None:
    """Whether these can be numbers of patches: no mask, no scores, no 3.0."""
    expect(values.dtype.kind in "biuf", "unlike", found=found)
    expect(values.dtype.kind != "b", "mask", found=found)
    expect(values.dtype.kind in "iu" or (values % 1).any(), "decimals", found=found)
    expect(values.dtype.kind in "iu", "not_whole", found=found)


@exercise(takes=("take_out", "left_over", "puzzle", "goal", "X"), writes=("take_out",))
def take_out(take_out: Any, left_over: Any, puzzle: str, goal: int, X: Mapping[str, Any]) -> None:
    """Few patches without which the model does not find the tumour any more.

    Args:
        take_out: numbers of patches, from the learner.
        left_over: the notebook's function: the probability of a slide without some patches.
        puzzle: name of the slide.
        goal: how many patches are enough.
        X: features of each slide.
    """
    expect(take_out is not None, "empty")
    values = array(list(take_out) if isinstance(take_out, (range, set, frozenset)) else take_out).ravel()
    expect(len(values), "none_gone")
    _are_numbers(values, values[:5])
    n, gone = len(X[puzzle]), sorted({int(i) for i in values})
    expect(all(0 <= i < n for i in gone), "no_such_patch", found=max(gone, key=abs, default=0), last=n - 1)
    expect(len(gone) < n, "all_gone")
    prob = number(run(left_over, puzzle, gone))
    expect(prob < 0.5 or goal >= 50, "still_found", count=len(gone), prob=prob)
    expect(len(gone) <= goal, "too_many", count=len(gone), prob=prob, goal=goal)


@exercise()
def fair_share(fair_share: Any) -> None:
    """Softmax of the raw attention times the number of patches."""
    for raw in (np.array([0.0, 1.0, 2.0]), np.zeros(4), np.array([800.0, 799.0, 0.0, 0.0])):
        right = attention_times_n(raw)
        answer = array(run(fair_share, raw.copy())).astype(float)
        given = {"raw": raw, "found": answer, "right": right}
        expect(answer.shape == raw.shape, "shape", shape=answer.shape, expected_shape=raw.shape)
        expect(np.isfinite(answer).all(), "overflow" if raw.max() > 100 else "not_finite", **given)
        expect(not np.allclose(answer, right / len(raw), atol=1e-6), "no_n", total=answer.sum(), **given)
        expect(not np.allclose(answer, right * len(raw), atol=1e-6), "n_twice", mean=answer.mean(), **given)
        expect(not np.allclose(answer, raw * len(raw)) or not raw.any(), "no_softmax", **given)
        good = abs(answer.mean() - 1) < 1e-5
        expect(good or raw.max() < 700, "overflow", **given)
        expect(good, "mean", mean=answer.mean(), **given)
        expect(np.allclose(answer, right, atol=1e-5), "differs", **given)


POINTING = (  # scores and truths of each slide
    (([0.1, 0.9, 0.2], [0, 1, 0]), ([0.8, 0.2, 0.1], [0, 1, 0]), ([0.3, 0.4, 0.1], [1, 1, 0]), ([0.7, 0.1], [1, 1])),
    (
        ([0.6, 0.9, 0.1], [1, 0, 0]), ([0.2, 0.1], [0, 1]), ([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0]),
        ([0.8, 0.2, 0.1], [0, 1, 1]), ([0.1, 0.7], [0, 1]),
    ),
)  # fmt: skip


@exercise()
def pointing_game(pointing_game: Any) -> None:
    """On which share of the slides is the patch with the highest score a tumour patch?"""
    for slides in POINTING:
        scores, truths = ([np.array(slide[k]) for slide in slides] for k in (0, 1))
        hits = [truth[score.argmax()] == 1 for score, truth in zip(scores, truths, strict=True)]
        answer = run(pointing_game, [s.copy() for s in scores], [t.copy() for t in truths])
        expect(array(answer).ndim == 0, "several_values", found=answer)
        value, right = number(answer), float(np.mean(hits))
        for key, wrong in (
            ("count", sum(hits)),
            ("percent", 100 * right),
            ("misses", 1 - right),
            ("all_patches", np.mean([s.argmax() == t.argmax() for s, t in zip(scores, truths, strict=True)])),
            ("of_patches", sum(hits) / sum(map(len, truths))),
        ):
            expect(abs(value - wrong) > 1e-6 or abs(wrong - right) < 1e-6, key, found=value)
        expect(abs(value - right) < 1e-6, "differs", found=value, slides=len(hits), hits=sum(hits), right=right)


@exercise()
def find_peaks(find_peaks: Any) -> None:
    """The patches of highest score that are far enough from each other."""
    coords = np.array([[0, 0], [10, 0], [20, 0], [100, 0], [100, 9]])
    for scores, radius in (
        ([0.1, 0.4, 0.2, 0.3, 0.9], 15),
        ([0.1, 0.9, 0.2, 0.3, 0.4], 15),
        ([0.9, 0.8, 0.7, 0.1, 0.2], 15),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 1),
        ([0.9, 0.8, 0.7, 0.2, 0.1], 10),
    ):
        right = _numbers(np.array(scores), coords, radius)
        answer = run(find_peaks, np.array(scores), coords.copy(), radius)
        try:
            values = np.asarray([np.asarray(i) for i in answer])
        except (TypeError, ValueError):
            refuse("unlike", found=answer)
        given = {"scores": scores, "radius": radius}
        expect(values.ndim == 1, "coordinates", found=answer)
        expect(len(values) > 0, "none", **given)
        _are_numbers(values, answer)
        found = values.tolist()
        given |= {"found": found, "right": right}
        expect(all(0 <= i < len(coords) for i in found), "no_such_patch", last=len(coords) - 1, **given)
        expect(len(set(found)) == len(found), "twice", **given)
        expect(sorted(found) != sorted(right) or found == right, "order", **given)
        close = [(i, j) for i in found for j in found if i < j and np.hypot(*(coords[i] - coords[j])) < radius]
        expect(not close, "too_close", pair=close[0] if close else "", **given)
        expect(found == right, "differs", **given)


def _numbers(scores: np.ndarray, coords: np.ndarray, radius: float) -> list[int]:
    """What the course's own detections keep, as numbers of patches."""
    kept = find_detections(scores, coords, 1, radius=radius - 1e-6)  # there a neighbour at the radius itself is dropped
    return [int(np.abs(coords - point).sum(1).argmin()) for point in kept[:, 1:]]
