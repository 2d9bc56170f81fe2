"""Masks whose level 0 is half or a quarter of their slide's."""

import numpy as np
import pytest
from remote.philips import draw_mask, write_mask

from mil_tutorial import DataError, Geometry, LabelRule
from mil_tutorial.slides.labels import label_slide
from mil_tutorial.slides.masks import check_mask_size
from mil_tutorial.trident import write_patches

GEOMETRY = Geometry(256, 0, 20.0, 40.0, 8192, 6144, 512)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_labels_are_those_of_the_mask_at_the_slides_size(tmp_path, factor):
    full = draw_mask(GEOMETRY.width, GEOMETRY.height)
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks" / "a_mask.tif", np.ascontiguousarray(full[::factor, ::factor]))
    coords = GEOMETRY.grid() + (4 * 7, 4 * 5)  # off the grid, and on a pixel of each mask
    write_patches(tmp_path / "patches" / "a_patches.h5", coords, GEOMETRY)
    labels = label_slide(
        "a",
        1,
        coords_dir=tmp_path / "patches",
        save_dir=tmp_path / "labels",
        masks_dir=tmp_path / "masks",
        rule=LabelRule(halve=False),
    )
    coarse = np.kron(full[::factor, ::factor] == 2, np.ones((factor, factor), bool))
    by_hand = [coarse[y : y + 512, x : x + 512].sum() / 512**2 for x, y in coords]
    np.testing.assert_allclose(labels.fraction, by_hand, atol=1e-6)
    assert labels.label.sum() > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "size,factor", [((8192, 6144), 1), ((4096, 3072), 2), ((1024, 768), 8), ((2731, 2048), 0), ((4096, 6144), 0)]
)
def test_which_sizes_belong_together(tmp_path, size, factor):
    write_mask(tmp_path / "m.tif", np.zeros(size[::-1], np.uint8), levels=1)
    if factor:
        assert check_mask_size(tmp_path / "m.tif", GEOMETRY) == factor
    else:
        with pytest.raises(DataError, match=rf"is {size[0]} x {size[1]} pixels, its slide is 8192 x 6144"):
            check_mask_size(tmp_path / "m.tif", GEOMETRY)
