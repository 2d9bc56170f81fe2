import numpy as np
import pytest

from mil_tutorial import Geometry, ParameterError
from mil_tutorial.geometry import as_side, grid_step, nominal_magnification


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


@pytest.mark.parametrize("side", [0, -1, 10.5, float("nan"), float("inf"), "1024", None, True])
def test_a_side_is_a_whole_number_of_pixels(side):
    assert as_side(1024.0) == as_side(np.int64(1024)) == 1024
    with pytest.raises(ParameterError, match=r"patch_size_level0: found .* expected a whole number of at least 1"):
        as_side(side)
