"""From each notebook the versions of a workshop: student, solution, instructor, and slides. `make workshop` calls this.

build/workshop/student/      stubs, hints and checks, no solutions
build/workshop/solution/     every stub filled in, every check answers "Right."
build/workshop/instructor/   the solutions, with notes, minutes and common mistakes
build/workshop/slides/       a deck for each notebook, from its headings and figures; opens without a network
"""

from __future__ import annotations

import copy
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor

from mil_tutorial.commands.course import run_course, table

ROOT = Path(__file__).resolve().parent.parent
SOURCE, EXECUTED, OUT = ROOT / "notebooks", ROOT / "build" / "notebooks", ROOT / "build" / "workshop"
FROM_AFAR = re.compile(
    r'<script src=""></script>|<script type="(?:module|text/x-mathjax-config)">.*?</script>', re.DOTALL
)
NOTE = re.compile(r"<!-- instructor, (\d+) min: (.*?) -->\n?", re.DOTALL)
BADGE = re.compile(r"^\[!\[.*(?:colab|binder).*\n?", re.MULTILINE | re.IGNORECASE)
SETTINGS = """<script>window.MathJax = {tex: {inlineMath: [["$", "$"]]}};</script>
<style>
.reveal section img { max-height: 560px !important; }
.reveal .jp-RenderedHTMLCommon { font-size: 34px !important; line-height: 1.35; }
.reveal table { font-size: 28px; }
.anchor-link { display: none; }
</style>"""
START = """<script src="reveal/dist/reveal.js"></script><script src="reveal/plugin/notes/notes.js"></script>
<script>
Reveal.initialize({hash: true, slideNumber: "c/t", width: 1100, height: 720, plugins: [RevealNotes]});
</script>"""


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


def _typed(cell, kind: str):
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def shown(paragraphs: list[str], section: str) -> list[str]:
    """The paragraphs of a section that fit a slide; formulas, predictions and the recap always."""
    if section == "Exercises":
        return [paragraphs[0], "Work alone for five minutes, then in pairs. The check cell says what is missing."]
    kept, letters = [], 0
    for p in paragraphs:
        letters += len(p)
        formula = "$$" in p or (p.startswith("|") and "$" in p)
        if letters < 420 or section == "Recap" or formula or "**Predict:**" in p:
            kept.append(p)
    return kept


def slides(executed):
    """One slide for each section with its first paragraph, one for each figure; all other words are speaker's notes."""
    cells, section = [], ""
    for cell in executed.cells:
        if cell.cell_type == "code":
            figures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
            if figures and section not in ("", "Exercises"):
                figure = copy.deepcopy(cell)
                figure.outputs = copy.deepcopy(figures)
                cells.append(_typed(figure, "subslide"))
            continue
        for piece in pieces(cell):
            text, spoken = NOTE.sub("", piece).strip(), [f"{m} min. {t}" for m, t in NOTE.findall(piece)]
            if text.startswith("# "):
                cells.append(_typed(nbformat.v4.new_markdown_cell(text.split("\n| |")[0]), "slide"))
                continue
            if text.startswith("#"):
                section = text.splitlines()[0].lstrip("# ")
                if section in ("Quiz", "References"):
                    continue
                paragraphs = [p for p in text.split("\n\n") if p.strip() and "<details>" not in p]
                kept = shown(paragraphs, section)
                spoken += [p for p in paragraphs if p not in kept and section != "Exercises"]
                cells.append(_typed(nbformat.v4.new_markdown_cell("\n\n".join(kept)), "slide"))
            elif section not in ("", "Exercises"):
                spoken.append(text)
            if spoken:
                cells.append(_typed(nbformat.v4.new_markdown_cell("\n\n".join(spoken)), "notes"))
    deck = copy.deepcopy(executed)
    deck.cells = cells
    return deck


def write_slides(executed, name: str, folder: Path) -> None:
    """A reveal.js deck from an executed notebook; reveal.js and MathJax are beside it."""
    from nbconvert import SlidesExporter

    for package, part, copied in (
        ("sphinx_revealjs", "_static/revealjs", "reveal"),
        ("sphinx-mathjax-offline", "static/mathjax", "mathjax"),
    ):
        spec = find_spec(package)
        if spec is None:
            raise SystemExit(f"the slides need {package}. Install the extra: pip install -e '.[site]'")
        if not (folder / copied).exists():
            shutil.copytree(Path(spec.origin).parent / part, folder / copied)
    exporter = SlidesExporter(
        reveal_url_prefix="reveal",
        reveal_theme="white",
        reveal_number="c/t",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        require_js_url="",
        jquery_url="",
        mathjax_url="mathjax/tex-mml-chtml.js",
    )
    page, _ = exporter.from_notebook_node(slides(executed), {"metadata": {"name": name}})
    # nbconvert's page asks the network for require.js, mermaid and MathJax 2. Scripts from the folder do the same.
    page = FROM_AFAR.sub("", page)
    page, places = re.subn(r"<script>\s*require\(.*?</script>", START, page, flags=re.DOTALL)
    if places != 1:
        raise SystemExit(f"nbconvert's slides have changed: {places} places start them, not one. See make_workshop.py.")
    page = page.replace("<head>", f"<head>{SETTINGS}", 1)
    (folder / f"{name}.html").write_text(page, encoding="utf-8")


def main(only: list[str]) -> int:
    """Write all versions, or those that are named."""
    sources = sorted(SOURCE.glob("0*.ipynb"))
    for name, make in (("student", student), ("solution", solution), ("instructor", instructor)):
        if only and name not in only:
            continue
        (OUT / name).mkdir(parents=True, exist_ok=True)
        for source in sources:
            nbformat.write(make(nbformat.read(source, as_version=4)), OUT / name / source.name)
        print(f"{OUT.relative_to(ROOT) / name}: {len(sources)} notebooks")
    if not only or "slides" in only:
        (OUT / "slides").mkdir(parents=True, exist_ok=True)
        for name, executed in executed_notebooks().items():
            write_slides(executed, name, OUT / "slides")
        print(f"{OUT.relative_to(ROOT) / 'slides'}: {len(sources)} decks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
