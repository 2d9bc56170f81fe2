"""Student, solution and instructor versions: stubs fail their checks with a hint, solutions pass, nothing leaks."""

import os
import re
import sys

import nbformat
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STEMS = ["01-data-and-patch-labels", "02-bags-and-collate", "03-abmil-from-scratch", "04-training-on-gpu", "05-evaluation",
         "06-metastasis-localization"]  # fmt: skip


@pytest.fixture(scope="session")
def workshop(repo):
    sys.path.insert(0, str(repo / "tools"))
    import make_workshop

    yield make_workshop
    sys.path.remove(str(repo / "tools"))


def read(repo, stem):
    return nbformat.read(repo / "notebooks" / f"{stem}.ipynb", as_version=4)


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def execute(notebook, folder):
    from nbclient import NotebookClient

    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


def answers(notebook):
    """What each check cell printed."""
    return [
        "".join(o.get("text", "") for o in c.outputs if o.output_type == "stream" and o.name == "stdout").strip()
        for c in tagged(notebook, "check")
    ]


@pytest.mark.parametrize("stem", STEMS)
def test_versions(repo, workshop, stem):
    source = read(repo, stem)
    n = len(tagged(source, "exercise"))
    assert 3 <= n <= 4 and len(tagged(source, "check")) == len(tagged(source, "solution")) == n
    student, solution, instructor = (
        getattr(workshop, v)(read(repo, stem)) for v in ("student", "solution", "instructor")
    )
    for version in (student, solution, instructor):
        nbformat.validate(version)
    text = "\n".join(c.source for c in student.cells)
    assert not tagged(student, "solution") and "instructor" not in text.lower()
    for cell in tagged(source, "solution"):  # no line of a solution is left, apart from the stub's own first line
        body = [line.strip() for line in cell.source.splitlines() if line.startswith("    ")]
        student_code = "\n".join(c.source for c in student.cells[-30:] if c.cell_type == "code")
        assert not body or not all(line in student_code for line in body)
    assert text.count("<summary>Hint</summary>") == n
    assert (
        len(re.findall(r"^\d\. \*", text.split("### Quiz")[1], re.MULTILINE)) == 5
        and text.count("<summary>Answer</summary>") == 5
    )
    assert "### References" in text
    code = [[c.source for c in v.cells if c.cell_type == "code"] for v in (solution, instructor)]
    assert code[0] == code[1] and "For the instructor" in "\n".join(c.source for c in instructor.cells)
    minutes = sum(m for _, m, _ in workshop.notes(source))
    said = int(re.search(r"about (\d+) minutes", source.cells[0].source)[1])
    assert abs(minutes - said) <= 2, f"the notes add up to {minutes} minutes, the card says {said}"


@pytest.mark.parametrize("stem", STEMS)
def test_stubs_fail_with_a_hint_and_solutions_pass(repo, workshop, stem, tmp_path):
    student, solution = workshop.student(read(repo, stem)), workshop.solution(read(repo, stem))
    if os.environ.get("MIL_TUTORIAL_QUICK"):
        pytest.skip("MIL_TUTORIAL_QUICK is set")
    execute(student, tmp_path)
    for answer in answers(student):
        assert answer.startswith("Not yet: ") and len(answer) > 30, answer
    execute(solution, tmp_path)
    assert answers(solution) == ["Right."] * len(tagged(solution, "check"))


def test_badges_and_addresses_come_from_one_setting(repo):
    sys.path.insert(0, str(repo / "tools"))
    import set_repository

    assert set_repository.main(check=True) == 0
    repository = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    for stem in STEMS:
        assert set_repository.badges(repository, stem) in read(repo, stem).cells[0].source


def test_no_cell_is_a_wall(repo):
    """A cell fits a screen: 45 lines, and 60 for an exercise's check."""
    for stem in STEMS:
        for cell in read(repo, stem).cells:
            assert len(cell.source.splitlines()) <= 60, f"{stem}: {cell.source[:80]}"
