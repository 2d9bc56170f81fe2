import cv2
import h5py
import numpy as np
import pytest
import tifffile

from mil_tutorial import DataError, label_patches, label_patches_from_annotation, open_slide, read_asap_xml
from mil_tutorial.fixture.plan import ROSTER, plan_slide
from mil_tutorial.labels import label_folder, read_label_table, read_patch_labels
from mil_tutorial.trident import read_patches


def test_equal_to_counting_every_pixel(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side = patches.geometry.patch_size_level0
    labels = label_patches(data.mask_path(tumor_slide), patches.coords, side)
    with open_slide(data.mask_path(tumor_slide)) as mask:
        whole = np.asarray(mask.read_region((0, 0), 0, mask.dimensions))[:, :, 0] == 2
    counted = [whole[y : y + side, x : x + side].sum() / side**2 for x, y in patches.coords]
    assert np.array_equal(labels.fraction, np.array(counted, np.float32))
    assert labels.label.dtype == np.int8 and np.array_equal(labels.label, (labels.fraction > 0.5).astype(np.int8))


def test_mask_and_annotation_agree(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side = patches.geometry.patch_size_level0
    mask = label_patches(data.mask_path(tumor_slide), patches.coords, side)
    drawn = label_patches_from_annotation(read_asap_xml(data.annotation_path(tumor_slide)), patches.coords, side)
    assert np.abs(mask.fraction - drawn.fraction).max() < 0.005


def test_the_original_rule_halves_until_some_patch_is_tumour(data):
    name = next(n for n in ROSTER if plan_slide(n).lesion_size == "itc")
    patches = read_patches(data.trident_dir / "patches" / f"{name}_patches.h5")
    plain, halved = (label_patches(data.mask_path(name), patches.coords, 1024, halve=h) for h in (False, True))
    assert not (plain.label == 1).any()
    assert (halved.label == 1).any() and 0.5 / halved.threshold == 2 ** round(np.log2(0.5 / halved.threshold))
    assert not (halved.fraction > 2 * halved.threshold).any()
    with h5py.File(data.trident_dir / "patch_labels" / f"{name}.h5") as file:
        assert np.array_equal(file["patch_labels"][:], halved.label)


def test_partly_annotated_slides_have_unknown_patches(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    labels = label_patches(data.mask_path(tumor_slide), patches.coords, 1024, partly_annotated=True)
    assert np.array_equal(labels.label == -1, labels.fraction == 0) and set(labels.label) == {-1, 0, 1}


def test_a_real_annotation(real):
    found = read_asap_xml(real / "test_040.xml")
    assert (len(found.tumor), len(found.holes)) == (34, 44)

    def area(polygons):
        return sum(cv2.contourArea(p.astype(np.float32)) for p in polygons)

    assert area(found.tumor) == pytest.approx(380_890_858, rel=1e-3)
    assert area(found.holes) == pytest.approx(11_241_440, rel=1e-3)


def test_a_hostile_annotation_is_refused(tmp_path):
    path = tmp_path / "bomb.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ASAP_Annotations>&b;</ASAP_Annotations>')
    with pytest.raises(DataError, match=r"bomb\.xml"):
        read_asap_xml(path)


@pytest.mark.parametrize(
    "text,message",
    [
        ("a,b\n1,2\n", "column wsi_name, wsi_label"),
        ("wsi_name,wsi_label\ns,2\n", "slide s has the label"),
        ("wsi_name,wsi_label\ns,1\ns.tif,0\n", "named twice"),
        ("", "no readable CSV"),
    ],
)
def test_bad_label_files(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_label_table(path)
    assert "labels.csv" in str(error.value)


def test_a_folder_of_labels(tree, tmp_path):
    run = tree / "trident_processed" / "20x_512px_0px_overlap"
    for name in ("tumor_001", "tumor_002", "test_005"):
        with open_slide_mask(name, tmp_path / "masks") as path:
            assert path.is_file()
    save = tmp_path / "labels"
    (tmp_path / "masks" / "tumor_002_mask.tif").unlink()
    with pytest.raises(DataError, match=r"tumor_002_mask\.tif(.|\n)*5 of 6 slides are done"):
        label_folder(tree / "wsi_labels.csv", tmp_path / "masks", run / "patches", save, progress=False)
    for name in ("normal_001", "tumor_001", "test_005"):
        assert np.array_equal(
            read_patch_labels(save / f"{name}.h5"), read_patch_labels(run / "patch_labels" / f"{name}.h5")
        )


def open_slide_mask(name, folder):
    """Draw one mask of the fixture into a folder of its own."""
    from contextlib import nullcontext

    from mil_tutorial.fixture.anatomy import draw_anatomy
    from mil_tutorial.fixture.write import write_mask

    path = folder / f"{name}_mask.tif"
    plan = plan_slide(name)
    write_mask(plan, draw_anatomy(plan), path)
    return nullcontext(path)


def test_a_wrong_tumour_value_is_said(tmp_path, tree):
    folder = tmp_path / "masks"
    folder.mkdir()
    plan = plan_slide("tumor_001")
    tifffile.imwrite(
        folder / "tumor_001_mask.tif", np.ones((plan.height, plan.width), np.uint8), tile=(512, 512), compression="adobe_deflate"
    )
    from mil_tutorial.labels import label_slide

    run = tree / "trident_processed" / "20x_512px_0px_overlap"
    with pytest.raises(DataError, match="--tumor_value"):
        label_slide("tumor_001", 1, folder, run / "patches", tmp_path / "out", tumor_value=255)


def test_a_mask_of_another_slide_and_other_options_are_refused(tmp_path, tree):
    from mil_tutorial.labels import label_slide

    coords = tree / "trident_processed" / "20x_512px_0px_overlap" / "patches"
    tifffile_path = tmp_path / "masks" / "tumor_001_mask.tif"
    tifffile_path.parent.mkdir()
    tifffile.imwrite(tifffile_path, np.full((1024, 2048), 2, np.uint8), tile=(512, 512), compression="adobe_deflate")
    with pytest.raises(DataError, match="2048 x 1024 pixels, its slide is"):
        label_slide("tumor_001", 1, tmp_path / "masks", coords, tmp_path / "out")
    open_slide_mask("tumor_001", tmp_path / "masks")
    label_slide("tumor_001", 1, tmp_path / "masks", coords, tmp_path / "out")
    with pytest.raises(DataError, match="made with tumor_value 2"):
        label_slide("tumor_001", 1, tmp_path / "masks", coords, tmp_path / "out", tumor_value=1)
