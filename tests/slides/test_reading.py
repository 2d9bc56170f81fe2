import cv2
import numpy as np
import pytest
import tifffile

from mil_tutorial import DataError, Geometry, ParameterError, open_slide, read_canvas, read_overview, read_patch
from mil_tutorial.slides.reading import opened, slide_mpp
from mil_tutorial.trident import read_patches


@pytest.mark.slow
def test_canvas_is_what_level_0_shows(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side, coords = patches.geometry.patch_size_level0, patches.coords[::6]
    with open_slide(data.slide_path(tumor_slide)) as slide:
        canvas, rows, columns = read_canvas(slide, coords, side, px=50)
        difference = []
        for (x, y), r, c in zip(coords.tolist(), rows, columns, strict=True):
            region = np.asarray(slide.read_region((x, y), 0, (side, side))).astype(float)
            white = region[:, :, :3] * (region[:, :, 3:] / 255) + 255 - region[:, :, 3:]
            level0 = cv2.resize(white, (50, 50), interpolation=cv2.INTER_AREA)
            difference.append(np.abs(level0 - canvas[r * 50 : r * 50 + 50, c * 50 : c * 50 + 50]).mean())
    assert canvas.shape == ((rows.max() + 1) * 50, (columns.max() + 1) * 50, 3)
    assert np.mean(difference) <= 6


def test_beyond_the_slide_is_white(data, tumor_slide):
    with open_slide(data.slide_path(tumor_slide)) as slide:
        width, height = slide.dimensions
        patch = read_patch(slide, width - 512, height - 512, 1024, 64)
    assert (patch[34:] == 255).all() and (patch[:, 34:] == 255).all()


def test_a_patch_beyond_the_slide_is_white_on_the_canvas(data, tumor_slide):
    """Also where it lies inside the last tile of a level, which is larger than the slide."""
    path = data.slide_path(tumor_slide)
    with open_slide(path) as slide:
        width, height = slide.dimensions
    canvas, rows, columns = read_canvas(
        path, np.array([[width // 2, height // 2], [width + 10, height - 600]]), 512, 50
    )
    r, c = round(rows[1] * 50), round(columns[1] * 50)
    assert (canvas[r : r + 50, c : c + 50] == 255).all() and canvas.min() < 255


def test_overview_in_strips_is_the_whole(data, tumor_slide):
    with open_slide(data.slide_path(tumor_slide)) as slide:
        small = read_overview(slide, 32)
        big = np.asarray(slide.read_region((0, 0), 5, slide.level_dimensions[5]))[:, :, :3]
    small = cv2.resize(small, big.shape[1::-1])
    assert np.abs(small.astype(int) - big).mean() < 3


def test_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.tif"):
        open_slide(tmp_path / "nowhere.tif")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(DataError, match=r"text\.svs"):
        open_slide(tmp_path / "text.svs")
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((512, 512, 3), np.uint8), tile=(256, 256), photometric="rgb")
    with open_slide(path) as slide, pytest.raises(DataError, match=r"plain\.tif.*Give its mpp"):
        slide_mpp(slide, path)


@pytest.mark.slow
@pytest.mark.parametrize("magnification,overlap", [(20, 128), (15, 0), (12, 100), (10, 256), (40, 64)])
def test_patches_with_overlap_lie_where_they_belong(data, tumor_slide, magnification, overlap):
    with open_slide(data.slide_path(tumor_slide)) as slide:
        width, height = slide.dimensions
        g = Geometry.for_slide(
            mpp=0.243, width=width, height=height, magnification=magnification, patch_size=512, overlap=overlap
        )
        coords = g.grid()[::-1]  # any order
        canvas, rows, columns = read_canvas(slide, coords, g.patch_size_level0, px=40)
        assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(coords)
        assert np.array_equal(np.stack([columns, rows], 1), coords // g.step_level0)
        for i in range(0, len(coords), 17):
            level0 = read_patch(slide, *coords[i].tolist(), g.patch_size_level0, g.patch_size_level0)
            alone = cv2.resize(level0, (40, 40), interpolation=cv2.INTER_AREA)
            there = canvas[rows[i] * 40 : rows[i] * 40 + 40, columns[i] * 40 : columns[i] * 40 + 40]
            assert np.abs(alone.astype(int) - there).mean() < 8


def test_a_slide_or_its_path(data, tumor_slide):
    path = data.slide_path(tumor_slide)
    with opened(path) as (slide, name):
        assert name == str(path)
        with opened(slide) as (same, name):
            assert same is slide and name == str(path)
        assert slide.read_region((0, 0), 0, (1, 1)).size == (1, 1)  # what was open stays open
    for wrong in (None, 3, np.zeros((4, 4, 3), np.uint8)):
        with (
            pytest.raises(ParameterError, match=r"(?s)slide: found .* expected an open slide or its path"),
            opened(wrong),
        ):
            pass


def test_a_whole_number_may_be_a_float(data, tumor_slide):
    path, coords = data.slide_path(tumor_slide), [[0, 0], [1024, 0]]
    assert np.array_equal(read_canvas(path, coords, 1024.0, 20)[0], read_canvas(path, coords, 1024, 20)[0])


@pytest.mark.parametrize(
    "parameter,value",
    [
        ("coords", [[0, float("nan")]]),
        ("coords", [[0, 0, 0]]),
        ("coords", "all"),
        ("coords", [["0", "0"]]),
        ("patch_size_level0", 0),
        ("patch_size_level0", float("nan")),
        ("patch_size_level0", "1024"),
        ("patch_size_level0", None),
        ("patch_size_level0", 10**9),
        ("px", 0),
        ("px", 2.5),
        ("px", 100_000),
        ("step_level0", 0),
        ("step_level0", -1024),
        ("slide", 3),
    ],
)
def test_a_canvas_names_what_does_not_fit(data, tumor_slide, parameter, value):
    given = {"slide": data.slide_path(tumor_slide), "coords": [[0, 0]], "patch_size_level0": 1024} | {parameter: value}
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        read_canvas(**given)


def test_a_canvas_of_patches_that_are_not_of_one_slide_is_too_large(data, tumor_slide):
    with pytest.raises(ParameterError, match=r"px: found 50, which gives a canvas of .*coordinates of one slide"):
        read_canvas(data.slide_path(tumor_slide), [[0, 0], [10**12, 10**12]], 1024)


@pytest.mark.parametrize(
    "parameter,value",
    [
        ("x", float("nan")),
        ("y", "0"),
        ("side_level0", 0),
        ("side_level0", 10**9),
        ("side_level0", "9"),
        ("px", 0),
        ("px", 0.5),
    ],
)
def test_a_patch_names_what_does_not_fit(data, tumor_slide, parameter, value):
    with open_slide(data.slide_path(tumor_slide)) as slide:
        given = {"x": 0, "y": 0, "side_level0": 512, "px": 64} | {parameter: value}
        with pytest.raises(ParameterError, match=f"^{parameter}: found "):
            read_patch(slide, **given)


@pytest.mark.parametrize("downsample", [0, -1, float("nan"), "16", 1e-6])
def test_an_overview_needs_a_positive_downsample(data, tumor_slide, downsample):
    with open_slide(data.slide_path(tumor_slide)) as slide, pytest.raises(ParameterError, match=r"^downsample: found "):
        read_overview(slide, downsample)
