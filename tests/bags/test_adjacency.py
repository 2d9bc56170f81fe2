"""Which patches are neighbours: by hand, by both ways of finding them, and what is refused."""

import numpy as np
import pytest

from mil_tutorial import ParameterError, build_adjacency
from mil_tutorial.bags.adjacency import pairs_by_grid, pairs_by_tree


def test_adjacency_of_a_line_and_of_one_patch():
    A = build_adjacency(np.array([[0, 0], [1, 0], [2, 0], [5, 5]]), normalize=False).to_dense()
    assert A.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert build_adjacency(np.array([[0, 0]])).to_dense().tolist() == [[1.0]]
    assert build_adjacency([]).shape == (0, 0)


def test_weights_by_features_and_by_degree():
    features = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], np.float32)
    places = [[0, 0], [1, 0], [2, 0]]
    weight = np.exp(-5 / 2)
    A = build_adjacency(places, features=features, normalize=False).to_dense().numpy()
    assert np.allclose(A, [[0, weight, 0], [weight, 0, weight], [0, weight, 0]])
    degrees = A.sum(1)
    normalized = build_adjacency(places, features=features).to_dense().numpy()
    assert np.allclose(normalized, A / np.sqrt(np.outer(degrees, degrees)), atol=1e-6)


def test_adjacency_by_grid_and_by_tree_are_one():
    rng = np.random.default_rng(0)
    for distance in (1.0, np.sqrt(2), 2.3):
        numbers = rng.permutation(400)[:150]
        places = np.stack([numbers % 20, numbers // 20], 1)
        by_grid, by_tree = (find(places, distance + 1e-6) for find in (pairs_by_grid, pairs_by_tree))
        for a, b in zip(by_grid, by_tree, strict=True):
            assert np.array_equal(a, b)
    assert pairs_by_grid(np.array([[0, 0], [0, 0]]), 1.5) is None, "two patches at one place"
    assert pairs_by_grid(np.array([[0, 0], [10**7, 10**7]]), 1.5) is None, "a grid too wide to keep"
    far = build_adjacency(np.array([[0, 0], [10**7, 10**7], [1, 0]]), normalize=False).to_dense()
    assert far.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_a_distance_beyond_the_grid_joins_all():
    A = build_adjacency([[0, 0], [3, 0], [9, 9]], distance=1e30, normalize=False).to_dense()
    assert A.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    "parameter, call",
    [
        ("places", lambda: build_adjacency(np.zeros((4, 3)))),
        ("places", lambda: build_adjacency([[0, np.nan], [1, 0]])),
        ("places", lambda: build_adjacency([["a", "b"]])),
        ("places", lambda: build_adjacency([[0, 0], [1]])),
        ("distance", lambda: build_adjacency([[0, 0]], distance=-1)),
        ("distance", lambda: build_adjacency([[0, 0]], distance=np.nan)),
        ("features", lambda: build_adjacency([[0, 0], [1, 0]], features=np.zeros((3, 2)))),
    ],
)
def test_wrong_arguments_are_refused_by_name(parameter, call):
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        call()
