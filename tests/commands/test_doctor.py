"""`mil-tutorial doctor`: a good machine is ready; each thing that is missing is named, with a remedy of one line."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import Future
from importlib import metadata

import pytest

from mil_tutorial.commands import checks_of_machine as checks
from mil_tutorial.commands import doctor
from mil_tutorial.commands.main import main
from mil_tutorial.fixture.tree import ENCODER, RUN, fixture_root

Disk, Memory = namedtuple("Disk", "free"), namedtuple("Memory", "available total")


def kernel_that(says):
    future = Future()
    future.set_exception(says) if isinstance(says, Exception) else future.set_result(says)
    return future


def refused(check, *arguments):
    """What a check says that is not content."""
    with pytest.raises(checks.NotReady) as caught:
        check(*arguments)
    fault = caught.value
    assert fault.found and fault.remedy and "\n" not in fault.found + fault.remedy
    return fault


@pytest.mark.slow
def test_a_machine_that_runs_the_tests_is_ready(capsys, monkeypatch):
    monkeypatch.setattr(checks, "pins", lambda checkout: {})  # the tests also run with other versions
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "This laptop is ready" in out and ": ready | Python" in out and "BAD" not in out
    assert [name for name, _ in checks.CHECKS if f"  {name} " not in out] == []


def test_ipython_is_loaded_whole_before_the_kernels_thread_begins():
    code = """
import sys
from mil_tutorial.commands import checks_of_machine as checks

assert "IPython" not in sys.modules
checks.ThreadPoolExecutor = lambda n: sys.exit(0 if hasattr(sys.modules["IPython"], "version_info") else 1)
checks.start_kernel()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_fault_makes_it_not_ready_and_the_other_checks_run(capsys, monkeypatch):
    ran = []

    def broken():
        raise RuntimeError("a library\ndoes not load")

    monkeypatch.setattr(checks, "CHECKS", [("figure", broken), ("cores", lambda: ran.append(1) or "2 cores")])
    monkeypatch.setattr(checks, "start_kernel", lambda: None)
    monkeypatch.setattr(checks, "check_kernel", lambda kernel: "starts")
    assert main(["doctor"]) == 1 and ran == [1]
    out = capsys.readouterr().out
    assert "BAD   figure     RuntimeError: a library does not load\n        -> " in out
    assert "NOT ready" in out and "not ready: figure |" in out
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is False and [c["state"] for c in found["checks"]] == ["bad", "ok", "ok"]


@pytest.mark.parametrize(("version", "note"), [((3, 9, 1), False), ((3, 14, 0), True)])
def test_other_pythons(monkeypatch, version, note):
    monkeypatch.setattr(checks.sys, "version_info", version)
    assert refused(checks.check_python).only_note is note


def test_packages_that_are_old_missing_or_not_as_tested(monkeypatch):
    true_version = metadata.version

    def pretend(**versions):
        def version(name):
            if versions.get(name, "") is None:
                raise metadata.PackageNotFoundError(name)
            return versions.get(name) or true_version(name)

        monkeypatch.setattr(metadata, "version", version)

    pretend(torch="1.0", h5py=None)
    fault = refused(checks.check_packages)
    assert not fault.only_note and "torch 1.0, needed >=" in fault.found and "h5py is missing" in fault.found
    pretend(torch="99.0")
    fault = refused(checks.check_packages)
    assert fault.only_note and "torch 99.0" in fault.found


def test_the_extras_of_the_course_are_among_what_is_needed():
    names = {r.name for r in checks.requirements()}
    assert {"torch", "jupyterlab", "torchmil", "xstatic-leaflet"} <= names
    assert not names & {"sphinx", "pytest", "mil-tutorial"}


@pytest.mark.parametrize(("free", "note"), [(0.1, False), (1.5, True)])
def test_a_full_disk_and_a_full_memory(monkeypatch, free, note):
    import psutil

    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: Disk(free * 2**30))
    fault = refused(checks.check_disk)
    assert fault.only_note is note and "MIL_TUTORIAL_CACHE" in fault.remedy
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(free * 2**30, 8 * 2**30))
    assert refused(checks.check_memory).only_note is (free >= checks.MEMORY[0])


@pytest.mark.slow
def test_features_that_are_damaged_or_gone(monkeypatch, tmp_path):
    shutil.copytree(fixture_root(), tmp_path / "root", ignore=shutil.ignore_patterns("*.tif", "*.xml"))
    monkeypatch.setattr("mil_tutorial.fixture.tree.fixture_root", lambda: tmp_path / "root")
    path = tmp_path / "root" / "trident_processed" / RUN / f"features_{ENCODER}" / "normal_001.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    assert "normal_001.h5 is damaged" in refused(checks.check_features).found
    shutil.copyfile(path.with_name("normal_002.h5"), path)  # a good file in the wrong place
    assert "not those that were shipped" in refused(checks.check_features).found
    path.unlink()
    assert "normal_001.h5 is missing" in refused(checks.check_features).found


@pytest.mark.parametrize(
    ("says", "found"),
    [
        (RuntimeError("port in use"), "no kernel starts"),
        (ImportError("no", name="jupyter_client"), "jupyter_client is not installed"),
        ("/other/python|True", "another Python"),
        (f"{checks.sys.prefix}|False", "does not find"),
    ],
)
def test_kernels_that_do_not_help(says, found):
    assert found in refused(checks.check_kernel, kernel_that(says)).found


def test_no_network_is_no_fault(monkeypatch):
    def no_network(*arguments):
        raise OSError("unreachable")

    monkeypatch.setattr(checks.socket, "create_connection", no_network)
    assert refused(checks.check_network).only_note


def test_the_line_for_the_teacher_names_no_folder(tmp_path):
    text = doctor.summary([doctor.Answer("disk", "bad", str(tmp_path), "x")])
    assert "not ready: disk" in text and str(tmp_path) not in text
