"""The synthetic slides: real files, the same every time, and no way to guess the label from the outside."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mil_tutorial import DataError, read_asap_xml
from mil_tutorial.fixture import tree
from mil_tutorial.fixture.anatomy import draw_anatomy, longest_extent
from mil_tutorial.fixture.plan import ROSTER, TEST, TRAIN, plan_slide
from mil_tutorial.fixture.write import render


def test_a_slide_is_the_same_the_next_time(tmp_path):
    digests = set()
    for folder in ("a", "b"):
        path = render("normal_007", tmp_path / folder)
        files = [path, tmp_path / folder / "masks" / "normal_007_mask.tif"]
        digests.add(tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in files))
    assert len(digests) == 1


def test_openslide_reads_resolution_levels_and_sizes(data, tumor_slide):
    plan = plan_slide(tumor_slide)
    with (
        openslide.OpenSlide(data.slide_path(tumor_slide)) as slide,
        openslide.OpenSlide(data.mask_path(tumor_slide)) as mask,
    ):
        assert slide.dimensions == mask.dimensions == (plan.width, plan.height)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(plan.scanner.mpp, abs=1e-5)
        assert slide.level_downsamples == tuple(2.0**i for i in range(slide.level_count))
        assert 2500 < plan.width * plan.scanner.mpp < 3000


def test_the_annotation_rasterises_to_the_mask(data, tumor_slide):
    annotation = read_asap_xml(data.annotation_path(tumor_slide))
    with openslide.OpenSlide(data.mask_path(tumor_slide)) as mask:
        values = np.asarray(mask.read_region((0, 0), 0, mask.dimensions))[:, :, 0]
    drawn = np.zeros_like(values)
    cv2.fillPoly(drawn, [p.astype(np.int32) for p in annotation.tumor + annotation.holes], 1)
    assert set(np.unique(values)) == {0, 1, 2}
    assert np.array_equal(drawn == 1, values == 2)


@pytest.mark.parametrize("size,low,high", [("itc", 0, 200), ("micro", 200, 2000), ("macro", 2000, 3000)])
def test_lesions_have_the_size_of_their_class(size, low, high):
    name = next(n for n in ROSTER if plan_slide(n).lesion_size == size)
    plan = plan_slide(name)
    longest = max(longest_extent(outline) for outline, _ in draw_anatomy(plan).lesions) * plan.scanner.mpp
    assert low < longest <= high


def test_the_roster_is_what_the_course_says():
    labels = {n: plan_slide(n).label for n in ROSTER}
    assert not set(TRAIN) & set(TEST) and len(ROSTER) == 132
    for split in (TRAIN, TEST):
        assert 1 / 3 < np.mean([labels[n] for n in split]) < 1 / 2
    with pytest.raises(ValueError, match="tumor_001"):
        plan_slide("../x")


def test_no_scanner_size_or_stain_tells_the_label():
    plans = [plan_slide(n) for n in ROSTER]
    X = np.array([[p.width, p.height, p.scanner.mpp, p.haematoxylin_gain, p.eosin_gain] for p in plans])
    y = np.array([p.label for p in plans])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    score = cross_val_predict(model, X, y, cv=5, method="decision_function")
    assert 0.35 < roc_auc_score(y, score) < 0.65


def test_shipped_files_come_out_of_the_slide_again(data, tumor_slide):
    assert tree._verify_one(tumor_slide, data.root) < tree.FEATURE_TOLERANCE


def test_what_ships_is_small_and_complete():
    files = [p for p in tree.SHIPPED.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 12_000_000
    assert {p.stem for p in files if p.parent.name == "patch_labels"} == set(ROSTER)


def test_two_processes_may_make_the_root_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv(tree.CACHE_VARIABLE, str(tmp_path))
    assert tree.fixture_root() == tree.fixture_root()
    assert [p.name for p in tmp_path.iterdir()] == [tree.fixture_root().name]


def test_a_user_s_own_folder_is_left_alone(tmp_path):
    (tmp_path / "wsi_labels.csv").write_text("mine")
    with pytest.raises(DataError, match="Nothing was written"):
        tree.copy_shipped(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["wsi_labels.csv"] and (
        tmp_path / "wsi_labels.csv"
    ).read_text() == "mine"


def test_what_a_killed_run_left_goes_after_a_day_and_nothing_else(tmp_path):
    old, young, mine = (tmp_path / name for name in (".out.0a1b2c3d", ".out.11112222", ".out.settings"))
    for folder in (old, young, mine):
        folder.mkdir()
        (folder / "file").write_text("something")
    for folder in (old, mine):
        os.utime(folder, (time.time() - 2 * 86_400,) * 2)
    tree.copy_shipped(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [young.name, mine.name, "out"] and tree.is_fixture(
        tmp_path / "out"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    """A killed command must not leave processes behind that hold memory."""

    def others():
        marks = (p for p in Path("/proc").glob("[0-9]*/environ"))
        found = set()
        for mark in marks:
            try:
                if b"MIL_TUTORIAL_MARK=" + str(tmp_path).encode() in mark.read_bytes():
                    found.add(int(mark.parent.name))
            except OSError:
                continue
        return found

    command = [
        sys.executable,
        "-m",
        "mil_tutorial.cli",
        "fixture",
        "normal_001",
        "normal_002",
        "--workers",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "MIL_TUTORIAL_MARK": str(tmp_path)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(others()) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(1.5)  # the workers have begun
    process.kill()
    process.wait()
    while others() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert others() == set()
