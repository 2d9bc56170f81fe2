"""The engine for many machines: a real Dask scheduler, workers, and one of them killed in the middle of a slide."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from small import write_tissue_slide

from mil_tutorial import PrepareOptions, prepare
from mil_tutorial.commands import engine
from mil_tutorial.commands.engine import run_tasks
from mil_tutorial.commands.main import main
from mil_tutorial.devices import threads
from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.slides.encoders import PatchEncoder

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
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
        worker = self._start("worker", "--scheduler-file", self.file, *options)
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
    """Every file of a run: arrays bit by bit, other files by digest.

    Records and times are left out, and hidden files, which a killed worker left and nobody reads.
    """
    values = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(("record-", ".")):
            continue
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                value = {key: (dataset[:], attributes(dataset)) for key, dataset in file.items()}
        else:
            value = hashlib.sha256(path.read_bytes()).hexdigest()
        values[path.relative_to(folder).as_posix()] = value
    return values


def attributes(dataset):
    return sorted(str(item) for item in dataset.attrs.items() if item[0] != "crc32")


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


@pytest.mark.heavy
@posix
def test_results_and_failures_are_those_of_one_machine(cluster, tmp_path):
    for _ in range(2):
        cluster.add_worker()
    tasks = {f"task {i}": (i, str(tmp_path)) for i in range(12)}
    there = run_tasks(logged_double, tasks, scheduler=str(cluster.file), progress=False)
    assert there[0] == {f"task {i}": 2 * i for i in range(12) if i != 7} and there[1] == {"task 7": "seven: is refused"}
    assert all((tmp_path / f"{i}.log").read_text() == "ran\n" for i in range(12)), "a task ran twice"
    assert run_tasks(logged_double, tasks, progress=False) == there


@pytest.mark.heavy
@posix
@pytest.mark.parametrize("seed", range(int(os.environ.get("MIL_TUTORIAL_KILLS", "1"))))
def test_a_worker_killed_in_the_middle_of_a_slide_changes_nothing(cluster, slides, tmp_path, seed):
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    assert main(["prepare", "--wsi_dir", str(slides), "--job_dir", str(alone)]) == 0
    victim = cluster.add_worker()
    cluster.add_worker()
    command = [sys.executable, "-m", "mil_tutorial", "prepare", "--wsi_dir", slides, "--job_dir", spread]
    command = [str(a) for a in [*command, "--scheduler", cluster.file]]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait = random.Random(seed).uniform(0, 4)
    deadline = time.monotonic() + 120
    while not list(spread.rglob("*")):  # the first slide has begun
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.02)
    time.sleep(wait)
    os.kill(victim.pid, signal.SIGKILL)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    assert "4 slides" in output
    assert_equal_trees(tree(spread), tree(alone))


@pytest.mark.heavy
@posix
def test_labels_and_repeated_training_on_a_cluster(cluster, data, tmp_path):
    cluster.add_worker()
    names = ["tumor_001", "tumor_003", "normal_001"]
    coords = tmp_path / "patches"
    coords.mkdir()
    for name in names:
        (coords / f"{name}_patches.h5").symlink_to(data.trident_dir / "patches" / f"{name}_patches.h5")
        data.mask_path(name)
    common = ["labels", "--csv_path", data.root / "wsi_labels.csv", "--masks_dir", data.root / "masks"]
    common += ["--coords_dir", coords]
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


@pytest.mark.heavy
def test_no_scheduler_is_one_clear_error(capsys, slides, tmp_path):
    command = ["prepare", "--wsi_dir", slides, "--job_dir", tmp_path / "job", "--scheduler", "tcp://127.0.0.1:9"]
    assert main([str(a) for a in command]) == 2
    assert "tcp://127.0.0.1:9: no Dask scheduler answers there" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON"])
def test_a_scheduler_file_that_is_none_is_one_clear_error(tmp_path, text):
    file = tmp_path / "scheduler.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"scheduler\.json: no Dask scheduler answers there"):
        run_tasks(pow, {"a": (2, 3)}, scheduler=str(file), progress=False)


@pytest.mark.parametrize("scheduler", ["", " ", 5, True])
def test_a_scheduler_that_is_no_address_is_refused(scheduler):
    with pytest.raises(ParameterError, match="scheduler: found"):
        run_tasks(pow, {"a": (2, 3)}, scheduler=scheduler, progress=False)


def test_dask_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DataError, match=r"needs Dask, which is not installed. Install it: pip install"):
        run_tasks(pow, {"a": (2, 3)}, scheduler="tcp://127.0.0.1:9", progress=False)


@pytest.fixture
def own_process():
    """A cluster whose workers are threads of this process, as in a user's notebook: its address."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as made:
        yield made.scheduler_address


def threads_of_a_task():
    return torch.get_num_threads()


def refused():
    raise ParameterError("size", 3, "less")


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_users_own_process_stays_as_it_is(own_process, monkeypatch, before):
    kept = []
    monkeypatch.setattr("mil_tutorial.process.keep_freed_memory", lambda: kept.append("memory"))
    engine.set_up_worker.cache_clear()
    with threads(before):
        tasks = {f"{i}": () for i in range(4)}
        results, errors = run_tasks(threads_of_a_task, tasks, scheduler=own_process, progress=False)
        assert set(results.values()) == {1} and not errors, "one thread for each task slot"
        assert torch.get_num_threads() == before
    assert not kept, "only a process of Dask's own keeps freed memory"


@posix
@pytest.mark.parametrize("nanny", [True, False])
def test_a_worker_process_of_dasks_keeps_freed_memory(nanny, monkeypatch, tmp_path):
    """Asked of a worker as it is started by `dask worker`, with and without a nanny."""
    asked = SimpleNamespace(nanny="tcp://127.0.0.1:1" if nanny else None)
    monkeypatch.setattr("distributed.get_worker", lambda: asked)
    monkeypatch.setattr(sys, "argv", ["train.py" if nanny else "/usr/bin/dask", "worker"])
    kept = []
    monkeypatch.setattr("mil_tutorial.process.keep_freed_memory", lambda: kept.append("memory"))
    engine.set_up_worker.cache_clear()
    engine.set_up_worker()
    engine.set_up_worker()
    engine.set_up_worker.cache_clear()
    assert kept == ["memory"]


def test_a_parameter_that_a_worker_refuses_comes_back_as_a_message(own_process):
    results, errors = run_tasks(refused, {"a": ()}, scheduler=own_process, progress=False)
    assert results == {} and errors == {"a": "size: found 3, expected less."}


@pytest.mark.slow
def test_what_a_worker_makes_again_is_told_here(own_process, tmp_path, monkeypatch, capsys):
    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    encoder = PatchEncoder("mean", 64, 3, Mean(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    monkeypatch.setattr("mil_tutorial.commands.prepare.shared_encoder", lambda name: (encoder, torch.device("cpu")))
    wsi, job = tmp_path / "wsi", tmp_path / "job"
    wsi.mkdir()
    for name in ("a", "b"):
        write_tissue_slide(wsi / f"{name}.tif")
    options = PrepareOptions(patch_size=256, mpp=0.25)
    assert prepare(wsi, job, options, scheduler=own_process, progress=False) == {"a": 16, "b": 16}
    output = capsys.readouterr().out
    assert output.count("mpp 0.25 is for slides that do not say it") == 1 and "2 in all" in output
    (features,) = job.rglob("features_mean/b.h5")
    with h5py.File(features, "r+") as file:
        file["features"][3, 1] += 0.1
    prepare(wsi, job, options, scheduler=own_process, progress=False)
    assert capsys.readouterr().out.count("b.h5: was damaged") == 1
    for path in wsi.iterdir():
        write_tissue_slide(path, 29)
    with pytest.raises(DataError, match=r"a\.tif: its pixels are 29 µm wide.* The same holds for b\.tif"):
        prepare(wsi, tmp_path / "other", options, scheduler=own_process, progress=False)
