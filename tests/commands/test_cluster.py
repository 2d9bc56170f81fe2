"""The engine for many machines: a real Dask scheduler, worker processes, and one of them killed in the middle of a slide."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from mil_tutorial.commands.main import main
from mil_tutorial.commands.engine import run_tasks
from mil_tutorial.errors import DataError

pytest.importorskip("distributed", reason="pip install -e '.[cluster]' brings Dask")
posix = pytest.mark.skipif(sys.platform == "win32", reason="kills workers with a signal")


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder):
        self.folder, self.file, self.workers, self.processes = folder, folder / "scheduler.json", [], []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.file)
        deadline = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.1)

    def _start(self, *arguments):
        with open(self.folder / "dask.log", "a") as log:
            command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *map(str, arguments[1:])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)
        self.processes.append(process)
        return process

    def add_worker(self):
        worker = self._start(
            "worker",
            "--scheduler-file",
            self.file,
            "--no-nanny",
            "--nthreads",
            "1",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
        )
        self.workers.append(worker)
        return worker

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def slides(tmp_path_factory, data):
    """Four synthetic slides in a folder of their own."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("tumor_001", "tumor_003", "normal_001", "normal_002"):
        source = data.slide_path(name)
        (folder / source.name).symlink_to(source)
    return folder


def tree(folder):
    """Every file of a run: arrays bit by bit, other files by digest; records and times are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(
            ("record-", ".")
        ):  # hidden: what a killed worker left; not whole, not read
            continue
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                value = {
                    k: (file[k][:], sorted(str(a) for a in file[k].attrs.items() if a[0] != "crc32")) for k in file
                }
        else:
            value = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(folder).as_posix()] = value
    return found


def assert_equal_trees(one, other):
    """Everything equal; features up to the rounding of another number of threads, 1e-4 of their largest value."""
    assert list(one) == list(other)
    for name, value in one.items():
        if isinstance(value, str):
            assert value == other[name], name
            continue
        for key, (array, attributes) in value.items():
            there, there_attributes = other[name][key]
            assert attributes == there_attributes and array.dtype == there.dtype and array.shape == there.shape, name
            if key == "features":
                assert np.abs(array - there).max() <= 1e-4 * np.abs(array).max(), name
            else:
                assert np.array_equal(array, there), name


def logged_double(value, folder):
    """A task that leaves a line for each time it ran."""
    with open(os.path.join(folder, f"{value}.log"), "a") as file:
        file.write("ran\n")
    time.sleep(0.05)
    if value == 7:
        raise DataError("seven: is refused")
    return 2 * value


@posix
def test_results_and_failures_are_those_of_one_machine(cluster, tmp_path):
    for _ in range(2):
        cluster.add_worker()
    tasks = {f"task {i}": (i, str(tmp_path)) for i in range(12)}
    there = run_tasks(logged_double, tasks, str(cluster.file), progress=False)
    assert there[0] == {f"task {i}": 2 * i for i in range(12) if i != 7} and there[1] == {"task 7": "seven: is refused"}
    assert all((tmp_path / f"{i}.log").read_text() == "ran\n" for i in range(12)), "a task ran twice"
    assert run_tasks(logged_double, tasks, None, progress=False) == there


@posix
@pytest.mark.parametrize("seed", range(int(os.environ.get("MIL_TUTORIAL_KILLS", "1"))))
def test_a_worker_killed_in_the_middle_of_a_slide_changes_nothing(cluster, slides, tmp_path, seed):
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    assert main(["prepare", "--wsi_dir", str(slides), "--job_dir", str(alone)]) == 0
    victim = cluster.add_worker()
    cluster.add_worker()
    command = [
        sys.executable,
        "-m",
        "mil_tutorial",
        "prepare",
        "--wsi_dir",
        str(slides),
        "--job_dir",
        str(spread),
        "--scheduler",
        str(cluster.file),
    ]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait = random.Random(seed).uniform(0, 4)
    deadline = time.monotonic() + 120
    while not list(spread.rglob("*")):  # the first slide has begun
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.02)
    time.sleep(wait)
    os.kill(victim.pid, signal.SIGKILL)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert "4 slides" in said
    assert_equal_trees(tree(spread), tree(alone))


@posix
def test_labels_and_repeated_training_on_a_cluster(cluster, data, tmp_path):
    cluster.add_worker()
    names = ["tumor_001", "tumor_003", "normal_001"]
    coords = tmp_path / "patches"
    coords.mkdir()
    for name in names:
        (coords / f"{name}_patches.h5").symlink_to(data.trident_dir / "patches" / f"{name}_patches.h5")
        data.mask_path(name)
    common = [
        "labels",
        "--csv_path",
        data.root / "wsi_labels.csv",
        "--masks_dir",
        data.root / "masks",
        "--coords_dir",
        coords,
    ]
    for folder, more in (("alone", []), ("spread", ["--scheduler", cluster.file])):
        assert main([str(a) for a in [*common, "--save_dir", tmp_path / folder, *more]]) == 0
    assert_equal_trees(tree(tmp_path / "alone"), tree(tmp_path / "spread"))

    short = ["repeat", "--folds", "2", "--seeds", "0", "--epochs", "2", "--models", "ABMIL", "max pooling"]
    for folder, more in (("here", []), ("there", ["--scheduler", cluster.file])):
        assert main([str(a) for a in [*short, "--out", tmp_path / folder, *more]]) == 0
    for file in sorted((tmp_path / "here").glob("*fold*.json")):
        both = [json.loads((tmp_path / folder / file.name).read_text()) for folder in ("here", "there")]
        here, there = (np.array(result["probabilities"]) for result in both)
        assert np.abs(here - there).max() < 1e-4, "workers may round otherwise, not more"


def test_no_scheduler_is_one_clear_error(capsys, slides, tmp_path):
    code = main(
        ["prepare", "--wsi_dir", str(slides), "--job_dir", str(tmp_path / "job"), "--scheduler", "tcp://127.0.0.1:9"]
    )
    assert code == 2 and "no Dask scheduler answers" in capsys.readouterr().err
