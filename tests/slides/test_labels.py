import h5py
import numpy as np
import pytest
from small import RUN, write_pyramid

from mil_tutorial import DataError, ParameterError, label_patches
from mil_tutorial.fixture.plan import ROSTER, plan_slide
from mil_tutorial.slides.labels import LabelRule, label_slide
from mil_tutorial.trident import read_how, read_patch_labels, read_patches


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


@pytest.mark.parametrize(
    "parameter,value",
    [
        ("threshold", float("nan")),
        ("threshold", -0.1),
        ("threshold", 1.0),
        ("threshold", "0.5"),
        ("tumor_value", 256),
        ("tumor_value", -1),
        ("tumor_value", 2.5),
        ("halve", "no"),
        ("partly_annotated", None),
        ("patch_size_level0", 0),
        ("patch_size_level0", float("nan")),
        ("patch_size_level0", "1024"),
        ("patch_size_level0", 10.5),
        ("coords", [[0, float("nan")]]),
        ("coords", [["0", "0"]]),
    ],
)
def test_what_cannot_label_is_refused_by_name(tmp_path, parameter, value):
    given = {"coords": [[0, 0]], "patch_size_level0": 1024} | {parameter: value}
    with pytest.raises(ParameterError, match=f"^{parameter}: found ") as error:
        label_patches(tmp_path / "no_mask.tif", **given)
    assert error.value.parameter == parameter


@pytest.fixture
def slide(data, tmp_path):
    """`label_slide` for one small slide: three patches in a row; its mask holds 2 in half of the second."""
    patches = tmp_path / "patches"
    patches.mkdir()
    with h5py.File(data.trident_dir / "patches" / "normal_001_patches.h5") as source:
        attributes = dict(source["coords"].attrs)
    attributes.pop("crc32", None)
    with h5py.File(patches / "a_patches.h5", "w") as file:
        file["coords"] = np.array([[0, 0], [1024, 0], [2048, 0]])
        file["coords"].attrs.update(attributes | {"level0_width": 3072, "level0_height": 1024})
    mask = np.ones((1024, 3072), np.uint8)
    mask[:512, 1024:2048] = 2
    (tmp_path / "masks").mkdir()
    write_pyramid(tmp_path / "masks" / "a_mask.tif", mask, 0.25)

    def run(wsi_label=1, **options):
        folders = {"masks_dir": tmp_path / "masks", "coords_dir": patches, "save_dir": tmp_path / "out"}
        return label_slide("a", wsi_label, **(folders | options))

    run.folder = tmp_path
    return run


def test_a_label_file_remembers_its_rule(slide):
    labels = slide(rule=LabelRule(threshold=0.6))
    assert labels.fraction.tolist() == [0, 0.5, 0] and labels.label.tolist() == [0, 1, 0] and labels.threshold == 0.3
    path = slide.folder / "out" / "a.h5"
    assert read_patch_labels(path, 3).tolist() == [0, 1, 0]
    names = ("asked_threshold", "threshold", "halve", "source", "partly_annotated", "tumor_value", "wsi_label")
    assert list(read_how(path, names).values()) == [0.6, 0.3, True, "mask", False, 2, 1]
    assert slide(rule=LabelRule(threshold=0.6)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule,message",
    [
        (LabelRule(threshold=0.3), "made with asked_threshold 0.5, now it is 0.3"),
        (LabelRule(tumor_value=1), "made with tumor_value 2, now it is 1"),
        (LabelRule(halve=False), "made with halve True, now it is False"),
        (LabelRule(partly_annotated=True), "made with partly_annotated False, now it is True"),
    ],
)
def test_labels_of_another_rule_are_refused(slide, rule, message):
    slide()
    with pytest.raises(DataError, match=rf"a\.h5: was {message}.*Delete the file"):
        slide(rule=rule)


def test_labels_of_another_source_are_refused(slide):
    slide()
    (slide.folder / "a.xml").write_text("<ASAP_Annotations/>")
    with pytest.raises(DataError, match="made with source mask, now it is annotation"):
        slide(masks_dir=None, annotations_dir=slide.folder)
    mask = np.full((1024, 3072), 2, np.uint8)
    write_pyramid(slide.folder / "masks" / "a_mask.tif", mask, 0.25)
    with pytest.raises(DataError, match="the mask that it was made from has changed"):
        slide()


def test_labels_of_other_patches_are_refused(slide):
    slide(wsi_label=0)
    assert slide(wsi_label=0) is None
    with h5py.File(slide.folder / "patches" / "a_patches.h5", "a") as file:
        file["coords"][0] = (0, 5)
    with pytest.raises(DataError, match="made for other patches"):
        slide(wsi_label=0)


def test_a_normal_slide_has_no_unknown_patches(slide):
    labels = slide(wsi_label=0, masks_dir=None, rule=LabelRule(partly_annotated=True))
    assert labels.label.tolist() == [0, 0, 0]


def test_a_wrong_tumour_value_is_named(slide):
    with pytest.raises(DataError, match=r"none of its 3 patches holds the value 255\. Check tumor_value"):
        slide(rule=LabelRule(tumor_value=255))


def test_an_annotation_of_other_groups_is_named(slide):
    corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate([(0, 0), (9, 0), (9, 9)]))
    text = f'<ASAP_Annotations><Annotation PartOfGroup="stroma">{corners}</Annotation></ASAP_Annotations>'
    (slide.folder / "a.xml").write_text(text)
    with pytest.raises(DataError, match=r"0 tumour polygons \(not used: 1 x group stroma\)"):
        slide(masks_dir=None, annotations_dir=slide.folder)


def test_a_mask_of_another_slide_is_refused(slide):
    write_pyramid(slide.folder / "masks" / "a_mask.tif", np.full((1024, 2048), 2, np.uint8), 0.25)
    with pytest.raises(DataError, match="2048 x 1024 pixels, its slide is 3072 x 1024"):
        slide()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"masks_dir": None}, "masks_dir: found neither"),
        ({"annotations_dir": "b"}, "masks_dir: found .* beside annotations_dir b, expected either"),
        ({"patch_size": 512}, "patch_size: found 512, expected 1024"),
        ({"wsi_label": 2}, "wsi_label: found 2"),
        ({"rule": 0.5}, "rule: found 0.5, expected a LabelRule"),
    ],
)
def test_options_that_do_not_fit_are_refused(slide, options, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        slide(**options)


def test_a_root_of_the_fixture_is_labelled_as_shipped(data, tree, tumor_slide, tmp_path):
    folders = {"masks_dir": data.mask_path(tumor_slide).parent, "coords_dir": data.trident_dir / "patches"}
    label_slide(tumor_slide, 1, **folders, save_dir=tmp_path)
    shipped = data.trident_dir / "patch_labels" / f"{tumor_slide}.h5"
    assert np.array_equal(read_patch_labels(tmp_path / f"{tumor_slide}.h5"), read_patch_labels(shipped))
    assert (tree / RUN).is_dir()
