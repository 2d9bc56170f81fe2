import cv2
import h5py
import numpy as np
import openslide
import pytest
import tifffile
from small import RUN

from mil_tutorial import (
    Annotation,
    DataError,
    camelyon16_slides,
    label_patches,
    label_patches_from_annotation,
    open_slide,
    read_asap_xml,
)
from mil_tutorial.slides.annotations import polygon_pixels
from mil_tutorial.sources.camelyon16 import partly_annotated
from mil_tutorial.commands.camelyon16 import write_tables
from mil_tutorial.fixture.plan import ROSTER, plan_slide
from mil_tutorial.commands.labels import label_folder
from mil_tutorial.slides.labels import label_slide
from mil_tutorial.tables import read_label_table
from mil_tutorial.trident import read_patch_labels
from mil_tutorial.slides.masks import count_pixels
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
    run = tree / RUN
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
        folder / "tumor_001_mask.tif",
        np.ones((plan.height, plan.width), np.uint8),
        tile=(512, 512),
        compression="adobe_deflate",
    )
    from mil_tutorial.slides.labels import label_slide

    run = tree / RUN
    with pytest.raises(DataError, match="--tumor_value"):
        label_slide("tumor_001", 1, folder, run / "patches", tmp_path / "out", tumor_value=255)


def test_a_mask_of_another_slide_and_other_options_are_refused(tmp_path, tree):
    from mil_tutorial.slides.labels import label_slide

    coords = tree / RUN / "patches"
    tifffile_path = tmp_path / "masks" / "tumor_001_mask.tif"
    tifffile_path.parent.mkdir()
    tifffile.imwrite(tifffile_path, np.full((1024, 2048), 2, np.uint8), tile=(512, 512), compression="adobe_deflate")
    with pytest.raises(DataError, match="2048 x 1024 pixels, its slide is"):
        label_slide("tumor_001", 1, tmp_path / "masks", coords, tmp_path / "out")
    open_slide_mask("tumor_001", tmp_path / "masks")
    label_slide("tumor_001", 1, tmp_path / "masks", coords, tmp_path / "out")
    with pytest.raises(DataError, match="made with tumor_value 2"):
        label_slide("tumor_001", 1, tmp_path / "masks", coords, tmp_path / "out", tumor_value=1)


def write_mask(path, mask, tile=(256, 256), compression="adobe_deflate", lie=True):
    """A mask whose coarse level says that there is no tumour at all, as a careless converter may leave it."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(mask, tile=tile, compression=compression, photometric="minisblack")
        if lie:
            tiff.write(
                np.zeros_like(mask[::4, ::4]),
                tile=tile,
                compression=compression,
                photometric="minisblack",
                subfiletype=1,
            )


@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw", "packbits", "zstd", None, "jpeg"])
@pytest.mark.parametrize("side", [1, 100, 256, 700])
def test_single_pixels_count_whatever_the_pyramid_says(tmp_path, compression, side):
    rng = np.random.default_rng(side)
    mask = np.zeros((1700, 2300), np.uint8)
    mask[300:1500, 400:2000] = 1
    cv2.circle(mask, (1200, 900), 350, 2, -1)
    mask[rng.integers(0, 1700, 40), rng.integers(0, 2300, 40)] = 2
    path = tmp_path / "m.tif"
    write_mask(path, mask * 100 if compression == "jpeg" else mask, compression=compression)
    if compression == "zstd":
        try:
            openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:  # before openslide-bin 4.0.1
            pytest.skip(f"this OpenSlide cannot read zstd: {error}")
    if compression == "jpeg":  # lossy: what OpenSlide decodes is the truth
        with open_slide(path) as opened:
            mask = np.asarray(opened.read_region((0, 0), 0, opened.dimensions))[:, :, 0]
    value = 200 if compression == "jpeg" else 2
    coords = np.concatenate([rng.integers(-300, 2400, (60, 2)), [[0, 0], [2299, 1699], [1200, 900], [5000, 0]]])
    truth = [(mask[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)] == value).sum() for x, y in coords]
    assert np.array_equal(count_pixels(path, coords, side, value), truth)


def test_a_mask_damaged_in_the_middle_is_named(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.tif"
    write_mask(path, rng.integers(0, 3, (1024, 1024), dtype=np.uint8), lie=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"m\.tif"):
        count_pixels(path, np.array([[0, 0]]), 1024, 2)


def test_polygons_are_filled_as_in_one_large_picture():
    rng = np.random.default_rng(0)
    annotation = Annotation(
        [rng.uniform(0, 9000, (40, 2)), np.array([[100, 100], [8000, 200], [4000, 7000.5]])],
        [rng.uniform(2000, 5000, (9, 2))],
    )
    whole = np.zeros((9000, 9000), np.uint8)
    for polygon, value in [(p, 1) for p in annotation.tumor] + [(p, 0) for p in annotation.holes]:
        cv2.fillPoly(whole, [np.round(polygon).astype(np.int32)], value)
    coords = rng.integers(0, 8000, (80, 2))
    counted = [whole[y : y + 700, x : x + 700].sum() for x, y in coords]
    difference = polygon_pixels(annotation, coords, 700) - np.array(counted, np.int64)
    assert np.abs(difference).max() < 700  # OpenCV rounds long edges otherwise where the picture cuts them


def test_a_real_annotation_covers_its_area(real):
    annotation = read_asap_xml(real / "test_040.xml")
    low, high = (f([f(p, axis=0) for p in annotation.tumor], axis=0).astype(int) for f in (np.min, np.max))
    grid = np.stack(np.meshgrid(*(np.arange(a, b + 1024, 1024) for a, b in zip(low, high, strict=True))), -1).reshape(
        -1, 2
    )
    assert polygon_pixels(annotation, grid, 1024).sum() == pytest.approx(380_890_858 - 11_241_440, rel=0.01)


GROUPS = [("_0", 1), ("_1", 1), ("Tumor", 1), ("_2", 0), ("Exclusion", 0), ("None", 0), ("stroma", None)]


def test_all_groups_and_what_has_no_area(tmp_path):
    def annotation(group, corners, kind="Polygon"):
        inside = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        return (
            f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}"><Coordinates>{inside}</Coordinates></Annotation>'
        )

    square = [(0, 0), (10, 0), (10, 10), (0, 10)]
    parts = "".join(annotation(g, square) for g, _ in GROUPS) + annotation("Tumor", square[:1], "Dot")
    path = tmp_path / "a.xml"
    path.write_text(
        f'<ASAP_Annotations><Annotations>{parts}</Annotations><AnnotationGroups><Group Name="_0" PartOfGroup="None"/></AnnotationGroups></ASAP_Annotations>'
    )
    found = read_asap_xml(path)
    assert (len(found.tumor), len(found.holes)) == (3, 3)
    assert found.ignored == {"group stroma": 1, "Dot without an area": 1}


@pytest.mark.parametrize(
    "corner", ['Order="q" X="1" Y="1"', 'Order="0" X="1"', 'Order="0" X="nan" Y="1"', 'Order="0" X="1e300" Y="1"']
)
def test_a_corner_without_numbers_is_named(tmp_path, corner):
    path = tmp_path / "a.xml"
    path.write_text(
        f'<ASAP_Annotations><Annotation Name="A 7" PartOfGroup="_0"><Coordinate {corner}/></Annotation></ASAP_Annotations>'
    )
    with pytest.raises(DataError, match=r"a\.xml.*A 7"):
        read_asap_xml(path)


def test_labels_from_annotations_by_folder(tree, tmp_path, capsys):
    from mil_tutorial.commands.main import main
    from mil_tutorial.fixture.write import render

    run = tree / RUN
    for name in ("tumor_001", "tumor_002", "test_005"):
        render(name, tmp_path, ("annotation",))
    ours = {
        "csv_path": tree / "wsi_labels.csv",
        "coords_dir": run / "patches",
        "annotations_dir": tmp_path / "annotations",
    }
    options = [text for k, v in ours.items() for text in (f"--{k}", str(v))]
    assert (
        main(["labels", *options, "--save_dir", str(tmp_path / "a"), "--partly_annotated", "camelyon16", "tumor_002"])
        == 0
    )
    for name, unknown in (("tumor_001", 0), ("tumor_002", -1)):
        mask = read_patch_labels(run / "patch_labels" / f"{name}.h5")
        drawn = read_patch_labels(tmp_path / "a" / f"{name}.h5")
        assert np.array_equal(drawn == 1, mask == 1) and (drawn[mask != 1] == unknown).any()
    assert main(["labels", *options, "--save_dir", str(tmp_path / "a"), "--threshold", "0.3"]) == 2
    assert "asked_threshold" in capsys.readouterr().err
    assert main(["labels", *options, "--save_dir", str(tmp_path / "a"), "--masks_dir", "x"]) == 2


def test_labels_of_other_patches_are_refused(tree, tmp_path):
    run = tree / RUN
    label_slide("normal_001", 0, tmp_path, run / "patches", tmp_path / "out")
    assert label_slide("normal_001", 0, tmp_path, run / "patches", tmp_path / "out") is None
    path = run / "patches" / "normal_001_patches.h5"
    with h5py.File(path, "a") as file:
        file["coords"][0] = file["coords"][0] + 1024 * 5
        file["coords"].attrs.pop("crc32")
    with pytest.raises(DataError, match="made for other patches"):
        label_slide("normal_001", 0, tmp_path, run / "patches", tmp_path / "out")


def test_camelyon16_as_published(tmp_path):
    table = camelyon16_slides()
    assert table.groupby(["split", "wsi_label"]).size().to_dict() == {
        ("test", 0): 80, ("test", 1): 49, ("train", 0): 159, ("train", 1): 111
    }  # fmt: skip
    test = table[table["split"] == "test"]
    assert test["lesion_size"].value_counts().to_dict() == {"none": 80, "micro": 27, "macro": 22}
    assert not {"normal_086", "test_049"} & set(table["wsi_name"])
    tutorial = camelyon16_slides("tutorial")
    assert len(tutorial) == 398 and tutorial.loc[tutorial["split"] == "test", "wsi_label"].sum() == 48
    assert len(partly_annotated()) == 21 and {"tumor_010", "test_114"} < partly_annotated()
    write_tables(tmp_path, "tutorial")
    assert len(read_label_table(tmp_path / "test.csv")) == 128 and len(read_label_table(tmp_path / "train.csv")) == 270
    write_tables(tmp_path, "tutorial")
    with pytest.raises(DataError, match=r"wsi_labels\.csv: is there with other content"):
        write_tables(tmp_path)


def test_the_published_reference(real):
    import pandas as pd

    reference = pd.read_csv(real / "camelyon16_reference.csv", header=None, keep_default_na=False).set_index(0)
    test = camelyon16_slides().query("split == 'test'").set_index("wsi_name")
    assert set(reference.index) == set(test.index)
    assert ((reference[1] == "Tumor") == (test["wsi_label"] == 1)[reference.index]).all()
    assert (reference[3].str.lower() == test["lesion_size"][reference.index]).all()
