"""Student, solution and instructor versions: no solution leaks, every stub gets its solution, the minutes add up."""

import re
from pathlib import Path

import make_workshop
import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
STEMS = sorted(p.stem for p in NOTEBOOKS.glob("0*.ipynb"))


def read(stem):
    return nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def code(notebook):
    return [c.source for c in notebook.cells if c.cell_type == "code"]


def words(notebook):
    return "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


@pytest.mark.parametrize("stem", STEMS)
def test_students_get_everything_but_solutions_and_notes(stem):
    source, student = read(stem), make_workshop.student(read(stem))
    nbformat.validate(student)
    solutions = [c.source for c in tagged(source, "solution")]
    assert code(student) == [text for text in code(source) if text not in solutions]
    assert len(tagged(student, "exercise")) == len(tagged(student, "check")) == len(solutions)
    assert not tagged(student, "solution") and "instructor" not in "\n".join(c.source for c in student.cells).lower()
    for text in solutions:  # nor does another cell hold what the solution adds to the stub
        body = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        tail = "\n".join(code(student)[-30:])
        assert not body or not all(line in tail for line in body)
    assert words(student).count("<summary>Hint</summary>") == len(solutions)


@pytest.mark.parametrize("stem", STEMS)
def test_solutions_stand_where_the_stubs_stood(stem):
    source, solution = read(stem), make_workshop.solution(read(stem))
    nbformat.validate(solution)
    n = len(tagged(source, "solution"))
    stubs = {c.source for c in tagged(source, "exercise")}
    assert not tagged(solution, "exercise") and not stubs & set(code(solution))
    assert len(tagged(solution, "solution")) == n and sum(t.startswith("assert check.") for t in code(solution)) == n
    instructor = make_workshop.instructor(read(stem))
    nbformat.validate(instructor)
    assert code(instructor) == code(solution) and "For the instructor" in words(instructor)


@pytest.mark.parametrize("stem", STEMS)
def test_quiz_references_and_minutes(stem):
    source = read(stem)
    quiz = words(source).split("### Quiz")[1].split("### References")[0]
    questions = len(re.findall(r"^\*\*\d\.\*\* ", quiz, re.MULTILINE))
    assert questions >= 5 and quiz.count("<strong>Right.</strong>") == questions
    assert quiz.count("<details") == 3 * questions and "{quiz}" not in quiz
    assert "### References" in words(source)
    minutes = sum(m for _, m, _ in make_workshop.notes(source))
    promised = int(re.search(r"about (\d+) minutes", source.cells[0].source)[1])
    assert abs(minutes - promised) <= 2, f"the notes add up to {minutes} minutes, the card says {promised}"


@pytest.mark.heavy
@pytest.mark.notebooks
@pytest.mark.parametrize("version", ["student", "solution"])
@pytest.mark.parametrize("stem", STEMS)
def test_versions_run(stem, version, tmp_path):
    """The whole of both versions, not only the cells that test_notebooks sees in the source's own run."""
    from mil_tutorial.commands.course import run_notebook

    path = tmp_path / version / f"{stem}.ipynb"
    path.parent.mkdir()
    nbformat.write(getattr(make_workshop, version)(read(stem)), path)
    run = run_notebook(path, tmp_path / "run" / path.name)
    assert not run.error
    checks = tagged(nbformat.read(run.copy, as_version=4), "check")
    answers = ["".join(o.get("text", "") for o in c.outputs if o.get("name") == "stdout").strip() for c in checks]
    if version == "solution":
        assert answers == ["Right."] * len(checks)
    else:
        assert all(a.startswith("Not yet: ") and len(a) > 30 for a in answers), answers
