"""What the lessons promise: short cells, a reading time, results that their text rests on; the appendix, the hour."""

import re
import statistics
from pathlib import Path

import build_notebooks
import measure_notebooks
import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
HOUR, APPENDIX = "mil-in-one-hour", "appendix-training"
SHORT = sorted(p.stem for p in NOTEBOOKS.glob("0[1-4]*.ipynb")) + [HOUR, APPENDIX]


def read(stem):
    return nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)


def words(stem):
    return "\n".join(c.source for c in read(stem).cells if c.cell_type == "markdown")


def printed(notebook):
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def table(notebook, column):
    """The text of the one table that has this column."""
    shown = [
        o.data["text/html"] for c in notebook.cells for o in c.get("outputs", ()) if "text/html" in o.get("data", {})
    ]
    (found,) = [html for html in shown if f">{column}</th>" in html]
    return found


@pytest.mark.parametrize("stem", SHORT)
def test_a_lesson_cell_has_twenty_lines_at_most_but_for_the_model(stem):
    cells = measure_notebooks.lesson_cells(read(stem))
    assert [c for c in cells if len(c.splitlines()) > 21 and "class ABMIL" not in c] == []
    assert statistics.median(measure_notebooks.measure(NOTEBOOKS / f"{stem}.ipynb").lines) <= 12


@pytest.mark.parametrize("stem", SHORT)
def test_it_is_read_in_fifty_minutes(stem):
    measured = measure_notebooks.measure(NOTEBOOKS / f"{stem}.ipynb")
    assert measured.words > 200 and 3 < measured.minutes <= 50


@pytest.mark.parametrize("stem", SHORT[:4])
def test_each_ends_with_do_and_dont_and_asks_something_in_its_middle(stem):
    notebook = read(stem)
    assert "| DO | DON'T |" in words(stem).split("## Recap")[1]
    first = next(i for i, c in enumerate(notebook.cells) if "exercise" in c.metadata.get("tags", []))
    assert first < 0.7 * len(notebook.cells), "no exercise before the end"


@pytest.mark.parametrize("stem", SHORT[:4])
def test_no_test_slide_before_notebook_5(stem):
    code = "\n".join(c.source for c in read(stem).cells if c.cell_type == "code")
    assert not re.search(r"""(bags|split)\(["']test["']|data\.example\b""", code)


def test_the_one_hour_notebook_has_the_hubs_form():
    text = words(HOUR)
    parts = ["Title and overview", "Introduction", "Prerequisites", "Hands-on", "Challenges and limitations", "Further"]
    assert [p for p in parts if p not in re.findall(r"^## \d\. ([\w -]+?)(?: reading)?$", text, re.MULTILINE)] == []
    for word in ("**Video:**", "**Real-world use**", "**Pitfalls**", "**Known limits.**", "**Ethics.**"):
        assert word in text
    top = read(HOUR).cells[0].source
    assert all(f"({site}" in top for site in ("https://colab.", "https://mybinder.", "https://kaggle."))


def test_a_line_that_no_cell_or_two_cells_hold_is_told():
    cell = nbformat.v4.new_code_cell("# class ABMIL(nn.Module):", metadata={"tags": ["from-03"]})
    assert "compute_loss" in build_notebooks.borrowed(cell).source
    for line, count in (("no such line", 0), ("mil_tutorial import", r"\d+")):
        cell.source = line
        with pytest.raises(SystemExit, match=rf"^{count} cells of script 03 hold the line"):
            build_notebooks.borrowed(cell)
    plain = nbformat.v4.new_code_cell("1 + 1", metadata={"tags": ["exercise"]})
    assert build_notebooks.borrowed(plain) is plain


@pytest.mark.notebooks(HOUR)
def test_the_one_hour_notebook_runs_and_finds_the_tumour(executed):
    run, notebook = executed(HOUR)
    assert not run.error and run.peak <= 2 * 2**30
    assert "which is tumour" in printed(notebook) and "Not yet: " in printed(notebook)
    assert float(re.search(r"test AUC ([\d.]+)", run.result)[1]) > 0.85


@pytest.mark.heavy
@pytest.mark.notebooks(APPENDIX)
def test_the_appendix_runs(executed):
    run, notebook = executed(APPENDIX)
    assert not run.error and run.result.startswith("resumed weights the same: True")
    padded = table(notebook, "loss changes by")
    assert len(re.findall("<tr", padded)) == 6 and "TransMIL" in padded


@pytest.mark.notebooks("02-bags-and-collate")
def test_notebook_2_shows_what_a_leak_is_worth(executed):
    _, notebook = executed("02-bags-and-collate")
    leaks, honest = (
        re.search(rf"{kind} drawn\s+AUC [\d.]+, .* between ([\d.]+) and ([\d.]+)", printed(notebook))
        for kind in ("slides", "patients")
    )
    assert float(leaks[1]) > 0.6, "the leak must show in every study"
    assert float(honest[1]) < 0.5 < float(honest[2])


@pytest.mark.notebooks("03-abmil-from-scratch")
def test_notebook_3_shows_who_keeps_the_assumption(executed):
    run, notebook = executed("03-abmil-from-scratch")
    assert "kept by maximum and noisy-OR" in run.result
    rows = re.findall(r"<tr>(.*?)</tr>", table(notebook, "keeps Y = max(y)"), re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row) for row in rows]
    abmil = [c for c in cells if "ABMIL" in c]
    assert len(abmil) == 3 and all(c[-1] == "NO" for c in abmil)
    assert all(float(c[-4]) > 0.9 and float(c[-3]) < 0.5 for c in abmil[:2]), "splendid in training, wrong after it"


@pytest.mark.notebooks("01-data-and-patch-labels")
def test_notebook_1_shows_the_small_tumour(executed):
    assert "tumor_009" in executed("01-data-and-patch-labels")[0].result


@pytest.mark.notebooks("04-training-on-gpu")
def test_notebook_4_finds_the_small_tumour(executed):
    assert "which is tumour" in printed(executed("04-training-on-gpu")[1])
