"""The viewer's page needs no network, shows names as text, and has the slide's tiles; bad input is refused."""

import base64
import os
import re

import cv2
import numpy as np
import pytest
from small import page_data, write_pyramid

from mil_tutorial import DataError, ParameterError, open_slide, view_heatmap
from mil_tutorial.localization import page as page_module
from mil_tutorial.localization import viewer
from mil_tutorial.localization.tiles import TILE, TilePlan, finest_factor, plan_tiles

COORDS = np.array([[0, 0], [1024, 1024]])
SIDE = 512


def decode(code):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(code, np.uint8), 1), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """3000 x 2100 pixels of smooth noise, so that each place looks like itself alone."""
    path = tmp_path_factory.mktemp("slides") / "a slide.tif"
    noise = np.random.default_rng(0).integers(0, 255, (70, 100, 3)).astype(np.uint8)
    write_pyramid(path, cv2.resize(noise, (3000, 2100), interpolation=cv2.INTER_CUBIC), 0.25)
    return path


@pytest.mark.slow
def test_the_page_needs_no_network_and_shows_names_as_text(tmp_path, slide):
    page = tmp_path / "view.html"
    title = "</title><script>alert(1)</script> ä {data}"
    scores = {"</script><script>alert(1)</script>": np.array([0.1, 0.9])}
    view_heatmap(slide, COORDS, SIDE, scores, np.array([0, 1]), title=title, html=page)
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text and "ä" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.http", text), "the page would need a network"
    assert list(page_data(page)["scores"]) == list(scores) and list(tmp_path.iterdir()) == [page]


@pytest.mark.slow
@pytest.mark.parametrize("one_file", [True, False])
def test_every_patch_is_there_at_every_level_and_glass_is_not(tmp_path, slide, one_file):
    page, coords = tmp_path / "a #1 ä.html", np.array([[0, 0], [700, 300], [2700, 1900]])  # the last one is cut
    view_heatmap(slide, coords, SIDE, {"s": [1, 2, 3]}, html=page, one_file=one_file)
    content = page_data(page)
    assert [level["factor"] for level in content["levels"]] == [2, 1] and content["tile"] == TILE
    with open_slide(slide) as reader:
        pixels = np.full((TILE * 8, TILE * 8, 3), 255, np.uint8)
        pixels[:2100, :3000] = np.asarray(reader.read_region((0, 0), 0, (3000, 2100)))[:, :, :3]
    for level in content["levels"]:
        factor, covered = level["factor"], TILE * level["factor"]
        names = {tuple(map(int, name.split("_"))) for name in level["tiles"]}
        needed = {
            (column, row)
            for x, y in coords.tolist()
            for column in range(x // covered, -(-min(x + SIDE, 3000) // covered))
            for row in range(y // covered, -(-min(y + SIDE, 2100) // covered))
        }
        assert names == needed
        for column, row in names:
            if one_file:
                tile = decode(base64.b64decode(content["inside"][f"{factor}/{column}_{row}"]))
            else:
                tile = decode((tmp_path / "a #1 ä_tiles" / f"{factor}" / f"{column}_{row}.jpg").read_bytes())
            true = pixels[row * covered : (row + 1) * covered, column * covered : (column + 1) * covered]
            true = cv2.resize(true, (TILE, TILE), interpolation=cv2.INTER_AREA).astype(float)
            assert tile.shape == (TILE, TILE, 3) and np.abs(tile - true).mean() < 4, (factor, column, row)
    assert content["address"] == "a%20%231%20%C3%A4_tiles" and (content["inside"] is None) == (not one_file)
    assert len(list(tmp_path.iterdir())) == 1 + (not one_file), "nothing temporary is left"


def test_heavy_tiles_go_into_a_folder_which_is_replaced(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(viewer, "INSIDE", 10_000)
    for coords in ([[0, 0]], COORDS):
        view_heatmap(slide, coords, SIDE, {"s": np.arange(len(coords))}, html=tmp_path / "v.html")
        files = {p.relative_to(tmp_path / "v_tiles").as_posix() for p in (tmp_path / "v_tiles").rglob("*.jpg")}
        levels = page_data(tmp_path / "v.html")["levels"]
        assert files == {f"{level['factor']}/{name}.jpg" for level in levels for name in level["tiles"]}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["v.html", "v_tiles"]


def test_the_limit_is_kept_and_said(tmp_path, slide):
    view_heatmap(slide, COORDS, SIDE, {"s": [0, 1]}, html=tmp_path / "v.html", finest_mpp=0.6)
    assert [level["factor"] for level in page_data(tmp_path / "v.html")["levels"]] == [2]
    text = (tmp_path / "v.html").read_text(encoding="utf-8")
    assert "The finest pixels here have 0.5 µm. Level 0 of the slide has 0.25 µm" in text
    assert finest_factor(0.25, 4000 * 1024**2, None) == 4, "a gigapixel slide is not shown whole"
    assert finest_factor(None, 100, None) == 1 and finest_factor(0.25, 100, 0.01) == 1


def test_a_plan_of_everything_has_every_tile_of_the_slide_and_no_other(slide):
    with open_slide(slide) as reader:
        plan = plan_tiles(reader, None, 1)
    assert plan.factors == (2, 1) and len(plan.keys()) == 3 * 3 + 6 * 5
    assert all(key in plan for key in plan.keys())
    assert not any(key in plan for key in [(1, 6, 0), (1, 0, 5), (1, -1, 0), (3, 0, 0), (4, 0, 0)])
    some = TilePlan(plan.size, plan.mpp, (1,), {1: np.array([[2, 3]])})
    assert (1, 2, 3) in some and (1, 3, 2) not in some


def test_a_slide_that_breaks_off_leaves_nothing(tmp_path, slide):
    broken = tmp_path / "in" / "broken.tif"
    broken.parent.mkdir()
    whole = slide.read_bytes()
    broken.write_bytes(whole[:200] + os.urandom(len(whole) // 2) + whole[200 + len(whole) // 2 :])
    with pytest.raises(DataError, match=r"broken\.tif"):
        view_heatmap(broken, COORDS, SIDE, {"s": [0, 1]}, html=tmp_path / "out" / "v.html", one_file=False)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_without_leaflet_it_is_said_what_to_install(tmp_path, slide, monkeypatch):
    def missing(name):
        raise page_module.PackageNotFoundError(name)

    monkeypatch.setattr(page_module, "distribution", missing)
    with pytest.raises(DataError, match="XStatic-Leaflet"):
        view_heatmap(slide, COORDS, SIDE, {"s": [0, 1]}, html=tmp_path / "v.html")


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"scores": {"s": np.zeros(3)}}, r"scores\['s'\]: found 3 values.* each of 2 patches"),
        ({"scores": {"s": [0.1, np.nan]}}, r"scores\['s'\]: found 2 values, 1 of them NaN"),
        ({"scores": {"s": ["0.1", "0.2"]}}, r"scores\['s'\]: found"),
        ({"scores": {}}, "scores: found none"),
        ({"scores": [0.1, 0.9]}, "scores: found list, expected a dictionary by name"),
        ({"labels": [1]}, "labels: found 1 labels"),
        ({"labels": [1, 7]}, "labels: found 2 labels, among them 7"),
        ({"coords": np.empty((0, 2)), "scores": {}}, "coords: found no patches.*Does the slide have tissue"),
        ({"coords": [[0, 0], [np.nan, 0]]}, "coords: found 1 values"),
        ({"coords": [[0, 0], [10**7, 0]]}, "coords: found 1 patches outside this slide"),
        ({"patch_size_level0": 0}, "patch_size_level0: found 0"),
        ({"patch_size_level0": np.nan}, "patch_size_level0"),
        ({"patch_size_level0": "1024"}, "patch_size_level0"),
        ({"finest_mpp": 0}, "finest_mpp: found 0"),
        ({"finest_mpp": "fine"}, "finest_mpp: found 'fine'"),
    ],
)
def test_bad_input_is_refused_before_a_file_appears(tmp_path, slide, changed, message):
    given = {"coords": COORDS, "patch_size_level0": SIDE, "scores": {"s": [0.1, 0.9]}} | changed
    with pytest.raises(ParameterError, match=f"^{message}"):
        view_heatmap(slide, html=tmp_path / "a.html", **given)
    assert list(tmp_path.iterdir()) == []
