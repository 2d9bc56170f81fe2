"""Lesions as the challenge counts them: near drawings are one, small ones isolated, polygons agree with masks."""

import numpy as np
import pytest
from imagecodecs import lzw_encode
from remote.philips import TILE, draw_mask, tiles_of, write_mask, write_mask_levels

from mil_tutorial import (
    Annotation,
    DataError,
    Lesions,
    ParameterError,
    lesions_from_mask,
    lesions_from_polygons,
    open_slide,
    read_asap_xml,
)
from mil_tutorial.localization.lesions import lesions_from_annotation


def test_near_drawings_are_one_lesion_and_small_ones_isolated():
    mask = np.zeros((200, 200), bool)
    # A gap of 6 pixels is closed: 75 µm are 9.6 pixels, half on each side.
    mask[20:60, 20:60] = mask[20:60, 66:100] = True
    mask[150:152, 150:152] = True
    lesions = lesions_from_annotation(mask)
    assert lesions.labels.max() == 2 and len(lesions.itc) == 1 and lesions.count == 1
    assert lesions_from_annotation(np.zeros((5, 5))) is None


def test_the_lesion_at_a_place():
    lesions = Lesions(np.array([[0, 1], [0, 2]], np.int32), frozenset())
    assert [lesions.at(*p) for p in ((31.9, 0), (32, 31.9), (63, 32), (64, 0), (-1, 40), (40, 64))] == [
        0,
        1,
        2,
        0,
        0,
        0,
    ]


def test_lesions_from_a_mask_file(data, tumor_slide):
    assert lesions_from_mask(data.mask_path(tumor_slide)).count >= 1
    assert lesions_from_mask(data.mask_path("normal_002")) is None


def padded(values):
    """Up to whole tiles."""
    return np.pad(values, [(0, -side % TILE) for side in values.shape])


@pytest.mark.slow
@pytest.mark.parametrize("first_is_padded", [False, True])
def test_levels_padded_to_whole_tiles_move_no_lesion(tmp_path, first_is_padded):
    full = draw_mask(5000, 4200)
    write_mask(tmp_path / "plain.tif", full, levels=6)
    levels = [full[:: 2**k, :: 2**k] for k in range(6)]
    stored = [padded(level) if k or first_is_padded else level for k, level in enumerate(levels)]
    tiles = [[lzw_encode(np.ascontiguousarray(t)) for t in tiles_of(padded(level))] for level in stored]
    write_mask_levels(tmp_path / "padded.tif", [level.shape for level in stored], tiles, 0.2431)
    plain, other = (lesions_from_mask(tmp_path / f"{name}.tif", size=(5000, 4200)) for name in ("plain", "padded"))
    assert plain.count == other.count == 1 and np.array_equal(plain.labels, other.labels)
    assert other.at(2500, 2100) == 1


@pytest.mark.slow
def test_a_mask_of_half_the_slides_size(tmp_path):
    full = draw_mask(8192, 6144)
    write_mask(tmp_path / "whole.tif", full, levels=6)
    write_mask(tmp_path / "half.tif", np.ascontiguousarray(full[::2, ::2]))
    whole = lesions_from_mask(tmp_path / "whole.tif")
    half = lesions_from_mask(tmp_path / "half.tif", size=(8192, 6144))
    assert np.array_equal(whole.labels, half.labels)
    with pytest.raises(DataError, match="is 8192 x 6144 pixels, its slide is 9000 x 6144"):
        lesions_from_mask(tmp_path / "whole.tif", size=(9000, 6144))


def test_lesions_from_polygons_are_those_of_the_mask(data, tumor_slide):
    with open_slide(data.mask_path(tumor_slide)) as mask:
        width, height = mask.dimensions
    drawn = lesions_from_polygons(read_asap_xml(data.annotation_path(tumor_slide)), width, height)
    masked = lesions_from_mask(data.mask_path(tumor_slide))
    assert drawn.count == masked.count and drawn.labels.shape == masked.labels.shape
    a, b = drawn.labels > 0, masked.labels > 0
    assert (a & b).sum() / (a | b).sum() > 0.9
    assert lesions_from_polygons(Annotation(), 1000, 1000) is None


@pytest.mark.parametrize("mpp", [0, -0.25, np.nan, np.inf, "0.25", None])
def test_bad_pixel_sizes_are_refused(mpp, tmp_path):
    for function, arguments in (
        (lesions_from_annotation, (np.ones((9, 9)),)),
        (lesions_from_polygons, (Annotation(), 1000, 1000)),
        (lesions_from_mask, (tmp_path / "not read",)),
    ):
        with pytest.raises(ParameterError, match=r"^mpp: found .* a number above 0"):
            function(*arguments, mpp=mpp)


def test_bad_sizes_and_values_are_refused(tmp_path):
    for size in ((31, 1000), (1000, 0), (1000.5, 1000), ("1000", 1000)):
        with pytest.raises(ParameterError, match=r"^(width|height): found"):
            lesions_from_polygons(Annotation(), *size)
    for value in (-1, 256, 2.5, "2"):
        with pytest.raises(ParameterError, match=r"^tumor_value: found"):
            lesions_from_mask(tmp_path / "not read", value)
    with pytest.raises(ParameterError, match=r"^tumor: found shape \(9, 9, 3\)"):
        lesions_from_annotation(np.ones((9, 9, 3)))
