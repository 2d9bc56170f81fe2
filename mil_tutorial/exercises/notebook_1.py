"""Checks of the exercises of notebook 1: data and patch labels."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from mil_tutorial.data import open_data
from mil_tutorial.exercises.checks import array, exercise, expect, number, run, whole
from mil_tutorial.slides.reading import open_slide

SHARES = [0.0, 0.2, 0.5, 0.51, 1.0]


@exercise(takes=("width_mm", "wsi_name"), writes=("width_mm",))
def patch_width(width_mm: Any, wsi_name: str | None = None) -> None:
    """The width of one patch of a slide in millimetres.

    Args:
        width_mm: the learner's number.
        wsi_name: the slide; the course's example by default.
    """
    expect(width_mm is not None, "empty")
    value = number(width_mm)
    data = open_data()
    name = wsi_name or data.example
    with h5py.File(data.trident_dir / "patches" / f"{name}_patches.h5") as file:
        side, small = (int(file["coords"].attrs[key]) for key in ("patch_size_level0", "patch_size"))
    with open_slide(data.slide_path(name)) as slide:
        mpp = float(slide.properties["openslide.mpp-x"])
    right = side * mpp / 1000
    for key, wrong in (
        ("micrometres", right * 1000),
        ("metres", right / 1000),
        ("pixels_read", small * mpp / 1000),
        ("no_mpp", side / 1000),
        ("divided", side / mpp / 1000),
        ("area", right**2),
    ):
        expect(not np.isclose(value, wrong, rtol=1e-6), key, found=value)
    expect(np.isclose(value, right, rtol=1e-4), "differs", found=value)


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
