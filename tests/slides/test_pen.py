"""Pen is no tissue, and it does not hide tissue: strokes of inks that the limits were not set on, over made slides."""

import cv2
import numpy as np
import pytest
from small import write_pyramid

from mil_tutorial import PrepareOptions, open_slide, read_overview, segment_tissue
from mil_tutorial.commands.main import main
from mil_tutorial.slides.coordinates import find_patches
from mil_tutorial.slides.pen import find_pen
from mil_tutorial.slides.thumbnails import PARTS
from mil_tutorial.slides.tissue import TISSUE_MPP, divide_overview

GLASS = 240
INKS = {"green": (0.10, 0.50, 0.25), "blue": (0.10, 0.22, 0.60), "red": (0.85, 0.12, 0.14), "black": (0.12, 0.12, 0.12)}
EVERY_INK = pytest.mark.parametrize("color", INKS)


def stained(density, haematoxylin, eosin):
    """RGB of stain densities (h, w), with the grain of a scanner."""
    dyes = haematoxylin[..., None] * (0.58, 0.70, 0.35) + eosin[..., None] * (0.20, 0.80, 0.40)
    noise = np.random.default_rng(0).normal(0, 2, dyes.shape)
    return np.clip(GLASS * np.exp(-density[..., None] * dyes) + noise, 0, 255).astype(np.uint8)


def made(strength=1.0):
    """An overview with one piece of tissue: RGB, and where it is."""
    rng, shape = np.random.default_rng(1), (300, 400)
    where = np.zeros(shape, np.uint8)
    cv2.ellipse(where, (150, 150), (100, 80), 20, 0, 360, 1, -1)
    cells = cv2.GaussianBlur(rng.random(shape).astype(np.float32), (0, 0), 1)
    return stained(where * strength, 0.4 + cells, 1.4 - cells), where > 0


def with_pen(rgb, ink, place, width=24, strength=1.0):
    """The image with a stroke, and how much ink is where."""
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    cv2.polylines(alpha, [np.array(place)], False, 255, width, cv2.LINE_AA)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 1.5).astype(np.float32) / 255 * strength
    return (rgb * np.exp(alpha[..., None] * np.log(ink))).astype(np.uint8), alpha


ON_GLASS, ACROSS = [(290, 40), (340, 120), (300, 250)], [(20, 20), (150, 60), (280, 30)]


@EVERY_INK
@pytest.mark.parametrize("place", [ON_GLASS, ACROSS], ids=["glass", "edge"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_pen_is_no_tissue(color, place, strength):
    clean, where = made()
    rgb, alpha = with_pen(clean, INKS[color], place, strength=strength)
    tissue, pen = divide_overview(rgb)
    ink, known = alpha > 0.2, segment_tissue(clean) > 0
    assert (tissue[ink & ~where] == 0).mean() > 0.99 and pen[ink & ~where].mean() > 0.9
    assert (tissue[known & (alpha < 0.02)] > 0).mean() > 0.97 and not tissue[~where & (alpha < 0.02)].mean() > 0.01
    if color != "black":
        before = segment_tissue(rgb, remove_penmarks=False)
        assert before[ink & ~where].mean() > 0.9, "saturation alone takes it for tissue"


@pytest.mark.parametrize("color", ["red", "green", "blue"])
def test_pen_does_not_hide_pale_tissue(color):
    clean, where = made(0.12)
    rgb, _ = with_pen(clean, INKS[color], ON_GLASS, width=60)
    assert segment_tissue(rgb, remove_penmarks=False)[where].mean() < 0.4
    assert segment_tissue(rgb)[where].mean() > 0.95 * segment_tissue(clean)[where].mean() > 0.8


@pytest.mark.parametrize("strength", [0.12, 0.6, 1.0, 1.8])
def test_without_pen_nothing_changes(strength):
    clean, _ = made(strength)
    tissue, pen = divide_overview(clean)
    assert not pen.any() and np.array_equal(tissue, segment_tissue(clean, remove_penmarks=False))


def test_stains_of_other_laboratories_are_no_pen():
    shape, found = np.ones((60, 60)), []
    for red in (0.7, 0.9, 1.05):
        for blue in (0.3, 0.6):
            for dye in ((red, 1.0, blue), (0.15, 1.0, blue)):
                density = cv2.GaussianBlur(np.random.default_rng(2).random((60, 60)) * shape, (0, 0), 2) + 0.2
                rgb = (GLASS * np.exp(-density[..., None] * dye)).astype(np.uint8)
                found.append(find_pen(cv2.copyMakeBorder(rgb, 30, 30, 30, 30, cv2.BORDER_CONSTANT, value=[GLASS] * 3)))
    assert not np.any(found)


def test_blood_inside_tissue_is_no_pen():
    clean, where = made()
    blood = np.zeros(where.shape, np.uint8)
    cv2.ellipse(blood, (150, 150), (35, 20), 0, 0, 360, 1, -1)
    clean[blood > 0] = (195, 75, 75)
    assert not find_pen(clean).any() and segment_tissue(clean)[blood > 0].all()


def test_a_slide_all_of_ink_has_no_tissue():
    assert not segment_tissue(np.full((50, 50, 3), (20, 90, 40), np.uint8)).any()


@pytest.mark.slow
def test_real_tissue_with_pen(real):
    with open_slide(real / "cmu-1-small-region.svs") as slide:
        clean = read_overview(slide, 4 / 0.499)
    tissue, pen = divide_overview(clean)
    assert not pen.any() and np.array_equal(tissue, segment_tissue(clean, remove_penmarks=False))
    for ink in INKS.values():
        rgb, alpha = with_pen(clean, ink, [(30, 200), (80, 330)], width=30)
        found = segment_tissue(rgb)
        glass_ink = (alpha > 0.2) & (tissue == 0)
        assert (found[glass_ink] == 0).mean() > 0.98
        assert (found[(tissue > 0) & (alpha < 0.02)] > 0).mean() > 0.97


def test_synthetic_slides_without_pen_stay_as_they_ship(data, tumor_slide):
    with open_slide(data.slide_path(tumor_slide)) as slide:
        overview = read_overview(slide, TISSUE_MPP / 0.243)
    tissue, pen = divide_overview(overview)
    assert not pen.any() and np.array_equal(tissue, segment_tissue(overview, remove_penmarks=False))


@pytest.fixture
def marked(tmp_path):
    """A folder with a slide of 0.5 µm per pixel that has tissue with a hole, and a stroke of green pen."""
    clean, where = made()
    cv2.circle(clean, (150, 150), 25, (GLASS,) * 3, -1)
    rgb, _ = with_pen(clean, INKS["green"], ON_GLASS)
    (tmp_path / "slides").mkdir()
    write_pyramid(tmp_path / "slides" / "a.tif", cv2.resize(rgb, None, fx=16, fy=16), 0.5)
    return tmp_path


@pytest.mark.slow
def test_patches_leave_the_pen_out(marked):
    path = marked / "slides" / "a.tif"
    with open_slide(path) as slide:
        patches, without = (
            find_patches(slide, path, PrepareOptions(patch_size=256, remove_penmarks=on), mpp=0.5)[0]
            for on in (True, False)
        )
    assert len(without.coords) - len(patches.coords) > 20
    assert (patches.coords[:, 0] < 270 * 16).all() and not (without.coords[:, 0] < 270 * 16).all()


@pytest.mark.slow
def test_prepare_draws_what_it_left_out(marked, capsys):
    call = ["prepare", "--wsi_dir", str(marked / "slides"), "--job_dir", str(marked / "job"), "--patch_size", "512"]
    assert main(call) == 0 and not (marked / "job" / "tissue").exists()
    coords = next((marked / "job").rglob("a_patches.h5"))
    changed = coords.stat().st_mtime_ns
    assert main([*call, "--show_tissue"]) == 0, "also where the coordinates are there already"
    assert coords.stat().st_mtime_ns == changed
    picture = cv2.imread(str(marked / "job" / "tissue" / "a.jpg"))[:, :, ::-1].astype(int)
    scale = (picture.shape[0] - 40) / 300
    x, y = (np.array([[320, 70], [90, 150], [150, 150], [390, 10]]) * scale).astype(int).T
    green, red, blue, plain = picture[y, x][[1, 0, 2, 3]]
    assert np.argmax(green) != 0 and np.ptp(plain) < 12 and blue[2] > blue[0] + 30
    ink = np.array(INKS["green"]) * GLASS
    color, weight = PARTS["pen"]
    tone = (1 - weight) * ink + weight * np.array(list(bytes.fromhex(color[1:])))
    assert np.abs(red - tone).max() < 25
    capsys.readouterr()
    assert main([*call, "--no-remove_penmarks"]) == 2
    assert "was made with remove_penmarks True, now it is False" in capsys.readouterr().err
