import numpy as np
import pytest

from mil_tutorial import ParameterError, draw_heatmap, draw_scores
from mil_tutorial.trident import read_patches

CANVAS = np.full((20, 30, 3), 200, np.uint8)


def test_a_heatmap_colours_only_its_patches():
    out = draw_heatmap(CANVAS, np.array([1.0, 0.0, np.nan]), np.array([0, 1, 1]), np.array([2, 0, 1]), 10, alpha=1.0)
    assert (out[:10, 20:] == (np.array([0.84, 0.15, 0.16]) * 255).astype(np.uint8)).all()
    assert (out[10:, 10:20] == 200).all() and (CANVAS == 200).all()


@pytest.mark.parametrize(
    "parameter,value",
    [
        ("canvas", np.full((20, 30), 200, np.uint8)),
        ("canvas", np.full((20, 30, 3), 0.8)),
        ("canvas", "canvas.png"),
        ("values", [1.5, 0]),
        ("values", [-0.1, 0]),
        ("values", [np.inf, 0]),
        ("values", ["1", "0"]),
        ("rows", [0]),
        ("rows", [0, 2]),
        ("rows", [0, -1]),
        ("rows", [0, 0.5]),
        ("columns", [0, 1, 2]),
        ("columns", [0, 3]),
        ("px", 7),
        ("px", 0),
        ("px", 2.5),
        ("alpha", 1.5),
        ("alpha", float("nan")),
        ("max_color", (255, 0, 0)),
        ("min_color", "green"),
        ("cmap", "not a map"),
    ],
)
def test_a_heatmap_names_what_does_not_fit(parameter, value):
    given = {"canvas": CANVAS, "values": [1, 0], "rows": [0, 1], "columns": [0, 2], "px": 10}
    draw_heatmap(**given)
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        draw_heatmap(**(given | {parameter: value}))


@pytest.mark.slow
def test_scores_are_drawn_where_the_patches_are(data, tumor_slide):
    patches = read_patches(data.trident_dir / "patches" / f"{tumor_slide}_patches.h5")
    side, path, n = patches.geometry.patch_size_level0, data.slide_path(tumor_slide), len(patches.coords)
    plain = draw_scores(path, patches.coords, side, np.zeros(n), 0, 1, alpha=0)
    score = np.zeros(n)
    score[0] = 1
    low, high = (draw_scores(path, patches.coords, side, s, 0, 1, alpha=1, cmap="gray") for s in (score * 0, score))
    y, x = np.nonzero((low != high).any(2))
    scale = patches.geometry.width / plain.shape[1]
    assert abs(x.min() * scale - patches.coords[0, 0]) < 2 * scale and (high[y, x] == 255).all()


@pytest.mark.parametrize(
    "parameter,value",
    [
        ("score", [np.nan]),
        ("score", [0, 1]),
        ("score", ["high"]),
        ("low", float("nan")),
        ("high", 0),
        ("high", "1"),
        ("alpha", -1),
        ("longest", 0),
        ("patch_size_level0", 0),
        ("coords", [[0, float("nan")]]),
        ("cmap", "not a map"),
        ("slide", 3),
    ],
)
def test_drawn_scores_name_what_does_not_fit(data, tumor_slide, parameter, value):
    path = data.slide_path(tumor_slide)
    given = {"slide": path, "coords": [[0, 0]], "patch_size_level0": 1024, "score": [0.5], "low": 0, "high": 1}
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        draw_scores(**(given | {"longest": 100} | {parameter: value}))
