"""The page that shows a slide: Leaflet's files, `viewer.js` beside this module, and what they are to show, as JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mil_tutorial.errors import DataError, Found, require, require_integer
from mil_tutorial.geometry import as_coords, as_labels, as_named_scores
from mil_tutorial.localization.tiles import TILE, Key, TilePlan
from mil_tutorial.style import AGAINST, FOR, TUMOR

COLOR_MAP = "viridis"  # readable for colour-blind readers, and in grey

SIGNED = ("contribution", "logit")  # scores with two signs, also on a slide where all have one

HERE = Path(__file__).parent


@dataclass(frozen=True)
class PatchView:
    """What a page says of the patches.

    Attributes:
        coords: (n, 2) x, y in level-0 pixels; none: the page shows the slide alone.
        side: of a patch in level-0 pixels.
        scores: name -> (n,) finite values; the first is shown first.
        labels: (n,) 1 tumour, 0 normal, -1 unknown; None: no ground truth.
    """

    coords: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    side: int = 1
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None

    @classmethod
    def checked(
        cls,
        coords: ArrayLike,
        side: int,
        scores: Mapping[str, ArrayLike],
        labels: ArrayLike | None,
        size: tuple[int, int],
    ) -> PatchView:
        """Patches of a slide of `size` = width, height in level-0 pixels.

        Raises:
            ParameterError: as `view_heatmap`.
        """
        require_integer("patch_size_level0", side, low=1)
        coords = as_coords(coords)
        n = len(coords)
        require(n > 0, "coords", Found("no patches"), "at least one. Does the slide have tissue?")
        truth = None if labels is None else as_labels(labels, n)
        values = as_named_scores(scores, n, parameter="scores")
        require(bool(values), "scores", Found("none"), "at least one, such as {'attention': values}")
        outside = int(((coords >= size) | (coords + side <= 0)).any(1).sum())
        found = Found(f"{outside} patches outside this slide of {size[0]} x {size[1]} pixels")
        require(not outside, "coords", found, "patches of this slide")
        return cls(coords.astype(np.int64), side, values, truth)


def build_page(
    patches: PatchView,
    plan: TilePlan,
    overview: bytes,
    *,
    title: str,
    address: str = "",
    inside: Mapping[Key, bytes] | None = None,
) -> str:
    """The page as HTML that needs no network.

    Args:
        patches: what is laid over the slide.
        plan: which tiles there are.
        overview: a JPEG of the whole slide.
        title: plain text.
        address: of the tiles' folder, relative to the page, where they are not in it.
        inside: the tiles, where they are in the page.

    Raises:
        DataError: the package XStatic-Leaflet is missing.
    """
    content = {
        "width": plan.size[0],
        "height": plan.size[1],
        "mpp": plan.mpp,
        "tile": TILE,
        "levels": [{"factor": f, "tiles": _names(plan.tiles[f])} for f in plan.factors],
        "address": address,
        "inside": None if inside is None else {f"{f}/{c}_{r}": _base64(tile) for (f, c, r), tile in inside.items()},
        "overview": "data:image/jpeg;base64," + _base64(overview),
        "colours": _colours(),
        "truthColour": TUMOR,
        **_of_patches(patches),
    }
    parts = {
        "title": escape(title),
        "limit": escape(describe_limit(plan)),
        "style": _leaflet("leaflet.css") + _own("viewer.css"),
        "data": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        "leaflet": _leaflet("leaflet.js"),
        "script": _own("viewer.js"),
    }
    return re.sub(r"\{(title|limit|style|data|leaflet|script)\}", lambda m: parts[m[1]], _own("viewer.html"))


def _of_patches(patches: PatchView) -> dict[str, object]:
    """Places, scores with the ends of their colours, and labels, as JSON takes them."""
    ends = {k: list(ends_of(k, v)) for k, v in patches.scores.items()}
    return {
        "side": patches.side,
        "x": patches.coords[:, 0].tolist(),
        "y": patches.coords[:, 1].tolist(),
        "scores": {k: [float(f"{value:.6g}") for value in v.tolist()] for k, v in patches.scores.items()},
        "ends": ends,
        "labels": None if patches.labels is None else patches.labels.tolist(),
    }


def ends_of(name: str, score: np.ndarray) -> tuple[float, float]:
    """The scores at the ends of the colours: zero has the colour that says nothing, on every slide.

    >>> ends_of("contribution", np.array([1.0, 3.0])), ends_of("attention", np.array([0.2, 0.5]))
    ((-3.0, 3.0), (0.0, 0.5))
    """
    most = max(float(np.abs(score).max()), 1e-9)
    signed = score.min() < 0 or any(word in name for word in SIGNED)
    return (-most if signed else 0.0), most


def describe_limit(plan: TilePlan) -> str:
    """How far the page zooms in, in words.

    >>> describe_limit(TilePlan((100, 100), 0.25, (4,), {4: None}))
    'The finest pixels here have 1 µm. Level 0 of the slide has 0.25 µm: this page leaves the finest levels out.'
    """
    finest = plan.factors[-1]
    if finest == 1:
        unit = f"{plan.mpp:.3g} µm per pixel" if plan.mpp else "the file does not say how large a pixel is"
        return f"Zooms in to level 0, the full resolution ({unit})."
    if plan.mpp is None:
        return f"The finest pixels here are {finest} of level 0 wide: this page leaves the finest levels out."
    return (
        f"The finest pixels here have {plan.mpp * finest:.3g} µm. Level 0 of the slide has {plan.mpp:.3g} µm:"
        " this page leaves the finest levels out."
    )


def _base64(code: bytes) -> str:
    return base64.b64encode(code).decode()


def _names(places: np.ndarray | None) -> list[str] | None:
    return None if places is None else [f"{column}_{row}" for column, row in places.tolist()]


def _colours() -> dict[str, list[str]]:
    """256 colours as rrggbb, for scores without and with a sign."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    maps = {"plain": colormaps[COLOR_MAP], "signed": LinearSegmentedColormap.from_list("", [AGAINST, "#ffffff", FOR])}
    steps = np.arange(256)
    return {
        name: [f"{r:02x}{g:02x}{b:02x}" for r, g, b, _ in colors(steps, bytes=True).tolist()]
        for name, colors in maps.items()
    }


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _leaflet(name: str) -> str:
    """A file of Leaflet's, from the wheel that brings it."""
    try:
        files = distribution("XStatic-Leaflet")
    except PackageNotFoundError:
        raise DataError(
            "XStatic-Leaflet: the package is not installed; a slide's page needs it. Run: pip install XStatic-Leaflet"
        ) from None
    return Path(str(files.locate_file(f"xstatic/pkg/leaflet/data/{name}"))).read_text(encoding="utf-8")
