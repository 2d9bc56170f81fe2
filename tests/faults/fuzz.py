"""Damaged files by the thousand: all that is read, with bytes changed. `make test-fuzz` runs it; CI runs a sample.

    python tests/faults/fuzz.py [--inputs 20000] [--seed 0] [--only features xml ...]

A reader may give a result that holds together, or one `DataError` that names the file. It may not crash the
interpreter, take more than 10 s or 1 GB, raise anything else, or give a result that is impossible (labels other than
1, 0, -1, shapes that do not
fit, NaN features).
Files that this package writes carry checksums: there, what is read must be what was written, to the last bit.
Readers run in a forked child, so that a crash is seen and the next input is tried.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mil_tutorial import DataError, open_data, open_slide, read_canvas, read_detections, write_detections
from mil_tutorial.asking.trained import load_checkpoint
from mil_tutorial.bags.packed import PackedFeatures
from mil_tutorial.commands.record import Record, read_record, record_path
from mil_tutorial.commands.repeat import read_result
from mil_tutorial.files import write_json
from mil_tutorial.hdf5 import count_bad
from mil_tutorial.slides.annotations import read_asap_xml
from mil_tutorial.slides.labels import label_patches
from mil_tutorial.tables import read_label_table
from mil_tutorial.training.checkpoint import load_state
from mil_tutorial.trident import read_features, read_patch_labels, read_patches

sys.path.insert(0, str(Path(__file__).parent))
from matrix import RUN, make_base, quiet

torch.set_num_threads(1)
SECONDS, BYTES = 10, 1 << 30
WORDS = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e999",
    "",
    "9" * 30,
    "\x00",
    "é",
    '"',
    "<",
    ">",
    "&",
    "{",
    "]",
    ",",
    "\n",
    "None",
    "../../x",
]


def damage(data: bytes, rng: random.Random, text: bool) -> bytes:
    """The same bytes with something wrong, mostly near the start, where formats keep what matters."""
    out = bytearray(data)

    def place() -> int:
        reach = rng.choice([64, 512, 4096, len(out), len(out)])
        return rng.randrange(max(1, min(reach, len(out))))

    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        kind = rng.randrange(8 if text else 6)
        at = place()
        if not out:
            break
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            del out[rng.randrange(len(out)) :]
        elif kind == 3:
            n = rng.randrange(1, 64)
            out[at : at + n] = bytes(rng.randrange(256) for _ in range(n))
        elif kind == 4:
            n = rng.choice([2, 4, 8])
            out[at : at + n] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * n
        elif kind == 5:
            n = rng.randrange(1, 256)
            out[at:at] = out[at : at + n]
        elif kind == 6:
            word = rng.choice(WORDS).encode()
            end = min(len(out), at + rng.randrange(12))
            out[at:end] = word
        else:
            lines = bytes(out).split(b"\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            out = bytearray(b"\n".join(lines))
    return bytes(out)


@dataclass
class Target:
    """A good file, a reader that checks what it reads and returns it, and what kind of file it is."""

    good: Path
    read: Callable[[Path], object]
    text: bool = False
    ours: bool = False  # carries checksums: what is read is what was written


def targets(base: Path) -> dict[str, Target]:
    """Everything that is read, by name."""
    run, own = base / "root" / RUN, base / "prepared" / "20x_128px_0px_overlap"
    mask_coords = np.array([[0, 0], [512, 512], [1024, 1024], [1536, 1536]])
    data = open_data("")
    write_detections(base / "detections.csv", np.array([[0.9, 10.0, 20.0], [0.5, 30.5, 40.0]]))
    Record(base, "fuzz", {"a": 1}, [base / "root" / "train.csv"]).write()
    settings = {
        "encoder": "e",
        "model": "ABMIL",
        "fold": 0,
        "folds": 2,
        "seed": 0,
        "epochs": 1,
        "lr": 0.1,
        "inputs": "0",
    }
    result = {"settings": settings, "slides": ["a", "b"], "labels": [0, 1], "probabilities": [0.1, 0.9]}
    result |= {"auc": 1.0, "best_epoch": 0}
    write_json(base / "result.json", result)

    def patches(path):
        found = read_patches(path)
        assert found.coords.ndim == 2 and found.coords.shape[1] == 2 and found.geometry.patch_size_level0 > 0
        return found.coords, repr(found.geometry)

    def features(path):
        found, coords = read_features(path)
        assert found.ndim == 2 and (coords is None or len(coords) == len(found))
        assert count_bad(found) >= 0
        return found, coords

    def patch_labels(path):
        found = read_patch_labels(path)
        assert np.isin(found, (-1, 0, 1)).all()
        return found

    def slide(path):
        with open_slide(path) as opened:
            canvas, rows, columns = read_canvas(opened, np.array([[0, 0], [512, 512]]), 512, px=16)
            assert canvas.dtype == np.uint8 and len(rows) == len(columns) == 2

    def mask(path):
        found = label_patches(path, mask_coords, 512)
        assert np.isin(found.label, (-1, 0, 1)).all() and ((found.fraction >= 0) & (found.fraction <= 1)).all()

    def xml(path):
        found = read_asap_xml(path)
        assert all(np.isfinite(p).all() and p.shape[1] == 2 for p in found.tumor + found.holes)

    def table(path):
        found = read_label_table(path)
        assert found["wsi_label"].isin([0, 1]).all() and found["wsi_name"].is_unique

    def detections(path):
        found = read_detections(path)
        assert found.shape[1:] == (3,) and np.isfinite(found).all()

    def checkpoint(path):
        found = load_checkpoint(path)
        assert 0 <= found.threshold <= 1 or not np.isfinite(found.threshold)
        return [t.numpy() for t in found.model.state_dict().values()], found.threshold, found.encoder

    def steps(path):
        return [t.numpy() for t in load_state(path, {})["model"].values()]

    def store(path):
        opened = PackedFeatures(path.parent)
        return {name: opened.rows(name) for name in opened.slides}

    packed = run / "packed_efficientnet_lite0"
    return {
        "patches h5": Target(run / "patches" / "normal_001_patches.h5", patches),
        "features h5": Target(run / "features_efficientnet_lite0" / "normal_001.h5", features),
        "labels h5": Target(run / "patch_labels" / "tumor_001.h5", patch_labels),
        "own patches h5": Target(own / "patches" / "tumor_a_patches.h5", patches, ours=True),
        "own features h5": Target(own / "features_efficientnet_lite0" / "tumor_a.h5", features, ours=True),
        "own labels h5": Target(own / "patch_labels" / "tumor_a.h5", patch_labels, ours=True),
        "slide tiff": Target(base / "tiny" / "images" / "tumor_a.tif", slide),
        "mask tiff": Target(base / "tiny" / "masks" / "tumor_a_mask.tif", mask),
        "xml": Target(data.annotation_path("tumor_003"), xml, text=True),
        "labels csv": Target(base / "root" / "wsi_labels.csv", table, text=True),
        "detections csv": Target(base / "detections.csv", detections, text=True),
        "checkpoint": Target(base / "model" / "abmil.pt", checkpoint, ours=True),
        "checkpoint of fit": Target(base / "model" / "steps" / "last.pt", steps, ours=True),
        "packed index": Target(packed / "index.json", store, text=True, ours=True),
        "packed features": Target(packed / "features.npy", store, ours=True),
        "packed coords": Target(packed / "coords.npy", store, ours=True),
        "record": Target(record_path(base, "fuzz"), read_record, text=True, ours=True),
        "result": Target(base / "result.json", lambda p: read_result(p, settings), text=True, ours=True),
    }


def fingerprint(value) -> str:
    """The same for the same values: arrays by their bytes, all else by its text."""
    if isinstance(value, np.ndarray):
        return hashlib.sha256(
            f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
        ).hexdigest()
    if isinstance(value, dict):
        return fingerprint(sorted(value.items(), key=lambda item: item[0]))
    if isinstance(value, (list, tuple)):
        return "(" + ",".join(map(fingerprint, value)) + ")"
    return repr(value)


def child(name: str, target: Target, place: Path, numbers: range, seed: int, report: int) -> None:
    """Read damaged inputs one after the other; tell before each which it is, and what went wrong."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a hang ends the child
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    good, written = target.good.read_bytes(), fingerprint(target.read(target.good)) if target.ours else ""
    for i in numbers:
        os.write(report, f"{i}\n".encode())
        place.write_bytes(damage(good, random.Random(f"{seed} {name} {i}"), target.text))
        signal.alarm(SECONDS)
        try:
            found = target.read(place)
            outcome = (
                "wrong values are not those that were written"
                if target.ours and fingerprint(found) != written
                else "read"
            )
        except DataError as error:
            outcome = (
                "refused"
                if place.name in str(error) or str(place.parent) in str(error)
                else f"wrong the error does not name the file: {error!s:.200}"
            )
        except BaseException as error:
            outcome = f"wrong {type(error).__name__}: {error!s:.200}"
        signal.alarm(0)
        os.write(report, f"= {' '.join(outcome.splitlines())}\n".encode())
    os._exit(0)


def fuzz(name: str, target: Target, inputs: int, seed: int, work: Path) -> tuple[Counter, list[str]]:
    """Outcomes of one target, and what went wrong."""
    outcomes, wrong, next_ = Counter(), [], 0
    # The store's files are read by their folder: the damaged one takes its place there.
    folder = work / name.replace(" ", "_")
    shutil.copytree(target.good.parent, folder) if name.startswith("packed") else folder.mkdir()
    place = folder / target.good.name
    while next_ < inputs:
        receive, send = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(receive)
            with contextlib.suppress(BaseException):
                child(name, target, place, range(next_, inputs), seed, send)
            os._exit(71)
        os.close(send)
        current = None
        with os.fdopen(receive, errors="replace") as lines:
            for line in lines:
                line = line.rstrip("\n")
                if line.startswith("= "):
                    outcome = line[2:]
                    outcomes[outcome.split()[0]] += 1
                    if outcome.startswith("wrong"):
                        wrong.append(f"{name}, input {current}: {outcome[6:]}")
                    next_ = current + 1
                else:
                    current = int(line)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            outcomes["crash" if code != -signal.SIGALRM else "hang"] += 1
            wrong.append(
                f"{name}, input {current}: "
                + (f"longer than {SECONDS} s" if code == -signal.SIGALRM else f"the interpreter ended with {code}")
            )
            next_ = (current if current is not None else next_) + 1
    return outcomes, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="in all, shared out among the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="readers whose names contain one of these words")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="mil-fuzz-"))
    began, everything, problems = time.monotonic(), Counter(), []
    try:
        make_base(work / "base")
        root, model = work / "base" / "root", work / "base" / "model"
        runs = work / "base" / "prepared" / "20x_128px_0px_overlap"
        tiny, runs = work / "base" / "tiny", work / "base" / "prepared" / "20x_128px_0px_overlap"
        quiet(["pack", "--data", root])
        quiet(["train", "--data", root, "--epochs", 1, "--out", model / "other.pt", "--checkpoint", model / "steps"])
        places = ["--coords_dir", runs / "patches", "--save_dir", runs / "patch_labels"]
        quiet(["labels", "--csv_path", tiny / "wsi_labels.csv", "--masks_dir", tiny / "masks", *places])
        chosen = {n: t for n, t in targets(work / "base").items() if not args.only or any(w in n for w in args.only)}
        each = -(-args.inputs // len(chosen))
        for name, target in chosen.items():
            target.read(target.good)  # the undamaged file must be read
            outcomes, wrong = fuzz(name, target, each, args.seed, work)
            everything += outcomes
            problems += wrong
            print(
                f"{name:18} {each:6} inputs: " + ", ".join(f"{n} {what}" for what, n in outcomes.most_common()),
                flush=True,
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{sum(everything.values())} inputs in {time.monotonic() - began:.0f} s, {len(problems)} went wrong")
    kinds = Counter(p.split(": ", 1)[1][:90] for p in problems)
    print("\n".join(f"{n:5} x {kind}" for kind, n in kinds.most_common(40)))
    print("\n".join(problems[:40]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
