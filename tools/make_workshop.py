"""From each notebook the versions of a workshop: student, solution, instructor, and slides. `make workshop` calls this.

build/workshop/student/      stubs, hints and checks, no solutions
build/workshop/solution/     every stub filled in, every check answers "Right."
build/workshop/instructor/   the solutions, with notes, minutes and common mistakes
build/workshop/kit/          plans, e-mail, answers to every Predict, questionnaires (also as CSV), a script for a video
build/workshop/slides/       a deck for each notebook, drawn by tools/deck; opens without a network
"""

from __future__ import annotations

import copy
import csv
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from tqdm.auto import tqdm

from mil_tutorial.commands.course import run_course, table
from mil_tutorial.files import written_whole

ROOT = Path(__file__).resolve().parent.parent
SOURCE, EXECUTED, OUT = ROOT / "notebooks", ROOT / "build" / "notebooks", ROOT / "build" / "workshop"
HOUR = SOURCE / "mil-in-one-hour.ipynb"
NOTE = re.compile(r"<!-- instructor, (\d+) min: (.*?) -->\n?", re.DOTALL)
BADGE = re.compile(r"^\[!\[.*(?:colab|binder).*\n?", re.MULTILINE | re.IGNORECASE)


def with_outputs(source: Path):
    """A notebook with the outputs of its executed copy; None if that is missing, has failed, or has other code."""
    notebook, executed = nbformat.read(source, as_version=4), EXECUTED / source.name
    if not executed.exists():
        return None
    ran = [c for c in nbformat.read(executed, as_version=4).cells if c.cell_type == "code"]
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.source for c in ran] != [c.source for c in cells]:
        return None
    for cell, done in zip(cells, ran, strict=True):
        if any(o.output_type == "error" for o in done.outputs):
            return None
        cell.outputs = done.outputs
    return notebook


def executed_notebooks() -> dict:
    """All notebooks with their outputs, by name; the course is executed first if an executed copy cannot be used."""
    sources = sorted(SOURCE.glob("0*.ipynb"))
    if missing := [p.stem for p in sources if with_outputs(p) is None]:
        print(f"executing the notebooks first ({', '.join(missing)} changed)")
        runs = run_course(EXECUTED)
        print(table(runs))
        if any(r.error for r in runs):
            raise SystemExit(1)
    return {p.stem: with_outputs(p) for p in sources}


def tags(cell) -> list[str]:
    """Tags of a cell."""
    return cell.metadata.get("tags", [])


def pieces(cell) -> list[str]:
    """The text of a Markdown cell without badges, cut before each heading."""
    return [t.strip() for t in re.split(r"(?m)^(?=##+ )", BADGE.sub("", cell.source)) if t.strip()]


def notes(notebook) -> list[tuple[str, int, str]]:
    """Heading, minutes and note of each section that has one."""
    found = []
    for piece in (p for cell in notebook.cells if cell.cell_type == "markdown" for p in pieces(cell)):
        if note := NOTE.search(piece):
            found.append((piece.splitlines()[0].lstrip("# "), int(note[1]), note[2]))
    return found


def without_notes(notebook):
    """A copy without the notes for instructors."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = NOTE.sub("", cell.source)
    return notebook


def student(notebook):
    """Stubs, hints and checks, no solutions."""
    remover = TagRemovePreprocessor(remove_cell_tags={"solution"}, enabled=True)
    return remover.preprocess(without_notes(notebook), {})[0]


def _filled(notebook):
    """Each stub replaced by its solution; what the solution shows at the end follows the check."""
    cells, stub = [], None
    for cell in notebook.cells:
        if "exercise" in tags(cell):
            stub = len(cells)
        if "solution" in tags(cell):
            cell.metadata = {"tags": ["solution"]}  # open
            answer, found, rest = cell.source.partition("\nassert check.")
            if stub is None or not found:
                raise SystemExit(f"a solution has no stub before it or no `assert check....`:\n{cell.source}")
            cells[stub].source, cells[stub].metadata = answer.strip(), {"tags": ["solution"]}
            cell.source, stub = found.strip() + rest, None
            cell.metadata = {}
        cells.append(cell)
    notebook.cells = cells
    return notebook


def solution(notebook):
    """Every stub filled in."""
    return _filled(without_notes(notebook))


def instructor(notebook):
    """The solutions, with a plan at the top and notes where they are needed."""
    plan = "\n".join(f"| {heading} | {minutes} |" for heading, minutes, _ in notes(notebook))
    total = sum(minutes for _, minutes, _ in notes(notebook))
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = NOTE.sub(r"> **For the instructor, \1 min.** \2\n", cell.source)
    head = nbformat.v4.new_markdown_cell(
        f"**Instructor's version.** {total} minutes in class.\n\n| section | minutes |\n|---|---|\n{plan}"
    )
    head["id"] = "instructor-plan"
    notebook.cells.insert(1, head)
    return _filled(notebook)


def deck_of(name: str) -> list:
    """The slides of a notebook: its chapter, its exercises, what gives one away, and what to take home."""
    from deck import exercises, look

    look.use_look()
    chapter = list(import_module(f"deck.chapter{int(name[:2])}").slides())
    late = [slide for slide in chapter if slide.late]
    return [s for s in chapter if not s.late] + exercises.exercises(name) + late + [exercises.take_home(name)]


def write_decks(folder: Path, names: list[str]) -> None:
    """One HTML file for each notebook; a figure that the last row could not read stops it."""
    import matplotlib

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: other programs may work beside this one
    matplotlib.use("agg")
    from deck import look, page

    folder.mkdir(parents=True, exist_ok=True)
    for name in tqdm(names, desc="Drawing slides", unit="deck"):
        slides = deck_of(name)
        if wrong := [f"{s.title}: {fault}" for s in slides if s.figure for fault in look.faults(s.figure)]:
            raise SystemExit(f"slides of {name} cannot be read:\n" + "\n".join(wrong))
        with written_whole(folder / f"{name}.html") as temporary:
            temporary.write_text(page.deck(slides, name), encoding="utf-8")


def questions(text: str) -> list[dict[str, str]]:
    """The questions of a questionnaire, for a form: number, question, kind, choices."""
    rows = []
    for number, question, kind in re.findall(r"(?m)^(\d+)\. (.+) \(([^()]+)\)$", text):
        choices = [] if kind == "text" else [c.strip() for c in kind.split("|")]
        rows.append(
            {
                "number": number,
                "question": question,
                "kind": "choice" if choices else "text",
                "choices": ";".join(choices),
            }
        )
    return rows


def write_kit(folder: Path) -> None:
    """The teacher's pages, and the questionnaires as tables for a form."""
    for source in sorted((ROOT / "site" / "workshop").glob("*.md")):
        text = source.read_text(encoding="utf-8")
        with written_whole(folder / source.name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        if source.name.startswith("questions-"):
            with (
                written_whole(folder / f"{source.stem}.csv") as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, ["number", "question", "kind", "choices"])
                writer.writeheader()
                writer.writerows(questions(text))


def main(only: list[str]) -> int:
    """Write all versions, or those that are named."""
    sources = sorted(SOURCE.glob("0*.ipynb"))
    for name, make in (("student", student), ("solution", solution), ("instructor", instructor)):
        if only and name not in only:
            continue
        (OUT / name).mkdir(parents=True, exist_ok=True)
        chosen = sources if make is instructor else [*sources, HOUR]  # nobody wrote notes into the hour
        for source in chosen:
            nbformat.write(make(nbformat.read(source, as_version=4)), OUT / name / source.name)
        print(f"{OUT.relative_to(ROOT) / name}: {len(chosen)} notebooks")
    if not only or "kit" in only:
        write_kit(OUT / "kit")
        print(f"{OUT.relative_to(ROOT) / 'kit'}: the teacher's pages")
    if not only or "slides" in only:
        write_decks(OUT / "slides", [p.stem for p in sources])
        print(f"{OUT.relative_to(ROOT) / 'slides'}: {len(sources)} decks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
