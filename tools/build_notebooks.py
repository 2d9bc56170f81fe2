"""Build notebooks/*.ipynb from notebooks/scripts/*.py with jupytext, without outputs. `--check` only compares.

A line `{quiz}` in a script becomes the notebook's quiz, from `mil_tutorial/exercises/texts`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat

from mil_tutorial.exercises.quizzes import quiz_markdown

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def build(script: Path) -> str:
    """The notebook of one script, as text; the same text every time."""
    notebook = jupytext.read(script, fmt="py:percent")
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
    for script in sorted((NOTEBOOKS / "scripts").glob("0*.py")):
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
