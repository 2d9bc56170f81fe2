"""`mil-tutorial course`: kernels get the data root, this process keeps its environment."""

import json
import os

import nbformat
import pytest

from mil_tutorial.commands import course
from mil_tutorial.commands.main import main

CODE = "import os; print('Key result:', os.environ.get('MIL_TUTORIAL_DATA'), os.environ.get('OMP_WAIT_POLICY'))"


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Two notebooks in place of the course's: one prints its environment, one fails."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, code in (("01-environment", CODE), ("02-fails", "raise SystemError('on purpose')")):
        cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    monkeypatch.setattr(course, "notebook_folder", lambda: folder)
    return folder


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("a kernel would have been started")

    monkeypatch.setattr(course, "run_notebook", refuse)


def test_the_notebooks_of_the_checkout_are_found(repo):
    assert course.notebook_folder() == repo / "notebooks"


def test_kernels_get_the_data_root_and_this_process_keeps_its_environment(notebooks, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    before = dict(os.environ)
    (ran,) = course.run_course(tmp_path / "out", only="01", data=tree)
    assert ran.result == f"{tree} PASSIVE" and not ran.error and ran.peak > 1e6
    assert dict(os.environ) == before
    copy = nbformat.read(ran.copy, as_version=4)
    assert [c.source for c in copy.cells] == ["# Title", CODE] and not (tmp_path / "out" / "course.json").exists()


def test_without_data_kernels_have_the_environment_of_this_process(notebooks, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    (ran,) = course.run_course(tmp_path / "out", only="01")
    assert ran.result == "None None"


def test_a_relative_data_root_in_the_environment_reaches_the_kernels(notebooks, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree.parent)
    monkeypatch.setenv("MIL_TUTORIAL_DATA", tree.name)
    (ran,) = course.run_course(tmp_path / "out", only="01")
    assert ran.result.startswith(str(tree))


def test_a_notebook_that_fails_does_not_stop_the_others(notebooks, tmp_path, capsys):
    assert main(["course", "--out", str(tmp_path / "out")]) == 1
    assert "FAILED: SystemError: on purpose" in capsys.readouterr().out
    measured = json.loads((tmp_path / "out" / "course.json").read_text())
    assert [(m["name"], bool(m["error"])) for m in measured] == [("01-environment", False), ("02-fails", True)]


@pytest.mark.parametrize("only", ["07", "", "environment"])
def test_a_wrong_only_is_told_before_a_kernel_starts(notebooks, no_kernel, capsys, only):
    assert main(["course", "--only", only]) == 2
    message = f"--only: found {only!r}, expected the beginning of one of 01-environment, 02-fails"
    assert message in capsys.readouterr().err


def test_a_wrong_data_root_is_told_before_a_kernel_starts(notebooks, no_kernel, tmp_path, capsys, monkeypatch):
    assert main(["course", "--data", str(tmp_path)]) == 2
    assert f"{tmp_path}: this is not a data root" in capsys.readouterr().err
    monkeypatch.setenv("MIL_TUTORIAL_DATA", str(tmp_path / "nothing"))
    assert main(["course"]) == 2
    assert f"{tmp_path / 'nothing'}: this is not a data root" in capsys.readouterr().err


def test_a_wrong_trident_run_is_told_before_a_kernel_starts(notebooks, no_kernel, capsys, monkeypatch):
    monkeypatch.setenv("MIL_TUTORIAL_RUN", "5x_512px_0px_overlap")
    assert main(["course"]) == 2
    assert "5x_512px_0px_overlap: there is no such TRIDENT run" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_told_before_a_kernel_starts(notebooks, no_kernel, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["course", "--out", str(tmp_path / "file")]) == 2
    assert f"{tmp_path / 'file'}: cannot be written to" in capsys.readouterr().err
