"""A slider through pictures that are drawn before: it needs no kernel, and in print it is its first picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mil_tutorial.errors import Found, require, require_integer, require_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 1_000_000  # bytes of a slider, so that a page with some of them still loads at once

# The pictures lie in one box; the slider shows one of them and says its value.
MOVE = (
    "const b=this.closest('.steps'),i=+this.value;"
    "b.querySelectorAll('img').forEach((p,k)=>{p.style.display=k===i?'block':'none'});"
    "b.querySelector('output').textContent=b.dataset.values.split('\\n')[i];"
    "this.setAttribute('aria-valuetext',b.dataset.values.split('\\n')[i])"
)


def show_slider(
    figures: Sequence[Figure], values: Sequence[object], *, name: str, start: int = 0, alt: str = "", dpi: int = 70
) -> None:
    """Show figures one at a time, with a slider that chooses; the figures are closed.

    Args:
        figures: of matplotlib, all of one size. Their axes lie where those of the first lie, so that nothing jumps.
        values: what the slider says at each of them.
        name: of what the slider changes.
        start: the figure that is shown first, and in print.
        alt: what the figures show, for who cannot see them.
        dpi: pixels per inch; half as many where the pictures would be too large, as of slides with many patches.

    Raises:
        ParameterError: no figures, not one value for each, a start that is none of them, or pictures of more than 1 MB.
    """
    from IPython.display import display
    from matplotlib import pyplot as plt

    n = len(figures)
    require(n > 0, "figures", Found("none"), "at least one")
    require(len(values) == n, "values", Found(f"{len(values)} values"), f"one for each of {n} figures")
    require_integer("start", start, low=0, high=n - 1)
    require_number("dpi", dpi, low=0, open_low=True)
    codes = [_png(figure, dpi, figures[0]) for figure in figures]
    if _weight(codes) > LARGEST:
        codes = [_png(figure, dpi / 2, figures[0]) for figure in figures]
    for figure in figures:
        plt.close(figure)
    weight = _weight(codes)
    require(weight <= LARGEST, "figures", Found(f"{weight / 1e6:.1f} MB of pictures"), "at most 1 MB; lower `dpi`")
    page = _page(codes, [" ".join(str(value).split()) for value in values], name, start, alt or name)
    # The picture beside the page is for those who print, or show no HTML.
    display({"text/html": page, "image/png": codes[start], "text/plain": f"{name}: {values[start]}"}, raw=True)


def _png(figure: Figure, dpi: float, first: Figure) -> bytes:
    """A figure, its axes where those of the first one are: a layout of its own takes five times as long."""
    from matplotlib import rc_context

    if figure is not first and len(figure.axes) == len(first.axes):
        with rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
            figure.set_layout_engine(None)
        for axes, like in zip(figure.axes, first.axes, strict=True):
            axes.set_position(like.get_position(original=True))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _weight(codes: Sequence[bytes]) -> int:
    """Bytes of pictures in a page, which holds them as text."""
    return sum(map(len, codes)) * 4 // 3


def _page(codes: Sequence[bytes], values: Sequence[str], name: str, start: int, alt: str) -> str:
    """The slider and its pictures as a piece of HTML."""
    pictures = "".join(
        f'<img alt="{escape(f"{alt}: {name} {values[i]}")}"'
        f' src="data:image/png;base64,{base64.b64encode(code).decode()}"'
        f' style="display:{"block" if i == start else "none"};max-width:100%">'
        for i, code in enumerate(codes)
    )
    return (
        f'<div class="steps" data-values="{"&#10;".join(map(escape, values))}">'
        f'<label style="display:block;max-width:480px">{escape(name)}: <output>{escape(values[start])}</output>'
        f'<input type="range" min="0" max="{len(codes) - 1}" step="1" value="{start}" style="width:100%"'
        f' aria-valuetext="{escape(values[start])}" oninput="{escape(MOVE)}"></label>{pictures}</div>'
    )
