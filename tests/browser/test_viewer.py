"""The viewer's page in a real browser: it moves, it tells, and colours lie on the tissue that they speak of."""

import json
from html import escape

import cv2
import numpy as np
import pytest
from small import write_pyramid

from mil_tutorial import open_slide, view_heatmap, write_geojson
from mil_tutorial.geometry import Geometry
from mil_tutorial.slides.heatmaps import draw_scores

MAGENTA, GREY = (255, 0, 255), (225, 215, 222)


def write_slide(path, width, height, mpp, box):
    """A grey slide with one magenta square: box is left, top, right, bottom in level-0 pixels."""
    level = np.full((height, width, 3), GREY, np.uint8)
    level[box[1] : box[3], box[0] : box[2]] = MAGENTA
    write_pyramid(path, level, mpp)


def picture(locator):
    return cv2.cvtColor(
        cv2.imdecode(np.frombuffer(locator.screenshot(), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )


def box_of(rgb, color, tolerance=40):
    """Bounding box (left, top, right, bottom) of the pixels of a colour."""
    there = (np.abs(rgb.astype(int) - color) <= tolerance).all(2)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    assert len(rows), f"nothing of colour {color} is in the picture"
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def slide_and_patches(folder, mpp, overlap, border):
    """A slide of odd size, its patch grid at 20x, and the number of the patch whose tissue is magenta."""
    side = round(512 * 0.5 / mpp)
    width, height = int(5.3 * side), int(3.6 * side)
    geometry = Geometry.for_slide(
        mpp=mpp, width=width, height=height, magnification=20, patch_size=512, overlap=overlap
    )
    coords, level0 = geometry.grid(), geometry.patch_size_level0
    number = len(coords) - 1 if border else int(np.flatnonzero((coords[:, 0] > side) & (coords[:, 1] > side))[0])
    x, y = coords[number].tolist()
    box = (x, y, min(x + level0, width), min(y + level0, height))
    path = folder / "a 'slide' <b> ä.tif"
    write_slide(path, width, height, mpp, box)
    return path, coords, level0, number, box


CASES = {
    "20x": (0.5, 0, False),
    "40x": (0.25, 0, False),
    "40x, overlap": (0.25, 128, False),
    "20x, overlap": (0.5, 64, False),
    "20x, border": (0.5, 0, True),
    "40x, overlap, border": (0.25, 128, True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lit_patch_is_lit_at_the_same_tissue_in_viewer_overlay_and_geojson(tmp_path, open_page, case):
    path, coords, side, number, box = slide_and_patches(tmp_path, *CASES[case])
    scores = np.zeros(len(coords))
    scores[number] = 1.0

    # The viewer: the tissue's square without colour, then the score's, in the panel of the scores.
    view_heatmap(path, coords, side, {"score": scores}, html=tmp_path / "view.html")
    page = open_page((tmp_path / "view.html").as_uri())
    panel = page.locator(".bk-Figure").last
    panel.wait_for()
    page.get_by_role("slider").nth(1).press("End")  # threshold: the highest score alone
    page.get_by_role("slider").first.press("Home")
    page.wait_for_timeout(400)
    tissue = box_of(picture(panel), MAGENTA)
    page.get_by_role("slider").first.press("End")
    page.wait_for_timeout(400)
    lit = picture(panel)
    with pytest.raises(AssertionError):
        box_of(lit, MAGENTA)  # covered altogether
    score = box_of(lit[: tissue[3] + 3], (253, 231, 37), 12)  # Viridis' end; the colour bar below is left out
    if CASES[case][2]:  # at the border a patch goes on where the slide ends
        score = np.minimum(score, [*score[:2], *tissue[2:]])
    assert np.abs(score - tissue).max() <= 2, f"tissue at {tissue}, score at {score}"
    assert page.faults == []

    # The static overlay: the magenta square, and what changes when that one patch is lit. (Where patches overlap it
    # shows their mean, so the colour is not the scale's end everywhere.)
    dark, drawn = (draw_scores(path, coords, side, s, 0.0, 1.0, alpha=1.0) for s in (0 * scores, scores))
    bare = draw_scores(path, coords, side, scores, 0.0, 1.0, alpha=0.0)
    changed = np.where((dark != drawn).any(2)[..., None], np.uint8(MAGENTA), np.uint8(GREY))
    assert np.abs(box_of(bare, MAGENTA) - box_of(changed, MAGENTA)).max() <= 1

    # GeoJSON for QuPath: inside the polygon all is magenta, nothing is outside.
    write_geojson(tmp_path / "a.geojson", coords, side, {"score": scores}, regions=("score", 0.5))
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    tiles = [f for f in features if f["properties"]["measurements"].get("score") == 1.0]
    regions = [f for f in features if f["properties"]["objectType"] == "annotation"]
    assert len(tiles) == len(regions) == 1
    with open_slide(path) as slide:
        level0 = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[:, :, :3]
    magenta = (level0 == MAGENTA).all(2)
    for feature in (tiles[0], regions[0]):
        ring = np.array(feature["geometry"]["coordinates"][0], np.int64)
        inside = np.zeros(magenta.shape, np.uint8)
        (left, top), (right, bottom) = ring.min(0), ring.max(0)
        inside[top:bottom, left:right] = 1
        assert np.array_equal(inside.astype(bool), magenta)


@pytest.fixture(scope="module")
def view(tmp_path_factory, data, tumor_slide):
    """The viewer's page of a synthetic tumour slide."""
    from mil_tutorial.trident import read_patch_labels, read_patches

    folder = tmp_path_factory.mktemp("view")
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    labels = read_patch_labels(data.trident_dir / "patch_labels" / f"{tumor_slide}.h5", len(patches.coords))
    ramp = np.linspace(0, 1, len(patches.coords))
    title = "a \"quoted\" <script>document.title='broken'</script> ä slide"
    side, scores = patches.geometry.patch_size_level0, {"ramp": ramp, "turned": 1 - ramp}
    slide = data.slide_path(tumor_slide)
    view_heatmap(slide, patches.coords, side, scores, labels, title=title, html=folder / "view.html")
    return folder / "view.html"


def ranges(page):
    """Left, right, top, bottom of each panel, in level-0 pixels."""
    script = """() => { const found = [];
      for (const m of Bokeh.documents[0]._all_models.values())
        if (m.type === 'Figure') found.push([m.x_range.start, m.x_range.end, m.y_range.end, m.y_range.start]);
      return found; }"""
    return np.array(page.evaluate(script))


def test_the_viewer_pans_zooms_tells_and_obeys_without_a_network(view, open_page):
    page = open_page(view.as_uri())
    page.context.set_offline(True)
    panels = page.locator(".bk-Figure")
    panels.last.wait_for()
    page.wait_for_timeout(500)
    assert panels.count() == 3
    frame = panels.last.bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2

    start, before = ranges(page), picture(panels.first)
    frame_px = page.evaluate(
        "[...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'Figure')"
        ".map(m => [m.inner_width, m.inner_height])"
    )
    for (width, height), (left, right, top, bottom) in zip(frame_px, start, strict=True):
        assert width / (right - left) == pytest.approx(height / (bottom - top), rel=0.01), "patches must be square"
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 30, steps=5)
    page.mouse.up()
    page.wait_for_timeout(400)
    moved = ranges(page)
    assert (moved[:, 0] < start[:, 0]).all() and np.ptp(moved, axis=0).max() < 1, "panels must move together"
    assert np.abs(picture(panels.first).astype(int) - before).mean() > 1, "the slide's panel follows"

    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(600)
    zoomed = ranges(page)
    assert (np.diff(zoomed[:, :2]) < 0.9 * np.diff(moved[:, :2])).all() and np.ptp(zoomed, axis=0).max() < 1
    across, down = np.diff(zoomed[0, :2]) / np.diff(start[0, :2]), np.diff(zoomed[0, 2:]) / np.diff(start[0, 2:])
    assert across == pytest.approx(down, rel=0.05), "the picture must not be stretched"

    page.mouse.move(middle[0] + 3, middle[1] + 3)
    for word in ("patch:", "level-0 x, y:", "score:", "label:"):
        page.get_by_text(word, exact=True).first.wait_for()

    def panel_after(action):
        action()
        page.mouse.move(5, 5)
        page.wait_for_timeout(500)
        return picture(panels.last).astype(int)

    shown = panel_after(lambda: None)
    opacity, threshold = page.get_by_role("slider").nth(0), page.get_by_role("slider").nth(1)
    assert np.abs(panel_after(lambda: opacity.press("Home")) - shown).mean() > 3
    assert np.abs(panel_after(lambda: opacity.press("End")) - shown).mean() > 3
    full = panel_after(lambda: None)
    assert np.abs(panel_after(lambda: page.locator("select").select_option("turned")) - full).mean() > 3
    turned = panel_after(lambda: None)
    assert np.abs(panel_after(lambda: threshold.press("End")) - turned).mean() > 3

    page.mouse.click(*middle)
    close_up = page.locator("img[alt^='patch ']")
    close_up.wait_for()
    assert close_up.evaluate("e => e.complete && e.naturalWidth") >= 200
    assert page.title() != "broken" and page.get_by_text("<script>document.title='broken'</script>").count() >= 1
    assert page.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 800, 1000, 1400, 1920])
def test_in_a_frame_it_is_seen_whole_and_does_not_grow(view, tmp_path, open_page, width, scheme):
    """As on the website and in a notebook: every panel fills its canvas, and the page keeps its height."""
    # `srcdoc`, as in a notebook: between two files on a disk the browser lets a page not reach its frame.
    inner = escape(view.read_text(encoding="utf-8"))
    host = (
        f'<!doctype html><iframe id="v" srcdoc="{inner}" style="width:100%;height:640px;border:0"></iframe><p>below</p>'
    )
    (view.parent / "host.html").write_text(host, encoding="utf-8")
    page = open_page((view.parent / "host.html").as_uri())
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    frame = page.frame_locator("#v")
    frame.locator(".bk-Figure").last.wait_for()
    page.wait_for_timeout(1500)
    heights = []
    for _ in range(4):
        heights.append(page.evaluate("document.documentElement.scrollHeight"))
        page.wait_for_timeout(700)
    assert len(set(heights)) == 1, f"the page grows: {heights}"
    inside = page.locator("#v").bounding_box()
    for i in range(3):
        panel = frame.locator(".bk-Figure").nth(i).bounding_box()
        canvas = frame.locator(".bk-Figure").nth(i).locator(".bk-Canvas").bounding_box()
        assert panel["width"] - canvas["width"] <= 45, (
            f"panel {i} is {panel['width']} px wide, its canvas {canvas['width']}"
        )
        assert panel["x"] + panel["width"] <= inside["x"] + inside["width"] + 1, f"panel {i} is cut at the right"
        assert panel["y"] + panel["height"] <= inside["y"] + inside["height"] + 1, f"panel {i} is below the frame"
