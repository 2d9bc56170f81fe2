"""The fault matrix: every command, disturbed, and run again. `make test-faults` prints the table; CI runs a sample.

    python tests/faults/matrix.py [--times 20] [--seed 0] [--only train ...]

Commands run in a forked child of a process that has imported everything, so a trial takes about a second. After each
disturbance: files that are visible are whole and right, and the same command, run again, ends with the values of an
undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import torch

from mil_tutorial import open_data, open_slide
from mil_tutorial.commands.main import main as command_line
from mil_tutorial.commands.prepare import shared_encoder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from small import RUN, copy_root, write_pyramid

torch.set_num_threads(1)
cv2.setNumThreads(0)  # children are forked, and a pool of threads does not survive that
HERE = Path(__file__).resolve().parent.parent.parent
SLIDES = {
    "train": [f"{kind}_{i:03d}" for kind in ("normal", "tumor") for i in range(1, 6)],
    "test": ["test_001", "test_002", "test_005", "test_006"],
}


@dataclass
class Job:
    """A command to disturb: how its inputs are laid out, its arguments, what it writes, and a source to replace."""

    name: str
    lay_out: Callable[[Path], None]
    arguments: Callable[[Path], list]
    outputs: tuple[str, ...]  # folders of results, relative to the work folder
    unfinished: tuple[str, ...] = ()  # parts that may differ while the work goes on
    replace: Callable[[Path], None] | None = None


# -- inputs


def make_base(base: Path) -> None:
    """What all trials copy: a small tree of the synthetic slides, two tiny slides with masks, a trained checkpoint."""
    data = open_data("")
    root = copy_root(data, base / "root", SLIDES)
    tiny = base / "tiny"
    for folder in ("images", "masks"):
        (tiny / folder).mkdir(parents=True)
    for name, source in (("tumor_a", "tumor_003"), ("tumor_b", "tumor_001"), ("other", "tumor_005")):
        patches, marks = (data.trident_dir / part for part in ("patches", "patch_labels"))
        with h5py.File(patches / f"{source}_patches.h5") as a, h5py.File(marks / f"{source}.h5") as b:
            x, y = a["coords"][:][np.flatnonzero(b["patch_labels"][:] == 1)[0]].tolist()
        for kind, path in (("images", data.slide_path(source)), ("masks", data.mask_path(source))):
            with open_slide(path) as slide:
                region = np.asarray(slide.read_region((x - 512, y - 512), 0, (2048, 2048)))[:, :, :3]
            file = tiny / kind / (f"{name}.tif" if kind == "images" else f"{name}_mask.tif")
            write_pyramid(file, region if kind == "images" else region[:, :, 0], 0.243)
    for kind, ending in (("images", ".tif"), ("masks", "_mask.tif")):
        (base / "other").mkdir(exist_ok=True)
        shutil.move(tiny / kind / f"other{ending}", base / "other" / f"other{ending}")
    pd.DataFrame({"wsi_name": ["tumor_a", "tumor_b"], "wsi_label": [1, 1]}).to_csv(tiny / "wsi_labels.csv", index=False)
    quiet(["prepare", "--wsi_dir", tiny / "images", "--job_dir", base / "prepared", "--patch_size", 128])
    quiet(["train", "--data", root, "--epochs", 2, "--out", base / "model" / "abmil.pt"])


def quiet(arguments: list) -> None:
    """A command that must succeed, in a child."""
    code, said = wait(start(arguments, Path(tempfile.gettempdir()) / f"quiet.{os.getpid()}.log"))
    assert code == 0, said


def tree_of(base: Path):
    def lay_out(work: Path) -> None:
        shutil.copytree(base / "root", work / "root")

    return lay_out


def swap_features(work: Path) -> None:
    """A slide's features become those of another with as many patches; if there is none, they are moved a little."""
    folder = work / "root" / RUN / "features_efficientnet_lite0"
    for name in ("normal_001", "test_001"):
        with h5py.File(folder / f"{name}.h5", "r+") as file:
            file["features"][...] = file["features"][...] * 1.5
            file["features"].attrs.pop("crc32", None)  # another good file, not a damaged one


def jobs(base: Path) -> list[Job]:
    """All commands."""

    def tiny(work):
        shutil.copytree(base / "tiny", work / "tiny")

    def tiny_prepared(work):
        tiny(work)
        shutil.copytree(base / "prepared" / "20x_128px_0px_overlap" / "patches", work / "patches")

    def with_model(work):
        tree_of(base)(work)
        shutil.copytree(base / "model", work / "model")

    def fixture(w):
        return ["fixture", "normal_001", "--out", w / "out", "--workers", 1]

    def prepare(w):
        return ["prepare", "--wsi_dir", w / "tiny" / "images", "--job_dir", w / "out", "--patch_size", 128]

    def labels(w):
        source = ["--csv_path", w / "tiny" / "wsi_labels.csv", "--masks_dir", w / "tiny" / "masks"]
        return ["labels", *source, "--coords_dir", w / "patches", "--save_dir", w / "out"]

    def train(w):
        result = ["--out", w / "out" / "abmil.pt", "--checkpoint", w / "out" / "steps", "--resume"]
        return ["train", "--data", w / "root", "--epochs", 4, *result]

    def shared(work):
        shutil.copytree(base / "root" / RUN / "features_efficientnet_lite0", work / "shared" / "h5_files")

    def bring(w):
        return ["import", w / "shared", w / "out", "--encoder", "e"]

    def swap_shared(work):
        with h5py.File(work / "shared" / "h5_files" / "normal_001.h5", "r+") as file:
            file["features"][...] = file["features"][...] * 1.5
            file["features"].attrs.pop("crc32", None)

    def asking(command):
        return lambda w: [command, "--data", w / "root", "--checkpoint", w / "model" / "abmil.pt", "--out", w / "out"]

    def another(kind, name):
        return lambda w: shutil.copy(base / "other" / f"other{name}", w / "tiny" / kind / f"tumor_a{name}")

    packed = f"root/{RUN}/packed_efficientnet_lite0"
    swap, out = swap_features, ("out",)
    return [
        Job("fixture", lambda work: None, fixture, out),
        Job("prepare", tiny, prepare, out, replace=another("images", ".tif")),
        Job("labels", tiny_prepared, labels, out, replace=another("masks", "_mask.tif")),
        Job("import", shared, bring, out, replace=swap_shared),
        Job("pack", tree_of(base), lambda w: ["pack", "--data", w / "root"], (packed,), replace=swap),
        Job("train", tree_of(base), train, out, unfinished=("steps",), replace=swap),
        Job("evaluate", with_model, asking("evaluate"), out, replace=swap),
        Job("localize", with_model, asking("localize"), out, replace=swap),
    ]


# -- running and comparing


def start(arguments: list, log: Path, before: Callable[[], None] | None = None) -> tuple[int, Path]:
    """Fork, set the child up, run a command in it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            if before:
                before()
            code = command_line([str(a) for a in arguments])
        except BaseException:  # what a user would see as a traceback
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    return child, log


def wait(started: tuple[int, Path], seconds: float = 300) -> tuple[int, str]:
    """Exit code (negative: the signal) and what was said."""
    child, log = started
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"a command hung for {seconds} s")
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    return code, log.read_text(errors="replace") if log.exists() else ""


def without_root_rights() -> None:
    """Root writes wherever it likes, unless it gives its capabilities away."""
    if os.getuid() != 0:
        return
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    none = (ctypes.c_uint32 * 6)()
    # SECBIT_NOROOT, locked: programs that this process starts do not get the capabilities back.
    if library.prctl(28, 3, 0, 0, 0) != 0 or library.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given away")


def content(path: Path):
    """What a file says: arrays and attributes of h5, tensors of a checkpoint, the bytes of anything else."""
    if path.suffix == ".h5":
        found = hashlib.sha256()
        with h5py.File(path) as file:
            for key in sorted(file):
                found.update(
                    key.encode()
                    + file[key][...].tobytes()
                    + repr(sorted((k, str(v)) for k, v in file[key].attrs.items())).encode()
                )
        return found.hexdigest()
    if path.suffix == ".pt":
        return repr(_plain(torch.load(path, weights_only=True)))
    if path.name == "index.json":  # of the packed store: times of its sources differ from trial to trial
        return repr([(s["name"], s["start"], s["stop"]) for s in json.loads(path.read_text())["slides"]])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(value):
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.numpy().tobytes()).hexdigest(), tuple(value.shape)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def results(job: Job, work: Path, partly: bool = False) -> dict:
    """Every visible file of the results and what it says. Records hold times and are left out."""
    found = {}
    for folder in job.outputs:
        for path in sorted((work / folder).rglob("*")):
            parts = path.relative_to(work / folder).parts
            if not path.is_file() or any(p.startswith(".") for p in parts) or path.name.startswith("record-"):
                continue
            if partly and parts[0] in job.unfinished:
                continue
            found["/".join((folder, *parts))] = content(path)
    return found


def sources(job: Job, work: Path) -> dict[str, str]:
    """Digests of everything that is not a result."""
    kept = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if (
            path.is_file()
            and not name.startswith(job.outputs)
            and "/." not in f"/{name}"  # something temporary, inside or beside the results
            and not path.name.startswith("record-")
        ):
            kept[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return kept


class Trial:
    """One job, disturbed many times, always in a folder of the same name, as reports name their files."""

    def __init__(self, job: Job, work: Path, rng: random.Random):
        self.job, self.work, self.rng, self.log = job, work, rng, work.with_suffix(".log")
        self.fresh()
        began = time.monotonic()
        code, said = self.run()
        self.seconds = time.monotonic() - began
        assert code == 0, f"{job.name} fails undisturbed: {said[-800:]}"
        self.expected = results(job, work)
        assert self.expected, f"{job.name} wrote nothing"
        self.largest = max(
            p.stat().st_size for folder in job.outputs for p in (work / folder).rglob("*") if p.is_file()
        )

    def fresh(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.job.lay_out(self.work)
        self.before = sources(self.job, self.work)

    def run(self, before=None) -> tuple[int, str]:
        return wait(start(self.job.arguments(self.work), self.log, before))

    def check_partial(self) -> None:
        """What is visible is whole and right; what was there before is untouched."""
        for name, value in results(self.job, self.work, partly=True).items():
            assert self.expected.get(name) == value, f"{name} is there and is not what it should be"
        now = sources(self.job, self.work)
        touched = sorted(n for n in now.keys() | self.before.keys() if now.get(n) != self.before.get(n))
        assert not touched, f"a source was touched: {touched[:4]}"

    def check_whole(self, code: int, said: str) -> None:
        assert code == 0, f"run again: exit code {code}: {said[-600:]}"
        found = results(self.job, self.work)
        wrong = [n for n in self.expected if found.get(n) != self.expected[n]] + [
            n for n in found if n not in self.expected
        ]
        assert not wrong, f"differs from an undisturbed run: {wrong[:4]}"

    def kill_somewhere(self, earliest: float = 0.0) -> None:
        """Start the command and kill it at a random moment, from a share of its usual time to just after its end."""
        started = start(self.job.arguments(self.work), self.log)
        time.sleep(self.rng.uniform(earliest, 1.02) * self.seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(started[0], signal.SIGKILL)
        wait(started)

    # the disturbances

    def killed(self) -> None:
        self.kill_somewhere()
        self.check_partial()
        self.check_whole(*self.run())

    def disk_full(self) -> None:
        limit = int(self.largest * self.rng.uniform(0, 0.999))

        def little_room():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails, as on a full disk
            nowhere = os.open(os.devnull, os.O_WRONLY)  # the log is a file, too, and must not be what fails
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        code, said = self.run(little_room)
        assert code == 2, f"with room for {limit} of {self.largest} bytes: exit code {code}: {said[-600:]}"
        self.check_partial()
        self.check_whole(*self.run())

    def read_only(self) -> None:
        folder = self.work / Path(self.job.outputs[0]).parts[0]
        target = self.work / Path(self.job.outputs[0]).parent if len(Path(self.job.outputs[0]).parts) > 1 else folder
        target.mkdir(exist_ok=True)
        modes = {p: p.stat().st_mode for p in (self.work, target, *target.rglob("*")) if p.is_dir()}
        for path in modes:
            path.chmod(0o555)

        code, said = self.run(without_root_rights)
        for path, mode in modes.items():
            path.chmod(mode)
        assert code == 2 and any(w in said for w in ("rights", "may write", "Permission denied")), (
            f"read-only: exit code {code}: {said[-600:]}"
        )
        if target == folder and not any(target.iterdir()):
            target.rmdir()
        self.check_partial()
        self.check_whole(*self.run())

    def two_at_once(self) -> None:
        first = start(self.job.arguments(self.work), self.log)
        time.sleep(self.rng.uniform(0, 0.8 * self.seconds))
        second = start(self.job.arguments(self.work), self.log.with_suffix(".log2"))
        for code, said in (wait(first), wait(second)):
            assert code == 0, f"beside another process: exit code {code}: {said[-600:]}"
        self.check_whole(*self.run())

    def source_replaced(self) -> None:
        if self.rng.random() < 0.5:
            self.run()
        else:
            self.kill_somewhere(0.3)
        self.job.replace(self.work)
        code, said = self.run()
        found = results(self.job, self.work)
        if code == 2:  # refused: then a file is named
            assert str(self.work) in said, said[-400:]
            return
        assert code == 0, f"after its source was replaced: exit code {code}: {said[-600:]}"
        for folder in self.job.outputs:
            shutil.rmtree(self.work / folder, ignore_errors=True)
        code, said = self.run()
        assert code == 0 and found == results(self.job, self.work), "results of the old source were kept in silence"

    def clock_set_back(self) -> None:
        self.kill_somewhere()
        year = 365 * 86_400
        for path in self.work.rglob("*"):  # everything seems to be of next year
            with contextlib.suppress(OSError):
                os.utime(path, (time.time() + year, time.time() + year))
        real = time.time

        def earlier():
            time.time = lambda: real() - year

        self.check_whole(*self.run(earlier))


FAULTS = ("killed", "disk_full", "read_only", "two_at_once", "source_replaced", "clock_set_back")


def matrix(times: int, seed: int, only: list[str] | None = None, faults=FAULTS) -> tuple[dict, list[str]]:
    """Run it: {(command, fault): trials that went well}, and what went wrong."""
    table, wrong = {}, []
    folder = Path(tempfile.mkdtemp(prefix="mil-faults-"))
    folder.chmod(0o755)
    try:
        make_base(folder / "base")
        shared_encoder("efficientnet_lite0")  # children inherit it
        for job in jobs(folder / "base"):
            if only and job.name not in only:
                continue
            rng = random.Random(f"{seed} {job.name}")
            trial = Trial(job, folder / f"work-{job.name}", rng)
            for fault in faults:
                if fault == "source_replaced" and job.replace is None:
                    continue
                for i in range(times):
                    trial.fresh()
                    try:
                        getattr(trial, fault)()
                        table[job.name, fault] = table.get((job.name, fault), 0) + 1
                    except AssertionError as error:
                        table.setdefault((job.name, fault), 0)
                        wrong.append(f"{job.name}, {fault}, number {i}: {error}")
                        print(wrong[-1], flush=True)
                print(f"{job.name:10} {fault:16} {table.get((job.name, fault), 0)} of {times}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return table, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    args = parser.parse_args()
    table, wrong = matrix(args.times, args.seed, args.only, args.faults)
    names = sorted({job for job, _ in table}, key=[j.name for j in jobs(Path())].index)
    print("\n" + " ".join([f"{'':10}", *(f"{f.replace('_', ' '):>16}" for f in args.faults)]))
    for name in names:
        cells = [f"{table[name, f]}/{args.times}" if (name, f) in table else "no source" for f in args.faults]
        print(" ".join([f"{name:10}", *(f"{c:>16}" for c in cells)]))
    print("\n".join(wrong) or "nothing lost, nothing silently wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
