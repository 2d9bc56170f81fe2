"""The look of the slides: colours, the mark, and letters that can be read from the last row."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from mil_tutorial.evaluation.metrics import Estimate
from mil_tutorial.style import ACCENT, NORMAL, TUMOR

PAGE = (1280, 720)  # a slide in CSS pixels; the browser scales it to the screen
FIGURE = (1216, 488)  # the room that a figure has below one line of title and two lines of text
SMALLEST = 24  # px, the smallest letters of a figure on a slide
POINTS = 18  # 25 px at DPI
DPI = 100
PAPER, INK, VIOLET, SOFT = "#FCFAF6", "#241A38", "#5B3A8E", "#B9B2C6"
# A bag of nine patches. One of them is tumour, and it is enough.
MARK = (
    '<svg viewBox="0 0 34 34" width="34" height="34" aria-hidden="true">'
    + "".join(
        f'<rect x="{1 + 11 * column}" y="{1 + 11 * row}" width="10" height="10" rx="2.5"'
        f' fill="{TUMOR if (row, column) == (1, 2) else VIOLET}"/>'
        for row in range(3)
        for column in range(3)
    )
    + "</svg>"
)


@dataclass
class Slide:
    """One slide.

    Attributes:
        title: a statement.
        sentence: one sentence below it.
        figure: what the slide shows, None on slides of text.
        notes: what the speaker says and asks, paragraph by paragraph.
        minutes: that it takes in class.
        kind: `figure`, `predict`, `exercise` or `home`.
        lines: the text of a slide without a figure, HTML.
        alt: the figure in words.
        code: an exercise's stub.
        late: it comes after the exercises, because it gives one away.
    """

    title: str
    sentence: str
    figure: Figure | None = None
    notes: tuple[str, ...] = ()
    minutes: int = 2
    kind: str = "figure"
    lines: tuple[str, ...] = ()
    alt: str = ""
    code: str = field(default="", repr=False)
    late: bool = False


class ClaimFailed(Exception):
    """A title says what the numbers do not show any more."""


def claim(holds: bool, title: str) -> str:
    """The title, if it is true of the numbers.

    Raises:
        ClaimFailed: it is not. Change the title, never the numbers.
    """
    if not bool(holds):
        raise ClaimFailed(f"the slide {title!r} says what its numbers do not show. Change the slide.")
    return title


def use_look() -> None:
    """Set matplotlib's defaults for slides."""
    plt.rcParams.update(plt.rcParamsDefault)
    plt.rcParams.update(
        {
            "figure.dpi": DPI,
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "font.size": POINTS,
            "axes.titlesize": POINTS,
            "axes.labelsize": POINTS,
            "xtick.labelsize": POINTS,
            "ytick.labelsize": POINTS,
            "legend.fontsize": POINTS,
            "figure.titlesize": POINTS,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "text.color": INK,
            "lines.linewidth": 4,
            "axes.linewidth": 1.5,
            "legend.frameon": False,
            "axes.prop_cycle": plt.cycler(color=[NORMAL, TUMOR, ACCENT, VIOLET]),
        }
    )


def panels(n: int = 1, widths: list[float] | None = None, *, height: int = FIGURE[1]) -> tuple[Figure, list]:
    """A figure as wide as the slide, with `n` axes side by side."""
    figure, axes = plt.subplots(
        1, n, figsize=(FIGURE[0] / DPI, height / DPI), width_ratios=widths or [1.0] * n, squeeze=False
    )
    return figure, list(axes[0])


def picture(axis, image: np.ndarray, title: str = "", **more) -> None:
    """An image without ticks and frame."""
    axis.imshow(image, **more)
    axis.set(title=title, xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def crop(axis, image: np.ndarray, shape: float) -> None:
    """Show the part of a slide that holds tissue and what is drawn on it, `shape` times as wide as high."""
    colour = np.ptp(image.astype(int), axis=2) > 40
    rows, columns = (np.flatnonzero(colour.sum(1 - axis_) > 12) for axis_ in (0, 1))
    drawn = np.array([p.get_bbox().extents for p in axis.patches] or [[columns[0], rows[0]] * 2])
    left, top = min(columns[0], drawn[:, 0].min()), min(rows[0], drawn[:, 1].min())
    right, bottom = max(columns[-1], drawn[:, 2].max()), max(rows[-1], drawn[:, 3].max())
    height, width = (bottom - top) * 1.06, (right - left) * 1.04
    height, width = max(height, width / shape), max(width, height * shape)
    x, y = (left + right) / 2, (top + bottom) / 2
    axis.set(xlim=(x - width / 2, x + width / 2), ylim=(y + height / 2, y - height / 2))


def drawing_board() -> tuple[Figure, Axes]:
    """One empty area over the whole figure, in its pixels."""
    figure, (axis,) = panels(1)
    axis.set(xlim=(0, FIGURE[0]), ylim=(0, FIGURE[1]))
    axis.set_axis_off()
    figure.set_layout_engine("none")
    axis.set_position((0, 0, 1, 1))
    return figure, axis


def choices(*words: str) -> Figure:
    """Boxes A, B, C to vote on."""
    figure, axes = panels(len(words))
    for axis, letter, text in zip(axes, "ABCDEF", words, strict=False):
        axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.add_patch(plt.Rectangle((0, 0.12), 1, 0.76, fc="white", ec=VIOLET, lw=4, transform=axis.transAxes))
        axis.text(0.5, 0.68, letter, ha="center", va="center", fontsize=60, weight="bold", color=TUMOR)
        for k, line in enumerate(text.split("\n")):
            axis.text(0.5, 0.37 - 0.11 * k, line, ha="center", va="baseline", fontsize=24)
    return figure


def vote(title: str, sentence: str, words: tuple[str, ...], *notes: str) -> Slide:
    """A question to vote on."""
    alt = f"{len(words)} boxes: " + ", ".join(word.replace("\n", " ") for word in words) + "."
    return Slide(title, sentence, choices(*words), notes, 1, "predict", alt=alt)


def intervals(found: dict[str, Estimate], label: str) -> Figure:
    """A row for each estimate: its interval as a bar, its value as a point."""
    figure, (axis,) = panels(1)
    for i, e in enumerate(found.values()):
        axis.plot([e.low, e.high], [i, i], color=NORMAL, lw=10, alpha=0.4, solid_capstyle="butt")
        axis.plot([e.value], [i], "o", ms=20, color=TUMOR)
    axis.set(yticks=range(len(found)), yticklabels=list(found), ylim=(len(found) - 0.4, -0.6), xlabel=label)
    return figure


def row_of_pictures(images: list[np.ndarray], titles: list[str], **more) -> tuple[Figure, list]:
    """Pictures side by side, as wide as their shapes ask for."""
    figure, axes = panels(len(images), [image.shape[1] / image.shape[0] for image in images])
    for axis, image, title in zip(axes, images, titles, strict=True):
        picture(axis, image, title, **more)
    return figure, axes


def letters(figure: Figure) -> Iterator[Text]:
    """Every text of a figure that can be seen."""
    outside = set()  # matplotlib keeps ticks beyond the limits, and does not draw them
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    outside |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        shown = text.get_visible() and (text.axes is None or text.axes.get_visible())
        if shown and text not in outside and text.get_text().strip():
            yield text


def smallest_letters(figure: Figure) -> float:
    """Height of the smallest letters in pixels of the slide; infinite where there are none."""
    return min((t.get_fontsize() * DPI / 72 for t in letters(figure)), default=float("inf"))


def faults(figure: Figure) -> list[str]:
    """What the last row could not read: small letters, texts that are cut off, texts on top of each other."""
    figure.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in letters(figure) if t.get_window_extent().width > 0]
    found = [f"{t.get_text()!r} is small" for t in letters(figure) if t.get_fontsize() * DPI / 72 < SMALLEST]
    width, height = figure.canvas.get_width_height()
    for text, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(f"{text!r} is cut off")
    for (a, one), (b, other) in combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        if across > 2 and down > 4:
            found.append(f"{a!r} lies on {b!r}")
    return found


def as_webp(figure: Figure) -> bytes:
    """The figure at twice the size, sharp on a large screen."""
    file = io.BytesIO()
    figure.savefig(file, format="webp", dpi=2 * DPI, pil_kwargs={"quality": 88})
    return file.getvalue()
