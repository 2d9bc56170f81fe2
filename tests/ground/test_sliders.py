"""A slider holds one picture for each value, starts where it is told, and is small; in print it is one picture."""

import re

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mil_tutorial import ParameterError, show_slider, sliders


def draw(n=3):
    figures = []
    for i in range(n):
        figure, axis = plt.subplots(figsize=(2, 1))
        axis.plot([0, i])
        figures.append(figure)
    return figures


def test_it_shows_one_picture_of_all_and_prints_the_same(monkeypatch):
    shown, others = [], plt.get_fignums()  # another test may have left some
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    show_slider(draw(), ["a<b", 0.5, "c"], name="the knob", start=1, alt='a "line"')
    (data,) = shown
    html = data["text/html"]
    assert len(re.findall("<img ", html)) == 3 and html.count("display:block;max-width:100%") == 1
    assert re.search(r'alt="a &quot;line&quot;: the knob 0.5" src="[^"]+" style="display:block', html)
    assert 'data-values="a&lt;b&#10;0.5&#10;c"' in html and 'max="2"' in html and 'value="1"' in html
    assert data["image/png"] and data["text/plain"] == "the knob: 0.5"
    assert plt.get_fignums() == others, "the figures are closed"


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"figures": [], "values": []}, "figures: found none"),
        ({"values": [1]}, "values: found 1 values, expected one for each of 3"),
        ({"start": 3}, "start: found 3"),
        ({"dpi": 0}, "dpi: found 0"),
    ],
)
def test_bad_input_is_refused(changed, message):
    given = {"figures": draw(), "values": [1, 2, 3], "name": "k"} | changed
    with pytest.raises(ParameterError, match=f"^{message}"):
        show_slider(**given)
    plt.close("all")


def test_pictures_that_are_too_heavy_get_fewer_pixels(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    for largest in (sliders.LARGEST, 15_000):
        monkeypatch.setattr(sliders, "LARGEST", largest)
        show_slider(draw(), [1, 2, 3], name="k", dpi=200)
    whole, half = (cv2.imdecode(np.frombuffer(data["image/png"], np.uint8), 1).shape for data in shown)
    assert whole == (200, 400, 3) and half == (100, 200, 3)


def test_pictures_that_are_too_heavy_are_refused(monkeypatch):
    monkeypatch.setattr(sliders, "LARGEST", 1000)
    with pytest.raises(ParameterError, match=r"^figures: found .* MB of pictures, expected at most 1 MB"):
        show_slider(draw(), [1, 2, 3], name="k")


@pytest.mark.parametrize("n_axes", [1, 2])
def test_nothing_jumps_from_picture_to_picture(monkeypatch, n_axes):
    """Axes with longer labels would else be laid out smaller. A picture with other axes than the first has its own."""
    monkeypatch.setattr("IPython.display.display", lambda data, raw: None)
    figures = []
    for i, n in enumerate((1, 1, n_axes)):
        figure, grid = plt.subplots(1, n, figsize=(4, 2), squeeze=False, layout="constrained")
        grid[0, 0].plot([0, 10**i])
        grid[0, 0].set_yticks([0, 10**i], ["0", "1" + "0" * i])
        figures.append(figure)
    show_slider(figures, [1, 2, 3], name="k")
    places = [tuple(figure.axes[0].get_position(original=True).bounds) for figure in figures]
    assert places[1] == places[0] != (0.125, 0.11, 0.775, 0.77), "as the first, which was laid out"
    assert (places[2] == places[0]) == (n_axes == 1)
