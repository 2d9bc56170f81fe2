import shutil

import numpy as np
import pytest
from small import RUN

from mil_tutorial import DataError, ParameterError
from mil_tutorial.commands.labels import label_folder
from mil_tutorial.commands.main import main
from mil_tutorial.fixture.anatomy import draw_outlines
from mil_tutorial.fixture.plan import plan_slide
from mil_tutorial.fixture.write import render, write_mask
from mil_tutorial.trident import read_patch_labels

TUMOR = ("tumor_001", "tumor_002", "test_005")


def draw_mask(name, folder):
    """The mask of one slide of the fixture, in a folder of its own."""
    plan = plan_slide(name)
    write_mask(plan, *draw_outlines(plan), folder / f"{name}_mask.tif")


@pytest.fixture
def annotated(tree, tmp_path):
    """The options of `labels` for a data root with annotations."""
    for name in TUMOR:
        render(name, tmp_path, ("annotation",))
    folders = {
        "--csv_path": tree / "wsi_labels.csv",
        "--coords_dir": tree / RUN / "patches",
        "--annotations_dir": tmp_path / "annotations",
        "--save_dir": tmp_path / "out",
    }
    return ["labels", *(str(text) for pair in folders.items() for text in pair)]


@pytest.mark.slow
def test_a_folder_of_masks(tree, tmp_path):
    run, masks, save = tree / RUN, tmp_path / "masks", tmp_path / "labels"
    for name in ("tumor_001", "test_005"):
        draw_mask(name, masks)
    with pytest.raises(DataError, match=r"tumor_002_mask\.tif(.|\n)*5 of 6 slides are done"):
        label_folder(tree / "wsi_labels.csv", run / "patches", save, masks_dir=masks, progress=False)
    for name in ("normal_001", "tumor_001", "test_005"):
        shipped = read_patch_labels(run / "patch_labels" / f"{name}.h5")
        assert np.array_equal(read_patch_labels(save / f"{name}.h5"), shipped)


@pytest.mark.slow
def test_a_folder_of_annotations(tree, tmp_path, annotated, capsys):
    assert main([*annotated, "--partly_annotated", "camelyon16", "tumor_002"]) == 0
    for name, unknown in (("tumor_001", 0), ("tumor_002", -1)):
        mask = read_patch_labels(tree / RUN / "patch_labels" / f"{name}.h5")
        drawn = read_patch_labels(tmp_path / "out" / f"{name}.h5")
        assert np.array_equal(drawn == 1, mask == 1) and (drawn[mask != 1] == unknown).any()
    assert main([*annotated, "--threshold", "0.3"]) == 2
    assert "asked_threshold" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options,message",
    [
        (["--masks_dir", "x"], "--masks_dir: found x beside annotations_dir"),
        (["--threshold", "nan"], "--threshold: found nan, expected a number from 0 to less than 1"),
        (["--threshold", "1"], "--threshold: found 1.0"),
        (["--tumor_value", "256"], "--tumor_value: found 256"),
        (["--patch_size", "512"], "--patch_size: found 512, expected 1024"),
        (["--patch_level", "1"], "--patch_level: found 1, expected 0"),
        (["--partly_annotated", "tumor_0002"], "--partly_annotated: found ['tumor_0002'], expected names of slides"),
    ],
)
def test_the_command_names_its_flags(annotated, tmp_path, capsys, options, message):
    assert main([*annotated, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


def test_without_a_source_nothing_is_labelled(tree, tmp_path):
    with pytest.raises(ParameterError, match="masks_dir: found neither"):
        label_folder(tree / "wsi_labels.csv", tree / RUN / "patches", tmp_path / "out", progress=False)


def test_coordinates_without_a_label_are_named(tree, tmp_path):
    patches = tree / RUN / "patches"
    shutil.copy(patches / "normal_001_patches.h5", patches / "other_patches.h5")
    with pytest.raises(DataError, match=r"wsi_labels\.csv: no label for other, whose coordinates are in"):
        label_folder(tree / "wsi_labels.csv", patches, tmp_path / "out", masks_dir=tmp_path, progress=False)
    with pytest.raises(DataError, match="no coordinates here"):
        label_folder(tree / "wsi_labels.csv", tmp_path, tmp_path / "out", masks_dir=tmp_path, progress=False)
