"""Slides of text that come from the notebooks: a roadmap, one slide for each exercise, what to take home."""

from __future__ import annotations

import html
import re
import textwrap
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deck import course
from deck.look import FIGURE, SOFT, VIOLET, Slide, drawing_board, picture
from mil_tutorial.exercises import quizzes
from mil_tutorial.style import TUMOR

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
STEPS = [
    ("Slide", "to patches"), ("Patches", "to bags"), ("Bag to", "one answer"), ("Learn from", "labels"),
    ("How good", "is it?"), ("Where is", "the tumour?"),
]  # fmt: skip
HEAD = re.compile(r"(\*\*|### )(Exercise \d+|Try it) \((★+)[^)]*\)[.:]? ?(.*)", re.DOTALL)  # in bold, or a heading
COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\(https?://[^)]+\)")
FORMULA = re.compile(r"\$([^$]+)\$")
MINUTES = {1: 4, 2: 6, 3: 8}  # by stars
ROOM = 560  # letters of a task that a slide holds beside the stub
LONGEST = 24  # letters of an exercise's name in a title of one line
WIDEST = 72  # letters of a line of code


def as_html(text: str) -> str:
    """A paragraph of Markdown on one line: links become words, small formulas letters."""
    text = LINK.sub(r"\1", re.sub(r"\s+", " ", text.strip()))
    return quizzes.as_html(
        FORMULA.sub(lambda m: m[1].replace(r"\infty", "∞").replace("-", "−").replace("\\", ""), text)
    )


def as_code(stub: str) -> str:
    """A stub in lines that a slide can hold: the second sentence of a docstring and long comments go down a line."""
    stub = re.sub(r'(?m)^( *)("""[^\n]*?[.?]) (?=[^\n]*"""$)', r"\1\2\n\1", stub.strip())
    lines = []
    for line in stub.splitlines():
        short = re.sub("  (?=# )", "\n", line) if len(line) > WIDEST else line
        indent = line[: len(line) - len(line.lstrip())]
        for part in short.split("\n"):
            lines += textwrap.wrap(part, WIDEST, subsequent_indent=indent, break_long_words=False)
    return "\n".join(lines)


def task_of(source: str) -> tuple[str, str, list[str]] | None:
    """Title, stars and paragraphs of the exercise in a cell, if there is one."""
    found = HEAD.search(COMMENT.sub("", source))
    if not found:
        return None
    name, _, task = found[4].split("<details>")[0].partition("**" if found[1] == "**" else "\n")
    title = found[2].lower() + " " + found[3] + (" · " + name.strip(" .") if 0 < len(name) < LONGEST else "")
    return title, found[3], [p for p in task.strip().split("\n\n") if p]


def cells_of(name: str) -> list:
    """The cells of a notebook."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def exercises(name: str) -> list[Slide]:
    """One slide for each exercise: the task as the notebook words it, and the stub."""
    slides, cells = [], cells_of(name)
    for i, cell in enumerate(cells):
        if cell.cell_type != "markdown" or not (task := task_of(cell.source)):
            continue
        title, stars, lines = task
        story = []
        while len(lines) > 1 and sum(map(len, lines)) > ROOM:
            story.append(lines.pop(0))  # the speaker tells it
        hint = re.search(r"<summary>Hint</summary>(.*?)</details>", cell.source, re.DOTALL)
        stub = next(c.source for c in cells[i:] if "exercise" in c.metadata.get("tags", []))
        solution = next(c.source for c in cells[i:] if "solution" in c.metadata.get("tags", []))
        answer = re.split(r"\n+assert |\nfrom ", solution.partition("\n")[2])[0].strip()
        slides.append(
            Slide(
                title,
                "",
                kind="exercise",
                lines=tuple(as_html(p) for p in lines),
                code=as_code(stub),
                minutes=MINUTES[len(stars)],
                notes=(
                    *(re.sub("<[^>]+>", "", html.unescape(as_html(p))) for p in story),
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
    recap = text.split("## Recap")[1].strip().split("\n\n")[0]  # below it is a table
    points = [p.removeprefix("- ") for p in re.split(r"\n(?=- )", recap) if p.startswith("- ")]
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
    figure, axis = drawing_board()
    width, height = FIGURE
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
                (x + 12, 40), side - 24, 160, boxstyle="round,pad=8", fc=color if here else "white", ec=color, lw=4
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
