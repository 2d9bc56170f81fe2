"""Pieces of tissue with grids of their own, as CLAM cuts them: everything works at the patches' true places."""

import time

import numpy as np
import pytest
import torch
from shapely import box, union_all
from small import page_data, write_pyramid

from mil_tutorial import (
    Geometry,
    ParameterError,
    TridentWSIDataset,
    build_adjacency,
    draw_heatmap,
    draw_scores,
    find_detections,
    merge_patches,
    pack,
    read_canvas,
    view_heatmap,
)
from mil_tutorial.geometry import grid_cells, grid_places, grid_step
from mil_tutorial.trident import Patches, write_features, write_patches

SIDE, SIZE, PX = 512, 5120, 32


def block(columns, rows, corner):
    """Corners of one piece of tissue on its own grid."""
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * SIDE + corner


APART = np.concatenate([block(4, 3, (0, 0)), block(3, 5, (2777, 217)), block(4, 4, (389, 2048 + 389))])
CLOSE = np.concatenate([block(4, 3, (0, 0)), block(3, 4, (2048 + 3, 3)), block(2, 2, (389, 1536 + 217))])
OVERLAPPING = np.concatenate([block(4, 3, (0, 0)), block(3, 4, (1900, 217)), block(4, 4, (389, 1480))])
EVERY = pytest.mark.parametrize("coords", [APART, CLOSE, OVERLAPPING], ids=["apart", "close", "overlapping"])


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Its colours tell where one is: red grows from left to right, green from top to bottom."""
    path = tmp_path_factory.mktemp("pieces") / "gradient.tif"
    ramp = np.linspace(0, 250, SIZE).astype(np.uint8)
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = ramp[None], ramp[:, None]
    write_pyramid(path, pixels, 0.5)
    return path


def brute_force(coords):
    """Neighbours by the definition: centres at most 1.05 diagonals apart."""
    away = np.linalg.norm((coords[:, None] - coords[None]).astype(float), axis=2)
    return ((away <= 1.05 * np.sqrt(2) * SIDE) & ~np.eye(len(coords), dtype=bool)).astype(np.float32)


def make_run(folder, coords):
    run, geometry = folder / "20x_512px_0px_overlap", Geometry(SIDE, 0, 20.0, 20.0, SIZE, SIZE, SIDE)
    patches = Patches("a", coords, geometry)
    write_patches(run / "patches" / "a_patches.h5", coords, geometry)
    write_features(run / "features_e" / "a.h5", np.random.default_rng(0).random((len(coords), 8)), patches, "e")
    (folder / "labels.csv").write_text("wsi_name,wsi_label\na,1\n")
    return run


@EVERY
def test_a_bag_has_a_cell_for_each_patch_and_neighbours_by_true_places(coords, tmp_path):
    run = make_run(tmp_path, coords)
    call = {"bag_keys": ["X", "adj", "coords"], "norm_adj": False, "packed": False}
    bag = TridentWSIDataset(run, tmp_path / "labels.csv", "e", **call)[0]
    cells = bag["coords"].numpy()
    assert cells.dtype == np.int64 and cells.min() == 0 and len(np.unique(cells, axis=0)) == len(coords)
    assert np.abs(cells - (coords - coords.min(0)) / SIDE).max() <= 1.5
    assert np.array_equal(bag["adj"].to_dense().numpy(), brute_force(coords))
    squares = box(*coords.T, *(coords + SIDE).T)
    touching = np.array([[a.intersects(b) for b in squares] for a in squares]) & ~np.eye(len(coords), dtype=bool)
    assert bag["adj"].to_dense().numpy()[touching].all(), "those that touch are neighbours, also across pieces"
    pack(run, "e", progress=False)
    packed = TridentWSIDataset(run, tmp_path / "labels.csv", "e", **call | {"packed": True})[0]
    assert torch.equal(packed["coords"], bag["coords"])
    assert torch.equal(packed["adj"].to_dense(), bag["adj"].to_dense())


def test_inside_a_piece_the_neighbours_are_those_of_its_own_grid():
    own = build_adjacency(grid_places(block(4, 3, (0, 0)), SIDE), normalize=False).to_dense()
    every = build_adjacency(grid_places(APART, SIDE), normalize=False).to_dense()
    assert torch.equal(every[:12, :12], own) and own.sum(1).max() == 8


@pytest.mark.slow
@EVERY
def test_the_canvas_shows_each_patch_at_its_place(coords, slide):
    canvas, rows, columns = read_canvas(slide, coords, SIDE, PX)
    assert canvas.shape == (round((rows.max() + 1) * PX), round((columns.max() + 1) * PX), 3)
    y, x = np.round(rows * PX).astype(int), np.round(columns * PX).astype(int)
    assert np.abs(np.stack([x, y], 1) - (coords - coords.min(0)) * PX / SIDE).max() <= 0.5
    covered = np.zeros(canvas.shape[:2], bool)
    for i in range(len(coords)):
        covered[y[i] : y[i] + PX, x[i] : x[i] + PX] = True
    assert (canvas[~covered] == 255).all() and (canvas[covered][:, 2] == 0).all()
    per_pixel = 250 / SIZE * SIDE / PX  # how much the colour grows from one pixel of the canvas to the next
    left, top = coords.min(0)
    place = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    red, green = (place[1] + 0.5 + left * PX / SIDE) * per_pixel, (place[0] + 0.5 + top * PX / SIDE) * per_pixel
    for channel, expected in ((0, red), (1, green)):
        assert np.abs(canvas[:, :, channel] - expected)[covered].max() <= per_pixel + 1, "off by more than a pixel"


def test_where_patches_overlap_the_later_one_is_seen(slide):
    coords = np.array([[0, 0], [256 + 60, 128 + 60], [128 - 60, 0]])  # a pixel is 128 wide: they round apart
    seen = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        canvas, rows, columns = read_canvas(slide, coords[order], SIDE, 4, step_level0=SIDE)
        y, x = np.round(rows * 4).astype(int), np.round(columns * 4).astype(int)
        alone = read_canvas(slide, coords[order][-1:], SIDE, 4, step_level0=SIDE)[0]
        assert np.abs(canvas[y[-1] : y[-1] + 4, x[-1] : x[-1] + 4].astype(int) - alone).max() <= 1
        seen.append(canvas.astype(int))
    assert all(np.abs(a - b).max() >= 3 for a, b in ((seen[0], seen[1]), (seen[1], seen[2])))


@pytest.mark.slow
@EVERY
def test_scores_lie_on_the_right_tissue(coords, slide, tmp_path):
    canvas, rows, columns = read_canvas(slide, coords, SIDE, PX)
    score = np.zeros(len(coords))
    score[-1] = 1
    low, high = (draw_heatmap(canvas, s, rows, columns, PX, alpha=1) for s in (score * 0, score))
    y, x = np.nonzero((low != high).any(2))
    true = (coords[-1] - coords.min(0)) * PX / SIDE
    assert np.abs([x.min() - true[0], y.min() - true[1], x.max() + 1 - PX - true[0]]).max() <= 0.5
    assert len(x) == PX * PX and np.array_equal(canvas, read_canvas(slide, coords, SIDE, PX)[0])
    low, high = (draw_scores(slide, coords, SIDE, s, 0, 1, longest=SIZE // 16, alpha=1) for s in (score * 0, score))
    y, x = np.nonzero((low != high).any(2))
    assert np.abs(np.array([x.min(), y.min()]) - coords[-1] / 16).max() <= 1
    view_heatmap(slide, coords, SIDE, {"score": score}, html=tmp_path / "view.html")
    shown = page_data(tmp_path / "view.html")
    assert np.array_equal(np.stack([shown["x"], shown["y"]], 1), coords) and shown["side"] == SIDE


@EVERY
def test_regions_and_detections_are_of_the_true_squares(coords):
    score = np.linspace(0.1, 1, len(coords))
    regions = merge_patches(coords, SIDE, score, 0.0)
    union = union_all(box(*coords.T, *(coords + SIDE).T))
    assert union_all([piece for piece, _ in regions]).symmetric_difference(union).area == 0
    assert sum(measured["patches"] for _, measured in regions) == len(coords)
    found = find_detections(score, coords, SIDE)
    away = np.linalg.norm(found[:, None, 1:] - found[None, :, 1:], axis=2) + np.eye(len(found)) * 1e9
    assert away.min() > 1.5 * SIDE and np.array_equal(found[0, 1:], coords[-1] + SIDE / 2)


def test_a_grid_that_begins_anywhere_is_one_grid(slide):
    for coords in (block(5, 4, (0, 0)), block(5, 4, (256, 256)), block(5, 4, (3, 389))[::-1]):
        cells = grid_cells(coords, SIDE)
        assert np.array_equal(cells * SIDE + coords.min(0), coords) and grid_step(coords, SIDE) == SIDE
        _, rows, columns = read_canvas(slide, coords, SIDE, PX)
        assert rows.dtype == columns.dtype == np.int64 and np.array_equal(np.stack([columns, rows], 1), cells)


def test_pieces_half_a_patch_apart_are_not_taken_for_overlap():
    coords = np.concatenate([block(4, 4, (0, 0)), block(4, 4, (2304, 256)), block(2, 2, (2304 + 3, 2400))])
    assert grid_step(coords, SIDE) == SIDE
    assert grid_step(block(9, 9, (7, 7)) // 2, SIDE) == SIDE // 2, "and true overlap still is"


def test_a_few_patches_of_a_grid_that_does_not_divide_are_on_it():
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1).reshape(-1, 2) * 683
    few = grid[[0, 26, 64, 141]]  # none beside another
    assert grid_step(few, 682) == 683 and grid_step(few * 0 + 5, 682) == 682
    assert grid_step(block(12, 12, (0, 0))[[0, 26, 64, 141]], SIDE) == SIDE


def test_a_place_twice_gets_two_cells():
    cells = grid_cells(np.array([[0, 0], [0, 0], [512, 0], [0, 512]]), SIDE)
    assert len(np.unique(cells, axis=0)) == 4


def test_fractions_that_are_not_of_this_canvas_are_refused(slide):
    canvas, rows, columns = read_canvas(slide, APART, SIDE, PX)
    score = np.zeros(len(APART))
    with pytest.raises(ParameterError, match=r"^rows: found .*multiples of 1/31"):
        draw_heatmap(canvas, score, rows, columns, PX - 1)
    with pytest.raises(ParameterError, match=r"^columns: found .* the last of this canvas"):
        draw_heatmap(canvas, score, rows, columns + 1, PX)


def test_twenty_thousand_patches_take_half_a_second():
    coords = np.concatenate([block(100, 100, (0, 0)), block(100, 100, (100 * SIDE - 200, 217))])
    began = time.perf_counter()
    cells = grid_cells(coords, SIDE)
    build_adjacency(grid_places(coords, SIDE), normalize=False)
    assert time.perf_counter() - began < 2.0, "0.1 s on a laptop; other programs may be at work"
    assert len(np.unique(cells, axis=0)) == len(coords)
