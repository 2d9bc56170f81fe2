"""The notebooks: built from their scripts in the form that the course wants; executed once, with the right answers."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
STEMS = sorted(p.stem for p in NOTEBOOKS.glob("0*.ipynb"))
PARTS = ["You will be able to", "## In ", "## Exercises", "## Recap", "### Quiz", "What to see", "Key result:"]


@pytest.fixture(scope="module")
def scripts():
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted((NOTEBOOKS / "scripts").glob("0*.py"))}


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def printed(cell):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout").strip()


@pytest.mark.slow
def test_there_are_six_built_from_their_scripts(scripts):
    assert list(scripts) == STEMS and len(STEMS) == 6
    build = Path(__file__).resolve().parents[2] / "tools" / "build_notebooks.py"
    done = subprocess.run([sys.executable, build, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_each_has_the_parts_that_the_course_wants(scripts):
    for name, text in scripts.items():
        for part in PARTS:
            assert part in text, f"{name} lacks {part!r}"
        for tag in ("exercise", "check", "solution", "setup"):
            assert f'tags=["{tag}"]' in text, f"{name} has no cell tagged {tag}"
        assert not re.search(r"(?<![\w.])/(home|data|tmp|work|root)/", text), f"{name} holds an absolute path"
        assert "CUDA_VISIBLE_DEVICES" not in text


def test_figures_are_explained(scripts):
    """Each figure, or group of figures in one section, is followed by words that say what to see."""
    for name, text in scripts.items():
        assert text.count("What to see:") >= 2, name


def test_the_set_up_cell_is_the_same_everywhere(scripts, repo):
    cells = {text.split('# %% tags=["setup"]\n')[1].split("# %%")[0].strip() for text in scripts.values()}
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (cell,) = cells
    assert project["urls"]["Repository"] in cell


def test_threads_of_a_notebook_sleep_while_they_wait(scripts, repo):
    """Beside one busy program notebook 3 took 75 s in place of 9 s. It must come before torch is loaded."""
    setup = (text.split('# %% tags=["setup"]\n')[1].split("# %%")[0] for text in scripts.values())
    for cell in {c.strip() for c in setup}:
        code = f"import sys\n{cell}\nimport os; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert run.stdout.split() == ["False", "PASSIVE"]


@pytest.mark.parametrize("stem", STEMS)
def test_no_cell_is_a_wall(stem):
    """A cell fits a screen: 45 lines, and 60 for an exercise's check."""
    for cell in nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells:
        assert len(cell.source.splitlines()) <= 60, cell.source[:80]


@pytest.mark.parametrize("stem", STEMS)
def test_every_solution_ends_in_an_assertion_of_its_check(stem):
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    order = [t for c in notebook.cells for t in c.metadata.get("tags", []) if t in ("exercise", "check", "solution")]
    assert order == ["exercise", "check", "solution"] * (len(order) // 3) and len(order) in (9, 12, 15)
    for cell in tagged(notebook, "solution"):
        assert re.search(
            r"^assert check\.\w+\.accepts\(.*\)( or not data\.synthetic  # .*)?$", cell.source, re.MULTILINE
        ), cell.source
    number = int(stem[:2])
    for cell in tagged(notebook, "check"):  # two lines, which hold no answer
        first, empty, last = cell.source.splitlines()
        assert first == f"from mil_tutorial.exercises import notebook_{number} as check" and not empty
        exercise = getattr(importlib.import_module(f"mil_tutorial.exercises.notebook_{number}"), last[6:].split("(")[0])
        assert last == f"check.{exercise.name}({', '.join(exercise.takes)})"


@pytest.mark.notebooks
@pytest.mark.parametrize("stem", STEMS)
def test_it_runs_in_the_memory_that_is_promised(executed, stem):
    run, _ = executed(stem)
    assert not run.error and run.result
    assert run.peak <= 2 * 2**30


@pytest.mark.notebooks
@pytest.mark.parametrize("stem", STEMS)
def test_one_process_executes_it(request, stem):
    """pytest-xdist notes the group of a test behind its name, or forgets it without a word beside some pytests."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith(f"@{stem}"), "several processes execute this notebook"


@pytest.mark.notebooks
@pytest.mark.parametrize("stem", STEMS)
def test_stubs_fail_their_checks_with_a_hint_and_solutions_pass(executed, stem):
    """In one run: a check cell stands between stub and solution, and the solution asserts the check's "Right."."""
    run, notebook = executed(stem)
    assert not run.error
    for cell in tagged(notebook, "check"):
        assert printed(cell).startswith("Not yet: ") and len(printed(cell)) > 30, cell.source
    assert all(cell.execution_count for cell in tagged(notebook, "solution"))
