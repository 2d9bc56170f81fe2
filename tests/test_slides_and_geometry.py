import cv2
import numpy as np
import pytest
import tifffile

from mil_tutorial import DataError, Geometry, draw_heatmap, open_slide, read_canvas, read_overview, read_patch
from mil_tutorial.geometry import nominal_magnification
from mil_tutorial.slides import slide_mpp
from mil_tutorial.trident import read_patches


@pytest.mark.parametrize(
    "mpp,magnification", [(0.243, 40), (0.226, 40), (0.499, 20), (0.2501, 40), (0.12, 80), (1.0, 10), (2.0, 5)]
)
def test_magnification_is_snapped(mpp, magnification):
    assert nominal_magnification(mpp) == magnification


def test_grid_of_a_40x_slide_at_20x_with_overlap():
    g = Geometry.for_slide(mpp=0.25, width=3000, height=2000, magnification=20, patch_size=512, overlap=128)
    assert (g.patch_size_level0, g.step_level0) == (1024, 768)
    assert g.grid()[:5].tolist() == [[0, 0], [768, 0], [1536, 0], [2304, 0], [0, 768]]
    assert g.cells(np.array([[768, 768], [1536, 0]])).tolist() == [[0, 1], [1, 0]]


def test_a_slide_cannot_give_more_magnification_than_it_has():
    with pytest.raises(ValueError, match="20x"):
        Geometry.for_slide(mpp=0.5, width=10, height=10, magnification=40, patch_size=256)


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


def test_overview_in_strips_is_the_whole(data, tumor_slide):
    with open_slide(data.slide_path(tumor_slide)) as slide:
        small = read_overview(slide, 32)
        big = np.asarray(slide.read_region((0, 0), 5, slide.level_dimensions[5]))[:, :, :3]
    small = cv2.resize(small, big.shape[1::-1])
    assert np.abs(small.astype(int) - big).mean() < 3


def test_heatmap_colours_only_its_patches():
    canvas = np.full((20, 30, 3), 200, np.uint8)
    out = draw_heatmap(canvas, np.array([1.0, 0.0, np.nan]), np.array([0, 1, 1]), np.array([2, 0, 1]), 10, alpha=1.0)
    assert (out[:10, 20:] == (np.array([0.84, 0.15, 0.16]) * 255).astype(np.uint8)).all()
    assert (out[10:, 10:20] == 200).all() and (canvas == 200).all()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        draw_heatmap(canvas, np.array([1.5]), np.array([0]), np.array([0]), 10)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.tif"):
        open_slide(tmp_path / "nowhere.tif")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(DataError, match=r"text\.svs"):
        open_slide(tmp_path / "text.svs")
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((512, 512, 3), np.uint8), tile=(256, 256), photometric="rgb")
    with open_slide(path) as slide, pytest.raises(DataError, match=r"plain\.tif.*--mpp"):
        slide_mpp(slide, path)
