"""Slides read from afar: the same pixels, patches and labels as OpenSlide gives of the same file on disk."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from remote.philips import draw_mask, move_directories, picture, write_large, write_mask, write_philips
from remote.server import LocalServer, serving
from small import page_data

from mil_tutorial import (
    DataError,
    Geometry,
    ParameterError,
    PrepareOptions,
    label_patches,
    open_slide,
    prepare_slide,
    read_canvas,
    read_overview,
    read_patch,
    view_heatmap,
)
from mil_tutorial.files import digest
from mil_tutorial.localization.lesions import lesions_from_mask
from mil_tutorial.remote import answers, digest_of
from mil_tutorial.slides.encoders import PatchEncoder
from mil_tutorial.slides.far import FarSlide
from mil_tutorial.slides.labels import label_slide
from mil_tutorial.slides.plots import show_patches
from mil_tutorial.slides.reading import slide_mpp
from mil_tutorial.trident import read_features, read_patches, write_patches

SIDE = 5120  # pixels of level 0, ten whole tiles; from level 2 on, the levels are padded

MPP = 0.2431


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """What the server serves: slides as Philips writes them, and their mask; drawn once."""
    folder = tmp_path_factory.mktemp("served")
    rgb, mask = picture(SIDE, SIDE), draw_mask(SIDE, SIDE)
    write_philips(folder / "slide.tif", rgb, mpp=MPP)
    move_directories(folder / "slide.tif")
    write_philips(folder / "rgb.tif", rgb[:1536, :2048], mpp=MPP, levels=4, ycbcr=False)
    write_mask(folder / "slide_mask.tif", mask, levels=5)
    write_mask(folder / "sparse_mask.tif", mask, levels=5, leave_out=True)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIL_TUTORIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(answers, "FIRST_WAIT", 0.01)


@pytest.fixture
def server(folder):
    with serving(folder) as running:
        yield running


def far(server: LocalServer, name: str = "slide.tif") -> str:
    return f"{server.address}/{name}"


def on_white(slide, corner, level, size) -> np.ndarray:
    rgba = np.asarray(slide.read_region(corner, level, size)).astype(float)
    return rgba[..., :3] * (rgba[..., 3:] / 255) + 255 - rgba[..., 3:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slide.tif", "rgb.tif"])
def test_pixels_and_properties_are_openslides(server, folder, name):
    with open_slide(folder / name) as near, open_slide(far(server, name)) as slide:
        assert isinstance(slide, FarSlide) and near.properties["openslide.vendor"] == "philips"
        assert slide.dimensions == near.dimensions and slide.level_count == near.level_count
        assert slide.level_dimensions == near.level_dimensions and slide.level_downsamples == near.level_downsamples
        for key, value in near.properties.items():
            if re.fullmatch(r"openslide\.(mpp-.|vendor|level.*)", key):
                assert slide.properties[key] == value, key
        for downsample in (0.5, 1, 1.99, 2, 3, 8.1, 1000):
            assert slide.get_best_level_for_downsample(downsample) == near.get_best_level_for_downsample(downsample)
        width, height = slide.dimensions
        inside, border, lower = (width // 2, height // 2), (480, 1000), (width - 200, height - 150)
        for level in range(slide.level_count):
            factor = 2**level
            for corner in (inside, border, (0, 0), (-64, -32), lower):
                corner = tuple(side // factor * factor for side in corner)
                for place in (corner, (corner[0] + 3, corner[1] + 5)):  # the second between the level's pixels
                    pair = [on_white(s, place, level, (700, 600)) for s in (near, slide)]
                    assert np.abs(pair[0] - pair[1]).mean() <= 2, (level, place)
        assert (on_white(slide, (0, 0), 0, (64, 64)) == 255).all()  # a missing tile
        assert np.asarray(slide.read_region((0, 0), 0, (9, 9)).convert("RGB")).min() == 255


@pytest.mark.slow
def test_any_rectangle_is_openslides(server, folder):
    """Inside, over the edges, beyond them; on and between the pixels of each level."""
    random = np.random.default_rng(1)
    with open_slide(folder / "slide.tif") as near, open_slide(far(server)) as slide:
        for _ in range(80):
            corner, size = random.integers(-700, SIDE + 300, 2).tolist(), random.integers(1, 500, 2).tolist()
            level = int(random.integers(0, slide.level_count))
            pair = [on_white(s, tuple(corner), level, tuple(size)) for s in (near, slide)]
            assert np.abs(pair[0] - pair[1]).mean() <= 2, (level, corner, size)


@pytest.mark.slow
def test_mpp_is_the_slides_and_not_the_macro_pictures(server):
    with open_slide(far(server)) as slide:
        assert slide_mpp(slide, far(server)) == pytest.approx(MPP)
        with pytest.raises(ParameterError, match="level: found 6"):
            slide.read_region((0, 0), 6, (5, 5))
        with pytest.raises(ParameterError, match="size: found -1 x 5"):
            slide.read_region((0, 0), 0, (-1, 5))


def island(stride: int = 1) -> tuple[np.ndarray, int]:
    geometry = Geometry.for_slide(mpp=MPP, width=SIDE, height=SIDE, magnification=40, patch_size=512)
    return geometry.grid()[::stride], geometry.patch_size_level0


@pytest.mark.slow
def test_overview_patches_and_canvas(server, folder):
    coords, side = island()
    with open_slide(folder / "slide.tif") as near, open_slide(far(server)) as slide:
        for downsample in (3, 20, 41.3):
            a, b = read_overview(near, downsample), read_overview(slide, downsample)
            assert a.shape == b.shape and np.abs(a.astype(float) - b).mean() <= 2
        for x, y in [(2000, 1900), (-100, 300), (SIDE - 300, SIDE - 200), (1, 2)]:
            a, b = (read_patch(s, x, y, 700, 256).astype(float) for s in (near, slide))
            assert np.abs(a - b).mean() <= 2
    near_canvas, *near_places = read_canvas(folder / "slide.tif", coords, side, 50)
    far_canvas, *far_places = read_canvas(far(server), coords, side, 50)
    np.testing.assert_array_equal(near_places, far_places)
    assert np.abs(near_canvas.astype(float) - far_canvas).mean() <= 2
    assert near_canvas.min() < 200


def test_a_second_time_needs_no_server(server, folder):
    coords, side = island(3)
    first = [read_canvas(far(server), coords, side, 40)[0], label_patches(far(server, "slide_mask.tif"), coords, side)]
    url, mask, before = far(server), far(server, "slide_mask.tif"), len(server.log)
    assert before > 5
    read_canvas(url, coords, side, 40)
    assert len(server.log) == before
    server.shutdown()
    server.server_close()
    answers._pool.cache_clear()
    assert (read_canvas(url, coords, side, 40)[0] == first[0]).all()
    np.testing.assert_array_equal(label_patches(mask, coords, side).fraction, first[1].fraction)
    with pytest.raises(DataError, match="cannot be reached"):
        open_slide(f"{server.address}/other.tif")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slide_mask.tif", "sparse_mask.tif"])
def test_labels_are_identical(server, folder, tmp_path, name):
    coords, side = island()
    coords = coords + [37, -11]
    near, distant = (label_patches(m, coords, side, threshold=0.1) for m in (folder / name, far(server, name)))
    np.testing.assert_array_equal(near.fraction, distant.fraction)
    np.testing.assert_array_equal(near.label, distant.label)
    assert 0 < near.label.sum() < len(coords)
    a, b = (lesions_from_mask(m, mpp=MPP) for m in (folder / name, far(server, name)))
    np.testing.assert_array_equal(a.labels, b.labels)


def test_label_files_of_near_and_far_masks_fit_each_other(server, folder, tmp_path):
    coords, side = island()
    geometry = Geometry.for_slide(mpp=MPP, width=SIDE, height=SIDE, magnification=40, patch_size=512)
    write_patches(tmp_path / "patches" / "slide_patches.h5", coords, geometry)
    common = {"coords_dir": tmp_path / "patches", "save_dir": tmp_path / "labels"}
    assert label_slide("slide", 1, masks_dir=server.address, **common) is not None
    assert label_slide("slide", 1, masks_dir=folder, **common) is None  # it is there, and made from the same mask
    with pytest.raises(DataError, match=r"none_mask\.tif: there is no such file"):
        label_slide("none", 1, masks_dir=server.address, **common | {"coords_dir": _copy_as(tmp_path, "none")})


def _copy_as(tmp_path: Path, name: str) -> Path:
    content = (tmp_path / "patches" / "slide_patches.h5").read_bytes()
    (tmp_path / "patches" / f"{name}_patches.h5").write_bytes(content)
    return tmp_path / "patches"


def pictures(page: Path) -> dict[str, np.ndarray]:
    """Tiles of a slide's page by level and place, and the overview."""
    content = page_data(page)
    codes = {**content["inside"], "overview": content["overview"].partition(",")[2]}
    return {
        key: cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), 1).astype(float)
        for key, code in codes.items()
    }


@pytest.mark.slow
def test_the_viewers_page(server, folder, tmp_path):
    coords, side = island(7)
    scores = {"attention": np.linspace(0, 1, len(coords))}
    for name, slide in (("near", folder / "slide.tif"), ("far", far(server))):
        view_heatmap(slide, coords, side, scores, html=tmp_path / f"{name}.html")
    near, distant = (pictures(tmp_path / f"{name}.html") for name in ("near", "far"))
    assert near.keys() == distant.keys() and len(near) > 5
    assert max(np.abs(near[key] - distant[key]).mean() for key in near) <= 2
    assert len(show_patches(far(server), coords[:3], side).axes) >= 3


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.slow
def test_prepare_slide_gives_the_same_files(server, folder, tmp_path):
    encoder = PatchEncoder("mean", 64, 3, Mean(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    options = PrepareOptions(mag=20, patch_size=256)
    jobs = tmp_path / "near", tmp_path / "far"
    n, done = prepare_slide(folder / "slide.tif", jobs[0], options, encoder)
    assert n > 20 and prepare_slide(far(server), jobs[1], options, encoder) == (n, True) == (n, done)
    run = "20x_256px_0px_overlap"
    near, distant = (read_patches(job / run / "patches" / "slide_patches.h5") for job in jobs)
    np.testing.assert_array_equal(near.coords, distant.coords)
    assert near.geometry == distant.geometry and near.name == distant.name == "slide"
    near, distant = (read_features(job / run / "features_mean" / "slide.h5")[0] for job in jobs)
    assert np.abs(near - distant).max() <= 2 / 255
    names = [sorted(str(p.relative_to(job)) for p in job.rglob("*")) for job in jobs]
    assert names[0] == names[1]
    before = len(server.log)
    assert prepare_slide(far(server), jobs[1], options, encoder) == (n, False) and len(server.log) == before
    assert prepare_slide(far(server), jobs[0], options, encoder) == (n, False)  # the same slide, nearer
    assert prepare_slide(folder / "slide.tif", jobs[1], options, encoder) == (n, False)


def test_digest_is_that_of_the_file(server, folder):
    assert digest_of(far(server)) == digest(folder / "slide.tif")
    assert digest_of(folder / "slide.tif") == digest(folder / "slide.tif")


@pytest.mark.parametrize("what", ["text", "strips", "float", "flat", "no level sizes", "four samples"])
def test_what_is_no_such_tiff_is_one_clear_error(tmp_path, what):
    path = tmp_path / "served" / "a.tif"
    path.parent.mkdir()
    rgb = np.zeros((1024, 1024, 3), np.uint8)
    if what == "text":
        path.write_text("no slide " * 1000)
    elif what == "strips":
        tifffile.imwrite(path, rgb)
    elif what == "float":
        tifffile.imwrite(path, rgb.astype("f4"), tile=(256, 256), photometric="rgb")
    elif what == "flat":
        tifffile.imwrite(path, np.zeros((8448, 256, 3), np.uint8), tile=(256, 256), compression="zlib")
    elif what == "four samples":
        tifffile.imwrite(path, np.zeros((512, 512, 4), np.uint8), tile=(256, 256), photometric="rgb")
    else:
        write_philips(path, rgb, levels=2)
        path.write_bytes(path.read_bytes().replace(b"PixelDataRepresentation", b"PixelDataRepresentatiom"))
    with serving(path.parent) as server, pytest.raises(DataError) as caught:
        open_slide(far(server, "a.tif"))
    assert str(caught.value).startswith(far(server, "a.tif")) and len(str(caught.value)) < 400
    if what != "no level sizes":
        assert "no tiled pyramidal TIFF" in str(caught.value) and "Download" in str(caught.value)


def test_other_pyramids(tmp_path, data, tumor_slide):
    """Plain TIFF with resolution in its tags, as the synthetic slides are."""
    path = data.slide_path(tumor_slide)
    with serving(path.parent) as server, open_slide(path) as near, open_slide(far(server, path.name)) as slide:
        assert slide.level_dimensions == near.level_dimensions
        for key in ("openslide.vendor", "openslide.mpp-x", "openslide.mpp-y"):
            assert slide.properties[key] == near.properties[key]
        a, b = (read_overview(s, 30).astype(float) for s in (near, slide))
        assert np.abs(a - b).mean() <= 2


def test_a_real_slide(real):
    """Aperio's: what it says and shows."""
    path = real / "cmu-1-small-region.svs"
    with serving(real) as server, open_slide(path) as near, open_slide(far(server, path.name)) as slide:
        known = {key: value for key, value in near.properties.items() if key in slide.properties}
        assert known == dict(slide.properties) and known["openslide.vendor"] == "aperio"
        for corner in ((0, 0), (1000, 1001), (near.dimensions[0] - 100, 50)):
            pair = [on_white(s, corner, 0, (300, 300)) for s in (near, slide)]
            assert np.abs(pair[0] - pair[1]).mean() <= 2


@pytest.mark.slow
def test_a_lasting_read_shows_a_bar(server, monkeypatch, capsys):
    """In bytes, named after the slide; a quick one shows none."""
    monkeypatch.setattr("mil_tutorial.remote.kept.AHEAD", 1 << 16)
    with open_slide(far(server)) as slide:
        read_overview(slide, 30)
        assert capsys.readouterr().err == ""
        server.behaviour.rate = 300_000
        read_canvas(slide, *island(), 200)
    assert "slide.tif: " in capsys.readouterr().err


@pytest.mark.heavy
def test_a_large_slide_costs_little(tmp_path):
    """500 MB, 20 ms, 20 MB a second and connection."""
    path = tmp_path / "served" / "large.tif"
    path.parent.mkdir()
    write_large(path, width=53_760, height=29_696)
    with serving(path.parent) as server:
        server.behaviour.latency, server.behaviour.rate = 0.02, 20e6
        size, url, begun = path.stat().st_size, far(server, "large.tif"), time.perf_counter()
        assert size >= 500e6
        with open_slide(url) as slide:
            read_overview(slide, max(slide.dimensions) / 1000)
        assert time.perf_counter() - begun <= 4 and server.sent() <= 0.01 * size
        grid = np.mgrid[0:29_696:512, 0:53_760:512].reshape(2, -1).T[:, ::-1]
        coords = grid[np.argsort(np.square(grid + 256 - [26_880, 14_848]).sum(1), kind="stable")[:4000]]
        read_canvas(url, coords, 512, 50)
        assert server.sent() <= 0.04 * size
        before = len(server.log)
        with open_slide(url) as slide:
            read_overview(slide, max(slide.dimensions) / 1000)
        read_canvas(url, coords, 512, 50)
        assert len(server.log) == before
