"""Shared by all tests: the synthetic data root, its slides, executed notebooks, and real files where there are some."""

import atexit
import gc
import os
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
os.environ.setdefault("MIL_TUTORIAL_CACHE", str(HERE / "build" / "cache"))
os.environ.pop("MIL_TUTORIAL_DATA", None)
os.environ.pop("MIL_TUTORIAL_RUN", None)
os.environ["MIL_TUTORIAL_PROGRESS"] = "off"  # tests are not what a learner has solved
for _name in ("no_proxy", "NO_PROXY"):  # servers of tests are on this machine
    os.environ[_name] = f"{os.environ.get(_name, '')},127.0.0.1".strip(",")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads, as the command does: tests run beside others

gc.disable()  # until the tests are loaded

collect_ignore = ["faults/fuzz.py", "faults/matrix.py"]  # programs for Linux, and no examples in their docstrings

TUMOR = "tumor_003"


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items):
    """What is heavy, or needs the executed notebooks, is slow, too; one process runs all tests of a notebook."""
    for item in items:
        if marked := item.get_closest_marker("notebooks"):
            stem = marked.args[0] if marked.args else item.callspec.params["stem"]
            item.add_marker(pytest.mark.xdist_group(stem))
        if item.get_closest_marker("heavy") or item.get_closest_marker("notebooks"):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """What the tests have loaded stays: Python need not go through it again and again for garbage."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)


@pytest.fixture(scope="session")
def repo():
    return HERE


@pytest.fixture(scope="session")
def data():
    from mil_tutorial import open_data

    return open_data()


@pytest.fixture(scope="session")
def tumor_slide(data):
    """Name of a tumour slide that is drawn."""
    data.slide_path(TUMOR)
    return TUMOR


@pytest.fixture(scope="session")
def real():
    """Folder of a few real files; not part of the repository."""
    folder = Path(os.environ.get("MIL_TUTORIAL_REAL", HERE.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip("no real files here; name their folder in MIL_TUTORIAL_REAL")
    return folder


@pytest.fixture
def tree(data, tmp_path):
    """A small data root of one's own: four training and two test slides of the fixture, features only."""
    from small import copy_root

    splits = {"train": ["normal_001", "normal_002", "tumor_001", "tumor_002"], "test": ["test_001", "test_005"]}
    return copy_root(data, tmp_path / "root", splits)


@pytest.fixture(scope="session")
def executed():
    """A function that executes a notebook as `mil-tutorial course` does: once in a session, whichever tests ask for it.

    It gives the run and the notebook with its outputs. The copy stays in build/notebooks, so that `make site` need not
    execute it again.
    """
    import nbformat

    from mil_tutorial.commands.course import run_notebook

    done = {}

    def execute(stem):
        if stem not in done:
            run = run_notebook(HERE / "notebooks" / f"{stem}.ipynb", HERE / "build" / "notebooks" / f"{stem}.ipynb")
            done[stem] = run, nbformat.read(run.copy, as_version=4)
        return done[stem]

    return execute
