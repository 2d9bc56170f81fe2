import json
import re

import numpy as np
import pytest

from mil_tutorial import (
    DataError,
    Lesions,
    attention_times_n,
    find_detections,
    froc,
    lesions_from_mask,
    read_detections,
    scale_min_max,
    scale_rank,
    view_heatmap,
    write_detections,
    write_geojson,
)
from mil_tutorial.localization.lesions import lesions_from_annotation


def lesions(*boxes, itc=(), size=64):
    """Lesions as rectangles (row, column, height, width) of level-5 pixels, numbered from 1."""
    labels = np.zeros((size, size), np.int32)
    for number, (r, c, h, w) in enumerate(boxes, 1):
        labels[r : r + h, c : c + w] = number
    return Lesions(labels, frozenset(itc))


def at(probability, row, column):
    return [probability, column * 32 + 16, row * 32 + 16]


def test_a_perfect_reader():
    truth = {"a": lesions((4, 4, 3, 3)), "b": None}
    assert froc({"a": np.array([at(0.9, 5, 5)]), "b": np.array([at(0.1, 9, 9)])}, truth).score == 1.0
    # The official definition leaves out the smallest score; with one score in all, nothing is left.
    assert froc({"a": np.array([at(0.9, 5, 5)])}, truth).score == 0.0


def test_hits_false_alarms_and_normal_slides():
    truth = {"a": lesions((4, 4, 3, 3), (20, 20, 5, 5)), "b": None, "c": None, "d": None}
    detections = {"a": np.array([at(0.9, 5, 5), at(0.3, 21, 21)]), "b": np.array([at(0.5, 1, 1)])}
    found = froc(detections, truth)
    # thresholds 0.5 and 0.9 are left (the smallest, 0.3, is dropped), then (0, 0)
    assert found.fp_per_slide.tolist() == [0.25, 0.0, 0.0] and found.sensitivity.tolist() == [0.5, 0.5, 0.0]
    assert found.score == 0.5


def test_a_lesion_counts_once_with_its_best_detection():
    truth = {"a": lesions((4, 4, 3, 3)), "b": None}
    one = froc({"a": np.array([at(0.9, 5, 5)]), "b": np.array([at(0.2, 0, 0)])}, truth)
    three = froc({"a": np.array([at(0.9, 5, 5), at(0.8, 4, 4), at(0.1, 6, 6)]), "b": np.array([at(0.2, 0, 0)])}, truth)
    assert one.score == three.score and np.array_equal(one.fp_per_slide, three.fp_per_slide)


def test_isolated_cells_count_neither_way():
    boxes = (4, 4, 3, 3), (30, 30, 1, 1)
    hit = {"a": np.array([at(0.9, 5, 5), at(0.8, 30, 30)])}
    found = froc(hit, {"a": lesions(*boxes, itc=[2])})
    assert found.sensitivity.max() == 1.0 and found.fp_per_slide.max() == 0.0
    assert lesions(*boxes, itc=[2]).count == 1


def test_an_unhit_isolated_lesion_adds_a_threshold_of_zero():
    truth = {"a": lesions((4, 4, 3, 3), (30, 30, 1, 1), itc=[2])}
    found = froc({"a": np.array([at(0.9, 5, 5), at(0.4, 50, 50)])}, truth)
    assert found.fp_per_slide.tolist() == [1.0, 0.0, 0.0] and found.sensitivity.tolist() == [1.0, 1.0, 0.0]


def test_near_drawings_are_one_lesion_and_small_ones_isolated():
    mask = np.zeros((200, 200), bool)
    mask[20:60, 20:60] = mask[20:60, 66:100] = (
        True  # a gap of 6 pixels is closed: 75 µm are 9.6 pixels, half on each side
    )
    mask[150:152, 150:152] = True
    found = lesions_from_annotation(mask)
    assert found.labels.max() == 2 and len(found.itc) == 1 and found.count == 1
    assert lesions_from_annotation(np.zeros((5, 5))) is None


def test_lesions_from_a_mask_file(data, tumor_slide):
    found = lesions_from_mask(data.mask_path(tumor_slide))
    assert found.count >= 1
    assert lesions_from_mask(data.mask_path("normal_002")) is None


def test_froc_refuses_what_has_no_answer():
    for detections, truth, message in (
        ({}, {"a": None}, "no slide has a lesion"),
        ({"x": np.empty((0, 3))}, {"a": None}, "detections on x"),
        ({"a": np.array([[np.nan, 0, 0]])}, {"a": lesions((4, 4, 3, 3))}, "NaN"),
        ({}, {}, "no slides"),
    ):
        with pytest.raises(ValueError, match=message):
            froc(detections, truth)


def test_scores():
    raw = np.array([0.0, 1.0, 5.0])
    assert attention_times_n(raw).mean() == pytest.approx(1) and attention_times_n(np.zeros(7)).tolist() == [1] * 7
    assert scale_min_max(np.ones(3)).tolist() == [0.5] * 3 and scale_min_max(raw).tolist() == [0, 0.2, 1]
    assert scale_rank(raw).tolist() == [0, 0.5, 1]


def test_detections_drop_neighbours_and_survive_a_file(tmp_path):
    coords = np.array([[0, 0], [1024, 0], [5120, 0]])
    found = find_detections(np.array([0.5, 0.9, 0.3]), coords, 1024)
    assert found.tolist() == [[0.9, 1536, 512], [0.3, 5632, 512]]
    write_detections(tmp_path / "a.csv", found)
    assert np.array_equal(read_detections(tmp_path / "a.csv"), found)
    write_detections(tmp_path / "none.csv", np.empty((0, 3)))
    assert read_detections(tmp_path / "none.csv").shape == (0, 3)
    (tmp_path / "bad.csv").write_text("probability,x,y\n1,2,3\n")
    with pytest.raises(DataError, match=r"bad\.csv"):
        read_detections(tmp_path / "bad.csv")


def test_geojson_is_what_qupath_reads(tmp_path):
    path = tmp_path / "a.geojson"
    write_geojson(
        path, np.array([[0, 0], [1024, 2048]]), 1024, {"score": np.array([0.1, 0.9])}, labels=np.array([0, 1])
    )
    collection = json.loads(path.read_text())
    second = collection["features"][1]
    assert collection["type"] == "FeatureCollection" and second["properties"]["objectType"] == "tile"
    assert (
        second["properties"]["measurements"] == {"score": 0.9}
        and second["properties"]["classification"]["name"] == "Tumor"
    )
    ring = second["geometry"]["coordinates"][0]
    assert ring == [[1024, 2048], [2048, 2048], [2048, 3072], [1024, 3072], [1024, 2048]]
    with pytest.raises(ValueError, match="score"):
        write_geojson(path, np.array([[0, 0]]), 1024, {"score": np.array([np.nan])})


def test_the_viewer_is_one_file_and_shows_names_as_text(tmp_path, data, tumor_slide):
    page = tmp_path / "view.html"
    coords = np.array([[0, 0], [1024, 1024]])
    title = "</title><script>alert(1)</script> ä"
    scores = {"</script><script>alert(1)</script>": np.array([0.1, 0.9])}
    view_heatmap(data.slide_path(tumor_slide), coords, 1024, scores, np.array([0, 1]), title=title, html=page)
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text and "ä" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.http", text), "the page would need a network"
    with pytest.raises(ValueError, match="2 patches"):
        view_heatmap(data.slide_path(tumor_slide), coords, 1024, {"s": np.zeros(3)}, html=page)
