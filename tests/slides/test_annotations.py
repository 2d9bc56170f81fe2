import cv2
import numpy as np
import pytest

from mil_tutorial import (
    Annotation,
    DataError,
    ParameterError,
    label_patches,
    label_patches_from_annotation,
    read_asap_xml,
)
from mil_tutorial.slides.annotations import polygon_pixels
from mil_tutorial.trident import read_patches

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


def annotation_node(group, corners, kind="Polygon"):
    inside = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
    return f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}"><Coordinates>{inside}</Coordinates></Annotation>'


def write_asap(path, *nodes):
    groups = '<AnnotationGroups><Group Name="_0" PartOfGroup="None"/></AnnotationGroups>'
    path.write_text(f"<ASAP_Annotations><Annotations>{''.join(nodes)}</Annotations>{groups}</ASAP_Annotations>")
    return path


def test_mask_and_annotation_agree(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side = patches.geometry.patch_size_level0
    mask = label_patches(data.mask_path(tumor_slide), patches.coords, side)
    drawn = label_patches_from_annotation(read_asap_xml(data.annotation_path(tumor_slide)), patches.coords, side)
    assert np.abs(mask.fraction - drawn.fraction).max() < 0.005


def test_polygons_are_filled_as_in_one_large_image():
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
    assert np.abs(difference).max() < 700  # OpenCV rounds long edges otherwise where the image cuts them


@pytest.mark.slow
def test_a_real_annotation(real):
    annotation = read_asap_xml(real / "test_040.xml")
    assert (len(annotation.tumor), len(annotation.holes)) == (34, 44)

    def area(polygons):
        return sum(cv2.contourArea(p.astype(np.float32)) for p in polygons)

    assert area(annotation.tumor) == pytest.approx(380_890_858, rel=1e-3)
    assert area(annotation.holes) == pytest.approx(11_241_440, rel=1e-3)


@pytest.mark.slow
def test_a_real_annotation_covers_its_area(real):
    annotation = read_asap_xml(real / "test_040.xml")
    low, high = (f([f(p, axis=0) for p in annotation.tumor], axis=0).astype(int) for f in (np.min, np.max))
    axes = (np.arange(a, b + 1024, 1024) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    assert polygon_pixels(annotation, grid, 1024).sum() == pytest.approx(380_890_858 - 11_241_440, rel=0.01)


def test_all_groups_and_what_has_no_area(tmp_path):
    groups = ("_0", "_1", "Tumor", "_2", "Exclusion", "None", "stroma")
    nodes = [annotation_node(g, SQUARE) for g in groups] + [annotation_node("Tumor", SQUARE[:1], "Dot")]
    annotation = read_asap_xml(write_asap(tmp_path / "a.xml", *nodes))
    assert (len(annotation.tumor), len(annotation.holes)) == (3, 3)
    assert annotation.ignored == {"group stroma": 1, "Dot without an area": 1}


def test_groups_of_ones_own(tmp_path):
    path = write_asap(tmp_path / "a.xml", annotation_node("stroma", SQUARE), annotation_node("_0", SQUARE))
    annotation = read_asap_xml(path, tumor_groups=["stroma"], hole_groups=[])
    assert len(annotation.tumor) == 1 and annotation.ignored == {"group _0": 1}
    with pytest.raises(ParameterError, match="tumor_groups: found 'Tumor', expected a list"):
        read_asap_xml(path, tumor_groups="Tumor")  # or "T" and "mor" would be tumour, too  # codespell:ignore mor


def test_a_hostile_annotation_is_refused(tmp_path):
    path = tmp_path / "bomb.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ASAP_Annotations>&b;</ASAP_Annotations>')
    with pytest.raises(DataError, match=r"bomb\.xml: is not readable as XML"):
        read_asap_xml(path)


@pytest.mark.parametrize("text,message", [("<html/>", "is not from ASAP"), ("", "is not readable as XML")])
def test_what_is_not_from_asap_is_refused(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.xml: {message}"):
        read_asap_xml(path)


@pytest.mark.parametrize(
    "corner", ['Order="q" X="1" Y="1"', 'Order="0" X="1"', 'Order="0" X="nan" Y="1"', 'Order="0" X="1e300" Y="1"']
)
def test_a_corner_without_numbers_is_named(tmp_path, corner):
    node = f'<Annotation Name="A 7" PartOfGroup="_0"><Coordinate {corner}/></Annotation>'
    with pytest.raises(DataError, match=r"a\.xml.*A 7"):
        read_asap_xml(write_asap(tmp_path / "a.xml", node))


def test_a_path_in_place_of_an_annotation_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"annotation: found .*expected an Annotation"):
        label_patches_from_annotation(tmp_path / "a.xml", [[0, 0]], 512)
