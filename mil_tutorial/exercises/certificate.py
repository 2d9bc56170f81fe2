"""A certificate of what is remembered, with the learner's own name, as an SVG file."""

from __future__ import annotations

import os
import unicodedata
from datetime import date
from html import escape
from pathlib import Path

from mil_tutorial.errors import DataError, require
from mil_tutorial.exercises.progress import Tally, progress_file, progress_table, tallies
from mil_tutorial.exercises.words import texts
from mil_tutorial.files import written_whole
from mil_tutorial.style import NORMAL, TUMOR

WIDE, HIGH = 1123, 794  # A4, turned, at 96 dots per inch
LONGEST_NAME = 120


def clean_name(name: str) -> str:
    """A name on one line: no control characters, no runs of spaces.

    Raises:
        ParameterError: nothing is left, or it is too long.
    """
    kept = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(name))
    kept = " ".join(kept.split())
    require(0 < len(kept) <= LONGEST_NAME, "name", name, f"a name of 1 to {LONGEST_NAME} letters")
    return kept


def certificate_svg(name: str, tally: Tally, day: date | None = None) -> str:
    """The certificate as the text of an SVG file.

    Args:
        name: of the learner.
        tally: of all notebooks together.
        day: the date on it; today by default.

    Raises:
        ParameterError: the name is empty or too long.
    """
    words, name = texts("common")["certificate"], clean_name(name)
    letters = sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.7 for c in name)  # widths in font sizes
    size = min(54.0, (WIDE - 200) / letters)
    lines = [
        (150, 26, "#444", words["course"]),
        (240, 60, "#111", words["heading"]),
        (360, size, NORMAL, name),
        (425, 26, "#111", words["worked"]),
        (510, 26, "#111", words["exercises"].format(**vars(tally))),
        (555, 26, "#111", words["quiz"].format(right=tally.quiz_right, all=tally.quiz_all)),
        (630, 22, "#444", (day or date.today()).isoformat()),
        (700, 16, "#666", words["note"]),
    ]
    drawn = "\n".join(
        f'<text x="{WIDE / 2:g}" y="{y}" font-size="{s:.1f}" fill="{fill}">{escape(str(text))}</text>'
        for y, s, fill, text in lines
    )
    squares = "\n".join(  # a row of patches: those that are solved in orange
        f'<rect x="{WIDE / 2 + (i - tally.all / 2) * 26:g}" y="455" width="20" height="20" fill="{fill}"/>'
        for i, fill in enumerate([TUMOR] * tally.right + ["#ddd"] * (tally.all - tally.right))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" height="{HIGH}"
 font-family="Georgia, 'DejaVu Serif', serif" role="img">
<title>{escape(f"{words['heading']}: {name}")}</title>
<rect width="{WIDE}" height="{HIGH}" fill="white"/>
<rect x="30" y="30" width="{WIDE - 60}" height="{HIGH - 60}" fill="none" stroke="{NORMAL}" stroke-width="4"/>
<rect x="40" y="40" width="{WIDE - 80}" height="{HIGH - 80}" fill="none" stroke="{NORMAL}" stroke-width="1"/>
<g text-anchor="middle">
{drawn}
</g>
{squares}
</svg>
"""


def write_certificate(path: str | os.PathLike[str], name: str) -> Path:
    """Write a certificate of what is remembered.

    Args:
        path: an SVG file. Browsers open it, and print it to PDF.
        name: of the learner.

    Raises:
        ParameterError: the name is empty or too long.
        DataError: no exercise is solved yet, the file of progress is damaged, or `path` cannot be written.
    """
    name = clean_name(name)
    together = sum(tallies().values(), Tally(0, 0, 0, 0))
    if not together.right:
        where = progress_file() or "progress"
        raise DataError(f"{where}: {texts('common')['progress']['none']}")
    path = Path(path)
    with written_whole(path) as temporary:
        temporary.write_text(certificate_svg(name, together), encoding="utf-8")
    return path


def show_progress(name: str = "", path: str | os.PathLike[str] = "outputs/certificate.svg") -> None:
    """Print what is remembered and, with a name, write the certificate and show it. Problems are printed.

    Args:
        name: of the learner; without it there is no certificate.
        path: the certificate.
    """
    words = texts("common")["progress"]
    try:
        print(progress_table())
        if progress_file() is None:
            return
        if not name.strip():
            print(words["name"])
            return
        written = write_certificate(path, name)
    except (DataError, ValueError) as problem:
        print(problem)
        return
    print(words["written"].format(path=written))
    try:
        from IPython.display import SVG, display
    except ImportError:  # outside Jupyter the file is enough
        return
    display(SVG(filename=str(written)))
