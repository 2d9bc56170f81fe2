"""`mil-tutorial grade`: run the answers in returned notebooks and write a table of exercises and learners.

It runs other people's code on this machine. Limits and walls are in `sandbox.py`; they stop accidents and mischief,
and on Linux a good deal more, but a process is no prison.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mil_tutorial.commands.grading import Graded, Limits, grade
from mil_tutorial.commands.report import write_page
from mil_tutorial.commands.returned import read_returned
from mil_tutorial.errors import require, require_integer, require_number
from mil_tutorial.exercises.checks import exercises_of
from mil_tutorial.exercises.words import say, texts
from mil_tutorial.files import check_writable, written_whole

WARNING = (
    "These notebooks are other people's code, and it runs on this machine: each in a process of its own, in a folder of"
    " its own, with limits. Grade on a machine that holds nothing secret, or in a container."
)
STYLE = """<style>body{max-width:none}table.grades{font-size:14px}table.grades td{vertical-align:top;max-width:18rem}
td.right{background:#dff0ea}td.wrong{background:#fbe6d8}td.none{color:#777}</style>"""


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    usual = Limits()
    parser.epilog = WARNING
    parser.add_argument(
        "folder", help="folder of returned notebooks and zips, or one zip; a folder for each learner is fine"
    )
    parser.add_argument("--out", default="grades", help="folder of grades.csv and grades.html")
    parser.add_argument(
        "--seconds", type=float, default=usual.seconds, help="most seconds of a processor for one exercise"
    )
    parser.add_argument(
        "--memory", type=int, default=usual.memory >> 20, metavar="MB", help="most memory of one process"
    )
    parser.add_argument("--jobs", type=int, help="notebooks at a time; by default one for each processor, four at most")


def run(args: argparse.Namespace) -> int:
    """Grade them; 1 if one of the notebooks could not be read."""
    start = time.perf_counter()
    require_number("seconds", args.seconds, low=0.1)
    require_integer("memory", args.memory, low=500)
    jobs = min(os.cpu_count() or 1, 4) if args.jobs is None else args.jobs
    require_integer("jobs", jobs, low=1)
    out = Path(args.out)
    require(not out.is_file(), "out", args.out, "a folder, not a file")
    check_writable(out / "grades.csv")
    print(WARNING)
    returned = read_returned(args.folder)
    graded = grade(returned, Limits(args.seconds, args.memory << 20), jobs=jobs, show=print)
    header, rows = grades_table(graded)
    write_csv(out / "grades.csv", header, rows)
    write_html(out / "grades.html", header, rows, graded)
    print("\n".join(f"{row[0]:<30.30} {row[1]:>3} of {row[2]}" for row in rows))
    print(f"\n{walls_in_words(graded)}")
    problems = [g for g in graded if g.returned.problem]
    for g in problems:
        print(f"{g.returned.file}: {g.returned.problem}")
    print(
        f"{len(graded)} notebooks in {time.perf_counter() - start:.0f} s: {out / 'grades.csv'}, {out / 'grades.html'}"
    )
    return int(bool(problems))


def walls_in_words(graded: Sequence[Graded]) -> str:
    """What the system itself refused the learners' code, in a sentence; what only Python refused, too."""
    ran = [set(g.walls) for g in graded if g.walls is not None]
    kept = set.intersection(*ran) if ran else set()
    wanted = ["no network", "no other files", "limits"]
    held = [w for w in wanted if w in kept]
    rest = [w for w in wanted if w not in kept]
    text = f"Refused by the system: {', '.join(held)}." if held else ""
    if rest and ran:
        text += f" Only refused inside Python here: {', '.join(rest)}."
    return text.strip()


def grades_table(graded: Sequence[Graded]) -> tuple[list[str], list[list[str]]]:
    """Exercises and learners: a header, and a row for each learner.

    A learner who returned one notebook twice has a row for each time.
    """
    numbers = sorted({g.returned.notebook for g in graded if g.returned.notebook})
    keys = [e.key for n in numbers for e in exercises_of(n)]
    rows: list[dict[str, str]] = []
    for g in sorted(graded, key=lambda g: (g.returned.learner.lower(), g.returned.file)):
        free = [
            row
            for row in rows
            if row["learner"] == g.returned.learner and not set(row) & set(g.verdicts) and not g.returned.problem
        ]
        if not free:
            rows.append({"learner": g.returned.learner, "files": "", "problem": ""})
        row = free[0] if free else rows[-1]
        row |= g.verdicts
        row["files"] = ", ".join(filter(None, [row["files"], g.returned.file]))
        row["problem"] = g.returned.problem or row["problem"]
    header = ["learner", "right", "of", "files", "problem", *keys]
    return header, [_cells(row, keys) for row in rows]


def _cells(row: dict[str, str], keys: Sequence[str]) -> list[str]:
    """One row; of the exercises of notebooks that were not returned it says so."""
    returned = [row[k] for k in keys if k in row]
    right = sum(v == say("right") for v in returned)
    absent = str(texts("common")["grade"]["missing_word"])
    said = [row.get(k, "" if row["problem"] else absent) for k in keys]
    return [row["learner"], str(right), str(len(returned)), row["files"], row["problem"], *said]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write the table as CSV. A cell that a spreadsheet would take for a formula gets an apostrophe."""
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([f"'{c}" if c.startswith(("=", "+", "-", "@", "\t", "\r")) else c for c in row])


def write_html(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], graded: Sequence[Graded]) -> None:
    """Write the table as a page; right cells are green, others orange, and both say it in words."""
    words = texts("common")["grade"]

    def cell(text: str, place: int) -> str:
        kind = (
            ""
            if place < 4
            else "right"
            if text == say("right")
            else "none"
            if text == words["missing_word"]
            else "wrong"
        )
        kind = kind if text else ""
        return f'<td class="{kind}">{escape(text)}</td>'

    lines = ["<tr>" + "".join(f"<th>{escape(h)}</th>" for h in header) + "</tr>"]
    lines += ["<tr>" + "".join(cell(c, i) for i, c in enumerate(row)) + "</tr>" for row in rows]
    notes = f"<p>{escape(WARNING)} {escape(walls_in_words(graded))}</p>"
    write_page(path, words["title"], [STYLE, notes, f'<table class="grades">{"".join(lines)}</table>'])
