"""Where the tissue is."""

import numpy as np
import pytest

from mil_tutorial import ParameterError, segment_tissue
from mil_tutorial.slides.tissue import tissue_fraction, tissue_outlines


@pytest.fixture
def overview():
    image = np.full((200, 300, 3), 240, np.uint8)
    image[50:150, 100:200] = (180, 90, 160)
    return image


def test_specks_are_dropped_and_gaps_are_filled(overview):
    overview[10:14, 10:14] = (180, 90, 160)
    overview[98:102, 148:152] = 240
    tissue = segment_tissue(overview)
    assert not tissue[:30, :30].any() and tissue[90:110, 140:160].all()
    expected = np.zeros((200, 300), np.uint8)
    expected[50:150, 100:200] = 1
    assert np.count_nonzero(tissue != expected) <= 12, "only the corners may be rounded"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((200, 300), np.uint8),
        np.zeros((200, 300, 4), np.uint8),
        np.zeros((200, 300, 3)),
        np.zeros((0, 300, 3), np.uint8),
        "slide.tif",
        None,
    ],
)
def test_what_is_no_rgb_image_is_refused(image):
    with pytest.raises(ParameterError, match=r"overview: found shape .*expected an RGB image"):
        segment_tissue(image)


def test_the_fraction_of_each_patch(overview):
    coords = np.array([[1000, 500], [900, 400], [0, 0], [2900, 1900]])
    fraction = tissue_fraction(segment_tissue(overview), coords, 200, (10.0, 10.0))
    assert np.allclose(fraction, [1, 0.25, 0, 0], atol=0.01)


def test_outlines_are_closed_rings_in_level_0_pixels(overview):
    overview[80:120, 130:170] = 240
    ((outline, hole),) = tissue_outlines(segment_tissue(overview), (3000, 2000))
    for ring in (outline, hole):
        assert np.array_equal(ring[0], ring[-1])
    assert np.allclose([outline.min(0), outline.max(0)], [[1000, 500], [1990, 1490]], atol=20)
    assert np.allclose([hole.min(0), hole.max(0)], [[1300, 800], [1700, 1200]], atol=30)
