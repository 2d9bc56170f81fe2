"""The viewer's page is one file that needs no network and shows names as text; bad input is refused."""

import re

import numpy as np
import pytest

from mil_tutorial import ParameterError, view_heatmap

COORDS = np.array([[0, 0], [1024, 1024]])


def test_the_viewer_is_one_file_and_shows_names_as_text(tmp_path, data, tumor_slide):
    page = tmp_path / "view.html"
    title = "</title><script>alert(1)</script> ä"
    scores = {"</script><script>alert(1)</script>": np.array([0.1, 0.9])}
    view_heatmap(data.slide_path(tumor_slide), COORDS, 1024, scores, np.array([0, 1]), title=title, html=page)
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text and "ä" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.http", text), "the page would need a network"


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
    ],
)
def test_bad_input_is_refused_before_a_file_appears(tmp_path, data, tumor_slide, changed, message):
    given = {"coords": COORDS, "patch_size_level0": 1024, "scores": {"s": [0.1, 0.9]}} | changed
    with pytest.raises(ParameterError, match=f"^{message}"):
        view_heatmap(data.slide_path(tumor_slide), html=tmp_path / "a.html", **given)
    assert list(tmp_path.iterdir()) == []
