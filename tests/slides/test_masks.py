import cv2
import numpy as np
import openslide
import pytest
import tifffile

from mil_tutorial import DataError, Geometry, ParameterError, label_patches, open_slide
from mil_tutorial.slides.masks import check_mask_size, count_pixels
from mil_tutorial.trident import read_patches


def write_mask(path, mask, *, tile=(256, 256), compression="adobe_deflate", lie=True):
    """A mask whose coarse level says that there is no tumour at all, as a careless converter may leave it."""
    options = {"tile": tile, "compression": compression, "photometric": "minisblack"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(mask, **options)
        if lie:
            tiff.write(np.zeros_like(mask[::4, ::4]), **options, subfiletype=1)


@pytest.mark.heavy
def test_equal_to_counting_every_pixel(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side = patches.geometry.patch_size_level0
    labels = label_patches(data.mask_path(tumor_slide), patches.coords, side)
    with open_slide(data.mask_path(tumor_slide)) as mask:
        whole = np.asarray(mask.read_region((0, 0), 0, mask.dimensions))[:, :, 0] == 2
    counted = [whole[y : y + side, x : x + side].sum() / side**2 for x, y in patches.coords]
    assert np.array_equal(labels.fraction, np.array(counted, np.float32))
    assert labels.label.dtype == np.int8 and np.array_equal(labels.label, (labels.fraction > 0.5).astype(np.int8))


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw", "packbits", "zstd", None, "jpeg"])
@pytest.mark.parametrize("side", [1, 100, 256, 700])
def test_single_pixels_count_whatever_the_pyramid_says(tmp_path, compression, side):
    rng = np.random.default_rng(side)
    mask = np.zeros((1700, 2300), np.uint8)
    mask[300:1500, 400:2000] = 1
    cv2.circle(mask, (1200, 900), 350, 2, -1)
    mask[rng.integers(0, 1700, 40), rng.integers(0, 2300, 40)] = 2
    path = tmp_path / "m.tif"
    write_mask(path, mask * 100 if compression == "jpeg" else mask, compression=compression)
    if compression == "zstd":
        try:
            openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:  # before openslide-bin 4.0.1
            pytest.skip(f"this OpenSlide cannot read zstd: {error}")
    if compression == "jpeg":  # lossy: what OpenSlide decodes is the truth
        with open_slide(path) as opened:
            mask = np.asarray(opened.read_region((0, 0), 0, opened.dimensions))[:, :, 0]
    value = 200 if compression == "jpeg" else 2
    coords = np.concatenate([rng.integers(-300, 2400, (60, 2)), [[0, 0], [2299, 1699], [1200, 900], [5000, 0]]])
    truth = [(mask[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)] == value).sum() for x, y in coords]
    assert np.array_equal(count_pixels(path, coords, side, value), truth)


def test_a_mask_damaged_in_the_middle_is_named(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.tif"
    write_mask(path, rng.integers(0, 3, (1024, 1024), dtype=np.uint8), lie=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"m\.tif"):
        count_pixels(path, np.array([[0, 0]]), 1024, 2)


def test_a_mask_of_another_size_is_refused(tmp_path):
    path = tmp_path / "m.tif"
    write_mask(path, np.zeros((512, 768), np.uint8), lie=False)

    def size(width, height):
        return Geometry.for_slide(mpp=0.25, width=width, height=height, magnification=20, patch_size=256)

    check_mask_size(path, size(768, 512))
    with pytest.raises(DataError, match=r"m\.tif: is 768 x 512 pixels, its slide is 512 x 768"):
        check_mask_size(path, size(512, 768))


@pytest.mark.parametrize(
    "parameter,changed",
    [
        ("value", {"value": 256}),
        ("value", {"value": -1}),
        ("value", {"value": 1.5}),
        ("side", {"side": 0}),
        ("side", {"side": float("nan")}),
        ("coords", {"coords": [[0, float("nan")]]}),
        ("coords", {"coords": [[0, 1, 2]]}),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(tmp_path, parameter, changed):
    given = {"coords": np.array([[0, 0]]), "side": 256, "value": 2} | changed
    with pytest.raises(ParameterError) as error:
        count_pixels(tmp_path / "m.tif", **given)
    assert error.value.parameter == parameter
