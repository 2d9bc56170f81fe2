import cv2
import numpy as np
import pytest
import tifffile

from mil_tutorial import (
    DataError,
    Geometry,
    draw_heatmap,
    draw_patches,
    open_slide,
    read_canvas,
    read_overview,
    read_patch,
    show_patches,
)
from mil_tutorial.geometry import grid_step, nominal_magnification
from mil_tutorial.slides.reading import slide_mpp
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


@pytest.mark.parametrize(
    "magnification,patch,overlap,side,step", [(15, 256, 0, 682, 683), (12, 512, 0, 1706, 1707), (15, 256, 32, 682, 598)]
)
def test_magnifications_that_do_not_divide(magnification, patch, overlap, side, step):
    """TRIDENT cuts the side that it writes, and rounds patch and overlap for the step."""
    g = Geometry.for_slide(
        mpp=0.25, width=9000, height=9000, magnification=magnification, patch_size=patch, overlap=overlap
    )
    assert (g.patch_size_level0, g.step_level0) == (side, step)
    assert g.cells(g.grid()).max(0).tolist() == [8999 // step] * 2


def test_the_step_is_read_off_the_coordinates():
    x = np.arange(8) * 1024
    assert grid_step(np.stack([x, x], 1)[::3], 1024) == 1024
    assert grid_step(np.stack([x // 2, x], 1), 1024) == 512
    assert grid_step(np.array([[5, 5]]), 1024) == 1024
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        grid_step(np.zeros((4, 3)), 1024)


def test_a_contact_sheet_and_a_thumbnail(data, tumor_slide):
    import matplotlib.pyplot as plt

    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side, path = patches.geometry.patch_size_level0, data.slide_path(tumor_slide)
    figure = show_patches(path, patches.coords[:11], side, labels=[1] + [0] * 9 + [-1])
    titles = [(axis.get_title() or axis.get_title(loc="left")) for axis in figure.axes if axis.get_visible()]
    assert titles[0] == "0: tumour" and titles[1] == "1: normal" and titles[10] == "10: unknown"
    plt.close(figure)
    plain = draw_patches(path, np.empty((0, 2)), side)
    drawn = draw_patches(path, patches.coords[:1], side, labels=[1])
    y, x = np.nonzero((drawn != plain).any(2))
    scale = patches.geometry.width / plain.shape[1]
    assert abs(x.min() * scale - patches.coords[0, 0]) < 2 * scale and abs(np.ptp(x) * scale - side) < 3 * scale
    with pytest.raises(ValueError, match="2 labels for 1 patches"):
        draw_patches(path, patches.coords[:1], side, labels=[1, 0])
    with pytest.raises(ValueError, match="no patches to show"):
        show_patches(path, np.empty((0, 2)), side)
