"""Build the website into build/site: executed notebooks, pages, API. `make site` calls this; Sphinx's warnings are errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from make_workshop import BADGE, tags, without_notes

from mil_tutorial import open_data, open_slide, view_heatmap
from mil_tutorial.course import run_course, table
from mil_tutorial.labels import read_patch_labels
from mil_tutorial.trident import read_patches

ROOT = Path(__file__).resolve().parent.parent
SOURCE, EXECUTED, PAGES, OUT = (
    ROOT / "notebooks",
    ROOT / "build" / "notebooks",
    ROOT / "site" / "notebooks",
    ROOT / "build" / "site",
)
MIME = ("image/png", "text/html", "text/plain")


def with_outputs(source: Path):
    """A notebook with the outputs of its executed copy; None if that is missing, failed, or was made from other code."""
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


def alt_text(cells: list, place: int) -> str:
    """What a figure shows, in words: the "What to see" that follows it, else its section's heading."""
    for cell in cells[place + 1 : place + 4]:
        if cell.cell_type == "markdown" and (
            found := re.search(r"\*What to see: (.*?)\*(?:\n\n|\n#|\Z)", cell.source, re.DOTALL)
        ):
            return re.sub(r"[*`$\\]", "", " ".join(found[1].split()))
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.get("outputs", ())):
            break
    headings = [
        h for c in cells[:place] if c.cell_type == "markdown" for h in re.findall(r"^#+ (.+)$", c.source, re.MULTILINE)
    ]
    return f"Figure of the section {headings[-1]}" if headings else "Figure"


def page(notebook):
    """The notebook as the site shows it: set-up and solutions closed, figures with a text, no badges (the site has buttons)."""
    notebook = without_notes(notebook)
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub("", cell.source)
            continue
        kind = tags(cell)
        closed = {"setup": "hide-cell", "solution": "hide-cell"}
        cell.metadata = {"tags": kind + [closed[k] for k in kind if k in closed]}
        prompts = {"setup": "Show the set-up", "solution": "Show the solution"}
        settings = cell.metadata["mystnb"] = {}
        for name in prompts.keys() & set(kind):
            settings["code_prompt_show"] = prompts[name]
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


def write_viewer(path: Path) -> None:
    """A page with the viewer for one synthetic tumour slide, scored by the model that notebook 6 trains."""
    executed = EXECUTED / "outputs"
    made = sorted(executed.glob("*.html"))
    if made:
        shutil.copy(made[0], path)
        return
    data = open_data("")  # the notebook's outputs were removed: show the ground truth's share instead
    name = data.split("test")["wsi_name"].iloc[0]
    patches = read_patches(data.trident_dir / "patches" / f"{name}_patches.h5")
    labels = read_patch_labels(data.trident_dir / "patch_labels" / f"{name}.h5", len(patches.coords))
    with open_slide(data.slide_path(name)) as slide:
        view_heatmap(
            slide,
            patches.coords,
            patches.geometry.patch_size_level0,
            {"label": labels.astype(float)},
            labels,
            name,
            html=path,
        )


def main() -> int:
    """Execute what is not executed yet, and build."""
    sources = sorted(SOURCE.glob("0*.ipynb"))
    if missing := [p.stem for p in sources if with_outputs(p) is None]:
        print(f"executing the notebooks first ({', '.join(missing)} changed)")
        runs = run_course(EXECUTED)
        print(table(runs))
        if any(r.error for r in runs):
            return 1
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    for source in sources:
        nbformat.write(page(with_outputs(source)), PAGES / source.name)
    (ROOT / "build").mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(ROOT / "build" / "doctrees"),
    ]
    done = subprocess.run([*command, str(ROOT / "site"), str(OUT)], check=False)
    if done.returncode == 0:
        write_viewer(OUT / "_static" / "viewer.html")
        print(f"the site lies in {OUT.relative_to(ROOT)}: open {OUT.relative_to(ROOT) / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
