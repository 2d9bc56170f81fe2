"""The fixture as a data root: what ships with the package, what is drawn on demand, and the proof that both agree."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError
from mil_tutorial.files import end_with_parent, written_whole
from mil_tutorial.fixture.plan import EDITION, ROSTER, TEST, TRAIN, plan_slide
from mil_tutorial.fixture.tree import ENCODER, MARKER, RUN, SHIPPED, copy_shipped
from mil_tutorial.hdf5 import open_h5
from mil_tutorial.trident import read_features, read_patches, write_features

# Shipped features are float32, as torchmil needs them, rounded to this step, so that they compress to a third.
FEATURE_STEP = 1 / 512

# What may differ when they are made again: half a step, and JPEG decoders and processors that differ in the last digit.
FEATURE_TOLERANCE = 0.02


def _single_thread() -> None:
    import cv2

    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _begin_worker() -> None:
    end_with_parent()
    _single_thread()


def _for_each(function: Callable, names: Sequence[str], what: str, workers: int | None) -> dict:
    """Call `function(name)` for each name on several processes, with a progress bar; results by name."""
    workers = workers or os.cpu_count() or 1
    results = {}
    with (
        ProcessPoolExecutor(
            min(workers, len(names)), multiprocessing.get_context("spawn"), initializer=_begin_worker
        ) as pool,
        tqdm(total=len(names), desc=what, unit="slide") as bar,
    ):
        jobs = {pool.submit(function, name): name for name in names}
        try:
            for job in as_completed(jobs):
                results[jobs[job]] = job.result()
                bar.update()
        except BrokenProcessPool as error:
            raise DataError(
                f"{what}: a worker was ended from outside; is the memory full? Run it again with --workers 1."
            ) from error
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # not the rest of the queue first
            raise
    return results


def _render_one(name: str, root: Path) -> None:
    from mil_tutorial.fixture.write import render

    render(name, root)


def render_slides(root: Path, names: Sequence[str] = ROSTER, workers: int | None = None) -> None:
    """Draw slides with masks and annotations into a data root; what is there already stays."""
    copy_shipped(root)
    _for_each(functools.partial(_render_one, root=root), names, "Drawing slides", workers)


@functools.cache
def _encoder():
    from mil_tutorial.slides.encoders import load_encoder

    return load_encoder(ENCODER)


def _prepare_one(name: str, root: Path, job_dir: Path) -> None:
    """Slide -> coordinates, features and patch labels, in `job_dir`."""
    from mil_tutorial.fixture.write import render
    from mil_tutorial.slides.labels import label_slide
    from mil_tutorial.slides.prepare import PrepareOptions, prepare_slide

    prepare_slide(render(name, root), job_dir, PrepareOptions(), _encoder())
    run = job_dir / RUN
    label_slide(name, plan_slide(name).label, root / "masks", run / "patches", run / "patch_labels")


def _verify_one(name: str, root: Path) -> float:
    """Make a slide's files anew and compare them with the shipped ones: the largest difference of a feature."""
    with tempfile.TemporaryDirectory() as folder:
        _prepare_one(name, root, Path(folder))
        new, shipped = Path(folder) / RUN, SHIPPED / "trident_processed" / RUN
        coords, shipped_coords = (read_patches(r / "patches" / f"{name}_patches.h5").coords for r in (new, shipped))
        if not np.array_equal(coords, shipped_coords):
            raise DataError(
                f"{name}: {len(coords)} patches come out of the drawn slide, {len(shipped_coords)} are shipped, or at other places."
            )
        features, shipped_features = (
            read_features(r / f"features_{ENCODER}" / f"{name}.h5")[0].astype(np.float32) for r in (new, shipped)
        )
        labels, shipped_labels = (_read_h5(r / "patch_labels" / f"{name}.h5", "patch_labels") for r in (new, shipped))
        if not np.array_equal(labels, shipped_labels):
            raise DataError(f"{name}: the drawn mask gives other patch labels than the shipped ones.")
    return float(np.abs(features - shipped_features).max())


def _read_h5(path: Path, key: str) -> np.ndarray:
    with open_h5(path) as file:
        return file[key][:]


def verify(root: Path, names: Sequence[str] = ROSTER, workers: int | None = None) -> dict[str, float]:
    """Show that the shipped files come out of the slides again.

    Returns:
        The largest absolute difference of a feature, for each slide; coordinates and labels are equal.

    Raises:
        DataError: a slide differs.
    """
    differences = _for_each(functools.partial(_verify_one, root=root), names, "Verifying", workers)
    for name, difference in differences.items():
        if difference > FEATURE_TOLERANCE:
            raise DataError(
                f"{name}: features differ by {difference:.4f} from the shipped ones, at most {FEATURE_TOLERANCE} was expected."
            )
    return differences


def build(target: Path = SHIPPED, workers: int | None = None) -> None:
    """Make what the package ships, from nothing. For maintainers, after a change to the drawing."""
    import hashlib

    with tempfile.TemporaryDirectory() as folder:
        root, jobs = Path(folder), Path(folder) / "trident_processed"
        _for_each(functools.partial(_prepare_one, root=root, job_dir=jobs), ROSTER, "Building the fixture", workers)
        shutil.rmtree(target, ignore_errors=True)
        run, shipped = jobs / RUN, target / "trident_processed" / RUN
        for part in ("patches", "patch_labels"):
            shutil.copytree(run / part, shipped / part)
        digest = hashlib.sha256()
        for name in ROSTER:
            features, _ = read_features(run / f"features_{ENCODER}" / f"{name}.h5")
            features = np.round(features / FEATURE_STEP) * np.float32(FEATURE_STEP)
            patches = read_patches(run / "patches" / f"{name}_patches.h5")
            write_features(shipped / f"features_{ENCODER}" / f"{name}.h5", features, patches, ENCODER, compress=True)
            digest.update(features.tobytes())
        for file, names in (("wsi_labels", ROSTER), ("train", TRAIN), ("test", TEST)):
            table = pd.DataFrame({"wsi_name": names, "wsi_label": [plan_slide(n).label for n in names]})
            table.to_csv(target / f"{file}.csv", index=False, lineterminator="\n")
        plans = [plan_slide(n) for n in ROSTER]
        reference = {
            "wsi_name": ROSTER,
            "lesion_size": [p.lesion_size or "none" for p in plans],
            "scanner": [p.scanner.name for p in plans],
        }
        pd.DataFrame(reference).to_csv(target / "reference.csv", index=False, lineterminator="\n")
        facts = {
            "what": "Synthetic slides drawn by mil-tutorial. No patient, no scanner.",
            "edition": EDITION,
            "features": digest.hexdigest(),
        }
        with written_whole(target / MARKER) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n")
