"""Draw the fixture's slides, build what ships with the package, and show that both agree."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mil_tutorial.commands.processes import process_map
from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.fixture.colours import FILE, patch_colours, write_colours
from mil_tutorial.fixture.plan import EDITION, ROSTER, TEST, TRAIN, plan_slide
from mil_tutorial.fixture.tree import ENCODER, MARKER, RUN, SHIPPED, copy_shipped
from mil_tutorial.fixture.write import render
from mil_tutorial.trident import read_features, read_patch_labels, read_patches, write_features

if TYPE_CHECKING:
    from mil_tutorial.slides.encoders import PatchEncoder

# Shipped features are float32, as torchmil needs them, rounded to this step, so that they compress to a third.
FEATURE_STEP = 1 / 512

# What may differ when they are made again: half a step, and JPEG decoders and processors that differ in the last digit.
FEATURE_TOLERANCE = 0.02


def render_slides(root: Path, names: Sequence[str] = ROSTER, *, workers: int | None = None) -> None:
    """Draw slides with masks and annotations into a data root; what is there already stays."""
    copy_shipped(root)
    _for_each(functools.partial(render, root=root), names, "Drawing slides", workers)


def verify(root: Path, names: Sequence[str] = ROSTER, *, workers: int | None = None) -> dict[str, float]:
    """Show that the shipped files come out of the slides again.

    Returns:
        The largest absolute difference of a feature, for each slide; coordinates and labels are equal.

    Raises:
        DataError: a slide differs.
    """
    differences = _for_each(functools.partial(verify_one, root=root), names, "Verifying", workers)
    for name, difference in differences.items():
        if not difference <= FEATURE_TOLERANCE:
            raise DataError(
                f"{name}: features differ by {difference:.4f} from the shipped ones,"
                f" at most {FEATURE_TOLERANCE} was expected."
            )
    return differences


def verify_one(name: str, root: Path) -> float:
    """Make a slide's files again and compare them with the shipped ones.

    Returns:
        The largest absolute difference of a feature.

    Raises:
        DataError: coordinates or labels differ.
    """
    shipped = SHIPPED / "trident_processed" / RUN
    with tempfile.TemporaryDirectory() as folder:
        _prepare_one(name, root, Path(folder))
        made = Path(folder) / RUN
        coords, shipped_coords = (
            read_patches(run / "patches" / f"{name}_patches.h5").coords for run in (made, shipped)
        )
        if not np.array_equal(coords, shipped_coords):
            raise DataError(
                f"{name}: the drawn slide gives {len(coords)} patches, shipped are {len(shipped_coords)},"
                " or they are at other places."
            )
        labels, shipped_labels = (read_patch_labels(run / "patch_labels" / f"{name}.h5") for run in (made, shipped))
        if not np.array_equal(labels, shipped_labels):
            raise DataError(f"{name}: the drawn mask gives other patch labels than the shipped ones.")
        features, shipped_features = (
            read_features(run / f"features_{ENCODER}" / f"{name}.h5")[0].astype(np.float32) for run in (made, shipped)
        )
    return float(np.abs(features - shipped_features).max())


def build(target: Path = SHIPPED, *, workers: int | None = None) -> None:
    """Make what the package ships, from nothing. For maintainers, after a change to the drawing."""
    with tempfile.TemporaryDirectory() as folder:
        root, jobs = Path(folder), Path(folder) / "trident_processed"
        _for_each(functools.partial(_prepare_one, root=root, job_dir=jobs), ROSTER, "Building the fixture", workers)
        shutil.rmtree(target, ignore_errors=True)
        run, shipped = jobs / RUN, target / "trident_processed" / RUN
        for part in ("patches", "patch_labels"):
            shutil.copytree(run / part, shipped / part)
        digest, colours = hashlib.sha256(), {}
        for name in ROSTER:
            features, _ = read_features(run / f"features_{ENCODER}" / f"{name}.h5")
            features = np.round(features / FEATURE_STEP) * np.float32(FEATURE_STEP)
            patches = read_patches(run / "patches" / f"{name}_patches.h5")
            write_features(shipped / f"features_{ENCODER}" / f"{name}.h5", features, patches, ENCODER, compress=True)
            digest.update(features.tobytes())
            colours[name] = patch_colours(root / "images" / f"{name}.tif", patches)
        write_colours(target / FILE, colours)
    _write_tables(target)
    facts = {
        "what": "Synthetic slides drawn by mil-tutorial. No patient, no scanner.",
        "edition": EDITION,
        "features": digest.hexdigest(),
    }
    with written_whole(target / MARKER) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")


def _write_tables(target: Path) -> None:
    """Labels, splits, and what is known of each slide."""
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


def _for_each(function: Callable[[str], Any], names: Sequence[str], what: str, workers: int | None) -> dict[str, Any]:
    """Results of `function(name)` by name, made in processes."""
    return dict(zip(names, process_map(function, names, what=what, workers=workers), strict=True))


def _prepare_one(name: str, root: Path, job_dir: Path) -> None:
    """Slide -> coordinates, features and patch labels, in `job_dir`."""
    from mil_tutorial.devices import threads
    from mil_tutorial.slides.labels import label_slide
    from mil_tutorial.slides.prepare import PrepareOptions, prepare_slide

    path, run = render(name, root), job_dir / RUN
    with threads(1):  # a process for each core; and features in the last digit depend on the number of threads
        # What ships was made with the pen of 21 slides as tissue: colour alone finds it, which notebook 1 shows.
        prepare_slide(path, job_dir, PrepareOptions(remove_penmarks=False), _encoder())
    label_slide(
        name,
        plan_slide(name).label,
        coords_dir=run / "patches",
        save_dir=run / "patch_labels",
        masks_dir=root / "masks",
    )


@functools.cache
def _encoder() -> PatchEncoder:
    """Loaded once in a process."""
    from mil_tutorial.slides.encoders import load_encoder

    return load_encoder(ENCODER)
