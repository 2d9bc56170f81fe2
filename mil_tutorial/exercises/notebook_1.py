"""Checks of the exercises of notebook 1: data and patch labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from mil_tutorial.exercises.checks import array, exercise, expect, number, run, whole

NEAR = 2  # patches more than the fewest that are possible
SHARES = [0.0, 0.2, 0.5, 0.51, 1.0]


@exercise(takes=("my_minimum", "tissue_share", "coords", "labels"), writes=("my_minimum",))
def my_minimum(my_minimum: Any, tissue_share: Any, coords: np.ndarray, labels: Any) -> None:
    """The least tissue share of a patch that is kept: few patches are left, and no tumour patch is lost.

    Args:
        my_minimum: the learner's number.
        tissue_share: the notebook's function of a patch's corner.
        coords: corners of the patches.
        labels: their labels, as `label_patches` gives them.
    """
    expect(my_minimum is not None, "empty")
    value = number(my_minimum)
    expect(not 1 < value <= 100, "percent", found=value)
    expect(0 <= value <= 1, "range", found=value)
    shares = np.array([number(run(tissue_share, x, y)) for x, y in coords.tolist()])
    tumour = labels.label == 1
    lost, left = int((tumour & (shares < value)).sum()), int((shares >= value).sum())
    expect(not lost, "loses", lost=lost, found=value)
    fewest = int((shares >= shares[tumour].min()).sum())
    expect(left <= fewest + NEAR, "keeps", left=left, all=len(coords), found=value)


@exercise()
def patches_above(patches_above: Any) -> None:
    """How many patches have a tumour share larger than the threshold?"""
    for threshold in (0.5, 0.0, 1.0, 0.2):
        right = sum(share > threshold for share in SHARES)
        answer = run(patches_above, np.array(SHARES), threshold)
        expect(array(answer).ndim == 0, "array", found=answer)
        value, values = number(answer), {"shares": SHARES, "threshold": threshold, "right": right}
        for key, wrong in (
            ("equal", sum(share >= threshold for share in SHARES)),
            ("below", sum(share < threshold for share in SHARES)),
            ("share", right / len(SHARES)),
            ("percent", 100 * right / len(SHARES)),
            ("summed", sum(share for share in SHARES if share > threshold)),
        ):
            expect(value != wrong or wrong == right, key, found=answer, **values)
        expect(value == right, "differs", found=answer, **values)


@exercise()
def choose_level(choose_level: Any) -> None:
    """The level to read from, so that a patch is still at least `px` pixels wide and little is read."""
    for downsamples, side, px in (
        ([1, 2, 4, 8], 1024, 224),
        ([1, 2, 4, 8], 1024, 256),
        ([1, 4, 16], 512, 224),
        ([1, 2], 100, 224),
        ([1.0, 2.0, 4.0], 448, 224),
    ):
        fine = [level for level, factor in enumerate(downsamples) if side / factor >= px]
        values = {"downsamples": downsamples, "side": side, "px": px}
        answer = run(choose_level, list(downsamples), side, px)
        expect(not isinstance(answer, (float, np.floating)), "not_whole", found=answer)
        level = whole(answer)
        expect(0 <= level < len(downsamples), "no_such_level", found=level, last=len(downsamples) - 1, **values)
        width = side / downsamples[level]
        expect(fine or level == 0, "no_level", **values)
        expect(not fine or width >= px, "too_coarse", found=level, width=width, **values)
        expect(level == max(fine, default=0), "too_fine", found=level, width=width, **values)
