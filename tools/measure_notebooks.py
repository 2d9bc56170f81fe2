"""How long the notebooks take to read, and how long their cells are: `python tools/measure_notebooks.py`.

Reading time: 200 words of Markdown a minute, formulas, tables, hints and answers included; 3 seconds for a line of code
in a lesson cell; 15 seconds for a figure. Set-up cells, checks, solutions, notes for instructors, badges and references
are not read. Doing the exercises comes on top; the card's minutes have it.
"""

from __future__ import annotations

import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
WORDS_A_MINUTE, SECONDS_A_LINE, SECONDS_A_FIGURE = 200, 3, 15
NOT_READ = {"setup", "exercise", "check", "solution", "result"}
LEFT_OUT = re.compile(r"<!--.*?-->|\[!\[[^\n]*|\]\([^)\n]*\)|<[^>]*>|### References.*?(?=\*\*Next|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Measured:
    """A notebook in numbers.

    Attributes:
        words: of Markdown that is read.
        lines: of code in each lesson cell.
        figures: calls of `plt.show()` in lesson cells.
    """

    words: int
    lines: list[int]
    figures: int

    @property
    def minutes(self) -> float:
        """Reading time."""
        seconds = sum(self.lines) * SECONDS_A_LINE + self.figures * SECONDS_A_FIGURE
        return self.words / WORDS_A_MINUTE + seconds / 60


def lesson_cells(notebook) -> list[str]:
    """The code that a reader reads."""
    cells = (c for c in notebook.cells if c.cell_type == "code")
    return [c.source for c in cells if not NOT_READ & set(c.metadata.get("tags", []))]


def measure(path: Path) -> Measured:
    """Words, lines and figures of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    code = lesson_cells(notebook)
    words = re.findall(r"[\w'’-]*\w[\w'’-]*", LEFT_OUT.sub(" ", text))
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in code]
    return Measured(len(words), lines, sum("plt.show()" in source for source in code))


def main() -> int:
    """Print the table."""
    print(f"{'notebook':<28} minutes  words  figures  cells  lines: median, longest, cells over 20")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        m = measure(path)
        lengths = f"{statistics.median(m.lines):6.0f}, {max(m.lines)}, {sum(n > 20 for n in m.lines)}"
        print(f"{path.stem:<28} {m.minutes:7.0f} {m.words:6} {m.figures:8} {len(m.lines):6}  {lengths}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
