"""Build the website into build/site: executed notebooks, pages, API. `make site` calls it; a warning is an error."""

from __future__ import annotations

import base64
import itertools
import re
import shutil
import subprocess
import sys

import api_pages
import draw_glossary
import nbformat
from make_workshop import BADGE, EXECUTED, ROOT, SOURCE, executed_notebooks, tags, with_outputs, without_notes

from mil_tutorial.commands.course import run_notebook

PAGES, OUT = ROOT / "site" / "notebooks", ROOT / "build" / "site"
CLOSED = {"setup": "Show the set-up", "solution": "Show the solution"}
MIME = ("image/png", "text/html", "text/plain")
WHAT_TO_SEE = re.compile(r"\*What to see: (.*?)\*(?:\n\n|\n#|\Z)", re.DOTALL)


def alt_text(cells: list, place: int) -> str:
    """What a figure shows, in words: the "What to see" that follows it, else its section's heading."""
    for cell in cells[place + 1 : place + 4]:
        if cell.cell_type == "markdown" and (words := WHAT_TO_SEE.search(cell.source)):
            return re.sub(r"[*`$\\]", "", " ".join(words[1].split()))
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.get("outputs", ())):
            break
    before = "\n".join(c.source for c in cells[:place] if c.cell_type == "markdown")
    headings = re.findall(r"^#+ (.+)$", before, re.MULTILINE)
    return f"Figure of the section {headings[-1]}" if headings else "Figure"


def page(notebook):
    """The notebook as the site shows it: set-up and solutions closed, alt texts, no badges (the site has buttons)."""
    notebook = without_notes(notebook)
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub("", cell.source)
            continue
        kind = tags(cell)
        closed = [CLOSED[k] for k in kind if k in CLOSED]
        cell.metadata = {"tags": kind + ["hide-cell"] * bool(closed)}
        settings = cell.metadata["mystnb"] = {"code_prompt_show": closed[0]} if closed else {}
        if any("image/png" in o.get("data", {}) for o in cell.outputs):
            settings["image"] = {"alt": alt_text(notebook.cells, place)}
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                continue  # progress bars
            if "data" in output:
                if "application/vnd.jupyter.widget-view+json" in output.data:
                    continue  # a progress bar
                output.data = {k: v for k, v in output.data.items() if k in MIME}
                if not output.data:
                    continue
            kept.append(output)
        cell.outputs = kept
    return notebook


def beside_the_course() -> dict:
    """The appendix and the one-hour notebook with their outputs, by name; executed first if they are not yet."""
    found = {}
    for source in sorted(SOURCE.glob("[!0]*.ipynb")):
        if with_outputs(source) is None:
            print(f"executing {source.stem}")
            run = run_notebook(source, EXECUTED / source.name)
            if run.error:
                raise SystemExit(f"{source.stem}: {run.error}")
        found[source.stem] = with_outputs(source)
    return found


def do_and_dont() -> str:
    """One page of all the notebooks' DO / DON'T lists, as Markdown, from their scripts; it prints on one sheet."""
    parts = []
    for script in sorted((ROOT / "notebooks" / "scripts").glob("0*.py")):
        lines = [line.removeprefix("# ") for line in script.read_text(encoding="utf-8").splitlines()]
        if "| DO | DON'T |" not in lines:
            continue
        rows = itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index("| DO | DON'T |") :])
        title = next(line.removeprefix("# ") for line in lines if re.match(r"# \d · ", line))
        parts += [f"**{title}**", "\n".join(rows)]
    words = "The lists of all notebooks. Print this page: it is one sheet."
    return "\n\n".join(["# DO / DON'T", words, ":::{div} do-and-dont", *parts, ":::"]) + "\n"


def save_landing(notebook) -> None:
    """The figures that the first page shows: of cells with a tag such as `landing-guilty`."""
    for cell in notebook.cells:
        for tag in tags(cell):
            if tag.startswith("landing-"):
                images = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
                (PAGES / f"{tag}.png").write_bytes(base64.b64decode(images[-1]))


def copy_viewer() -> None:
    """The page of a slide that notebook 06 writes, and the folder of its tiles, to where the site's frames look."""
    made = sorted((EXECUTED / "outputs").glob("*.html"))
    if not made:
        raise SystemExit(f"{EXECUTED / 'outputs'} holds no viewer page; notebook 06 writes one. Run `make course`.")
    tiles = made[0].with_name(f"{made[0].stem}_tiles")  # the page looks for this name beside it
    shutil.copy(made[0], OUT / "_static" / "viewer.html")
    shutil.copytree(tiles, OUT / "_static" / tiles.name, dirs_exist_ok=True)


def main() -> int:
    """Execute what is not executed yet, and build."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    (PAGES / "do-and-dont.md").write_text(do_and_dont(), encoding="utf-8")
    for name, notebook in {**executed_notebooks(), **beside_the_course()}.items():
        shown = page(notebook)
        save_landing(shown)
        nbformat.write(shown, PAGES / f"{name}.ipynb")
    api_pages.main()
    draw_glossary.main()
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", ROOT / "build" / "doctrees"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options, ROOT / "site", OUT], check=False)
    if done.returncode == 0:
        copy_viewer()
        print(f"the site is in {OUT.relative_to(ROOT)}: open {OUT.relative_to(ROOT) / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
