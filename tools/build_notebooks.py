"""Build notebooks/*.ipynb from notebooks/scripts/*.py with jupytext, without outputs. `--check` only compares.

A cell tagged `from-04` is not written where it stands but taken from script 04: its one line is a line of the cell that
is meant. Other tags beside it, such as `exercise`, must be tags of that cell, too.

A line `{quiz}` in a script becomes the notebook's quiz, from `mil_tutorial/exercises/texts`.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import jupytext
import nbformat

from mil_tutorial.exercises.quizzes import quiz_markdown

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
FROM = "from-"


@cache
def read(script: Path):
    """A script as a notebook."""
    return jupytext.read(script, fmt="py:percent")


def borrowed(cell):
    """The cell of another script that a cell tagged `from-…` names."""
    tags = cell.metadata.get("tags", [])
    source = next((t.removeprefix(FROM) for t in tags if t.startswith(FROM)), None)
    if source is None:
        return cell
    wanted, line = {t for t in tags if not t.startswith(FROM)}, cell.source.strip().removeprefix("# ")
    scripts = list((NOTEBOOKS / "scripts").glob(f"{source}-*.py"))
    cells = [c for script in scripts for c in read(script).cells if c.cell_type == "code" and line in c.source]
    found = [c for c in cells if wanted <= set(c.metadata.get("tags", []))]
    if len(found) != 1:
        raise SystemExit(
            f"{len(found)} cells of script {source} hold the line {line!r}, expected one. Name another line."
        )
    return found[0].copy()


def build(script: Path) -> str:
    """The notebook of one script, as text; the same text every time."""
    notebook = nbformat.from_dict(read(script))
    notebook.cells = [borrowed(cell) for cell in notebook.cells]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"  # nbformat's own ids are random
        tags = cell.metadata.get("tags", [])
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell.cell_type == "markdown" and "{quiz}" in cell.source:
            cell["source"] = cell.source.replace("{quiz}", quiz_markdown(int(script.name[:2])))
        if "solution" in tags:  # closed until the learner opens it, in JupyterLab and on Colab
            cell["metadata"].update({"jupyter": {"source_hidden": True}, "cellView": "form"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1) + "\n"


def main(check: bool) -> int:
    """Write the notebooks, or say which of them differ from their scripts."""
    stale = []
    for script in sorted((NOTEBOOKS / "scripts").glob("*.py")):
        target, text = NOTEBOOKS / f"{script.stem}.ipynb", build(script)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target.name)
            if not check:
                target.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'differ from their scripts, run `make notebooks`' if check else 'built'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
