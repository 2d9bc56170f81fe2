"""Slides of text that come from the notebooks: a roadmap, one slide for each exercise, what to take home."""

from __future__ import annotations

import html
import re
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deck import course
from deck.look import FIGURE, SOFT, VIOLET, Slide, panels, picture
from mil_tutorial.style import TUMOR

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
STEPS = [
    ("Slide", "to patches"), ("Patches", "to bags"), ("Bag to", "one answer"), ("Learn from", "labels"),
    ("How good", "is it?"), ("Where is", "the tumour?"),
]  # fmt: skip
HEAD = re.compile(r"(?:\*\*|### )Exercise (\d+) \((★+)[^)]*\)[.:]?\s*(.*)", re.DOTALL)  # in bold, or a heading
MINUTES = {1: 4, 2: 6, 3: 8}  # by stars


def as_html(text: str) -> str:
    """A paragraph of Markdown with nothing but code, bold and short formulas."""
    text = re.sub(r"\s+", " ", html.escape(text.strip(), quote=False))
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"\$-\\infty\$", "−∞", text)
    return re.sub(r"\*([^*]+)\*", r"<i>\1</i>", text)


def cells_of(name: str) -> list:
    """The cells of a notebook."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def exercises(name: str) -> list[Slide]:
    """One slide for each exercise: the task as the notebook words it, and the stub."""
    slides, cells = [], cells_of(name)
    for i, cell in enumerate(cells):
        if cell.cell_type != "markdown" or not (found := HEAD.search(cell.source)):
            continue
        task = found[3].split("<details>")[0].strip()
        if found[0].startswith("**"):
            task = task.replace("**", "", 1).strip()  # where the bold part ends
        hint = re.search(r"<summary>Hint</summary>(.*?)</details>", cell.source, re.DOTALL)
        stub = next(c.source for c in cells[i:] if "exercise" in c.metadata.get("tags", []))
        solution = next(c.source for c in cells[i:] if "solution" in c.metadata.get("tags", []))
        answer = re.split(r"\n+assert |\nfrom ", solution.partition("\n")[2])[0].strip()
        slides.append(
            Slide(
                f"exercise {found[1]} {found[2]}",
                "",
                kind="exercise",
                lines=tuple(as_html(p) for p in task.split("\n\n")),
                code=stub.strip(),
                minutes=MINUTES[len(found[2])],
                notes=(
                    "Press T for the clock. Alone for half the time, then in pairs. The check cell says what is"
                    " missing.",
                    *(["Hint: " + re.sub("<[^>]+>", "", html.unescape(hint[1]))] if hint else []),
                    f"Solution: {answer}",
                ),
            )
        )
    return slides


def take_home(name: str) -> Slide:
    """The recap of a notebook."""
    text = next(c.source for c in cells_of(name) if c.cell_type == "markdown" and "## Recap" in c.source)
    recap = text.split("## Recap")[1].split("\n#")[0]
    points = [p.removeprefix("- ") for p in re.split(r"\n(?=- )", recap.strip()) if p.startswith("- ")]
    return Slide(
        f"{len(points)} sentences to keep",
        "",
        kind="home",
        lines=tuple(as_html(p) for p in points),
        notes=("Ask one person for each sentence to say it in other words. Then the quiz, hands up for A, B or C.",),
        minutes=3,
    )


def roadmap(step: int, title: str, sentence: str, *notes: str) -> Slide:
    """The first slide: six steps, and where we are."""
    figure, (axis,) = panels(1)
    width, height = FIGURE
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.set_axis_off()
    figure.set_layout_engine("none")
    axis.set_position((0, 0, 1, 1))
    side, gap = 178, 29.6
    strip = figure.add_axes((0, 0.5, 1, 0.47))
    picture(strip, course.overview_of(course.of_size("macro")[0], 2400))
    tissue = np.flatnonzero((np.ptp(strip.images[0].get_array().astype(int), axis=2) > 40).any(1))
    middle, tall = int(np.mean([tissue[0], tissue[-1]])), 2400 * 0.5 * 0.47 * height / width
    strip.set(xlim=(600, 1800), ylim=(middle + tall / 2, middle - tall / 2))
    for i, words in enumerate(STEPS):
        x, here = i * (side + gap), i + 1 == step
        color = TUMOR if here else VIOLET if i + 1 < step else SOFT
        axis.add_patch(
            FancyBboxPatch(
                (x + 10, 40), side - 20, 160, boxstyle="round,pad=10", fc=color if here else "white", ec=color, lw=4
            )
        )
        ink = "white" if here else color if color != SOFT else "#6A6178"
        axis.text(x + side / 2, 148, f"{i + 1}", ha="center", va="center", fontsize=30, weight="bold", color=ink)
        axis.text(x + side / 2, 88, "\n".join(words), ha="center", va="center", color=ink)
        if i:
            axis.add_patch(
                FancyArrowPatch((x - gap, 120), (x, 120), arrowstyle="-|>", mutation_scale=22, color="#6A6178")
            )
    return Slide(title, sentence, figure, notes, 1, alt=f"Six boxes, one for each notebook. Box {step} is filled.")
