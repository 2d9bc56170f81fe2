"""`mil-tutorial course`: kernels get the data root, this process keeps its environment."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
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

    monkeypatch.setattr(course, "_run_notebook", refuse)


def test_the_notebooks_of_the_checkout_are_found(repo):
    assert course.notebook_folder() == repo / "notebooks"


@pytest.mark.slow
def test_kernels_get_the_data_root_and_this_process_keeps_its_environment(notebooks, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    before = dict(os.environ)
    (ran,) = course.run_course(tmp_path / "out", only="01", data=tree)
    assert ran.result == f"{tree} PASSIVE" and not ran.error and ran.peak > 1e6
    assert dict(os.environ) == before
    copy = nbformat.read(ran.copy, as_version=4)
    assert [c.source for c in copy.cells] == ["# Title", CODE] and not (tmp_path / "out" / "course.json").exists()


@pytest.mark.slow
def test_the_memory_is_the_notebooks_own(notebooks, tmp_path):
    program = (
        "import sys; from pathlib import Path; from mil_tutorial.commands.course import run_notebook;"
        "large = bytearray(1 << 28); large[::4096] = bytes(1 << 16);"
        "print(run_notebook(Path(sys.argv[1]), Path(sys.argv[2])).peak)"
    )
    arguments = [notebooks / "01-environment.ipynb", tmp_path / "out.ipynb"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < 2e8


@pytest.mark.slow
def test_threads_of_kernels_sleep_while_they_wait_unless_the_environment_says_else(notebooks, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    (ran,) = course.run_course(tmp_path / "out", only="01")
    assert ran.result == "None PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    (ran,) = course.run_course(tmp_path / "out", only="01")
    assert ran.result == "None ACTIVE"


@pytest.mark.slow
def test_a_relative_data_root_in_the_environment_reaches_the_kernels(notebooks, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree.parent)
    monkeypatch.setenv("MIL_TUTORIAL_DATA", tree.name)
    (ran,) = course.run_course(tmp_path / "out", only="01")
    assert ran.result.startswith(str(tree))


@pytest.mark.slow
def test_a_notebook_that_fails_does_not_stop_the_others(notebooks, tmp_path, capsys):
    assert main(["course", "--out", str(tmp_path / "out")]) == 1
    assert "FAILED: SystemError: on purpose" in capsys.readouterr().out
    measured = json.loads((tmp_path / "out" / "course.json").read_text())
    assert [(m["name"], bool(m["error"])) for m in measured] == [("01-environment", False), ("02-fails", True)]


@pytest.mark.slow
def test_kernels_side_by_side_share_the_processors(notebooks, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    code = "import os; print('Key result:', os.environ.get('OMP_NUM_THREADS'))"
    for name in ("01-environment", "02-fails"):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, notebooks / f"{name}.ipynb")
    assert [r.result for r in course.run_course(tmp_path / "out", jobs=2)] == ["2", "2"]
    assert [r.result for r in course.run_course(tmp_path / "out", jobs=1)] == ["None", "None"]


MEET = """
import time
from pathlib import Path
Path("{me}").touch()
for _ in range(300):
    if Path("{other}").exists():
        break
    time.sleep(0.1)
else:
    raise SystemError("the other one never came")
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_two_run_at_the_same_time(tmp_path, monkeypatch, jobs):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for me, other in (("01", "02"), ("02", "01")):
        code = MEET.format(me=me, other=other).replace("range(300)", f"range({300 if jobs == 2 else 5})")
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), folder / f"{me}-meets.ipynb")
    monkeypatch.setattr(course, "notebook_folder", lambda: folder)
    runs = course.run_course(tmp_path / "out", jobs=jobs)
    assert [r.name for r in runs] == ["01-meets", "02-meets"]
    assert [bool(r.error) for r in runs] == ([False, True] if jobs == 1 else [False, False]), "the last one begins"


def test_a_wrong_number_of_jobs_is_told_before_a_kernel_starts(notebooks, no_kernel, capsys):
    assert main(["course", "--jobs", "0"]) == 2
    assert "--jobs: found 0, expected a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_ends_the_kernels(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    code = "import os, time; open(f'pid {os.getpid()}', 'w').close(); time.sleep(600)"
    for name in ("01", "02"):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), folder / f"{name}.ipynb")
    program = (
        "import sys; from pathlib import Path; from mil_tutorial.commands import course, main;"
        f"course.notebook_folder = lambda: Path({str(folder)!r});"
        f"sys.exit(main.main(['course', '--jobs', '2', '--out', {str(tmp_path / 'out')!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if len(kernels := list((tmp_path / "out").glob("pid *"))) == 2:
            break
        time.sleep(0.1)
    assert len(kernels) == 2
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped" in said
    for _ in range(100):
        left = [k.name for k in kernels if psutil.pid_exists(int(k.name.split()[1]))]
        if not left:
            break
        time.sleep(0.1)
    assert not left


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
