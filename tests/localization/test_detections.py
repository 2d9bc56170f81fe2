"""Detections drop their neighbours, survive a file, and come from clean input only."""

import numpy as np
import pytest

from mil_tutorial import DataError, ParameterError, find_detections, read_detections, write_detections

COORDS = np.array([[0, 0], [1024, 0], [5120, 0]])
SCORES = np.array([0.5, 0.9, 0.3])


def test_detections_drop_neighbours_and_survive_a_file(tmp_path):
    detections = find_detections(SCORES, COORDS, 1024)
    assert detections.tolist() == [[0.9, 1536, 512], [0.3, 5632, 512]]
    write_detections(tmp_path / "a.csv", detections)
    assert np.array_equal(read_detections(tmp_path / "a.csv"), detections)
    write_detections(tmp_path / "none.csv", np.empty((0, 3)))
    assert read_detections(tmp_path / "none.csv").shape == (0, 3)


def test_radius_and_least_score():
    assert find_detections(SCORES, COORDS, 1024, radius=0)[:, 0].tolist() == [0.9, 0.5, 0.3]
    assert find_detections(SCORES, COORDS, 1024, radius=9000)[:, 0].tolist() == [0.9]
    assert find_detections(SCORES, COORDS, 1024, least=0.3)[:, 0].tolist() == [0.9]
    assert find_detections(-SCORES, COORDS, 1024).shape == (0, 3)
    assert len(find_detections(-SCORES, COORDS, 1024, least=-np.inf)) == 2
    assert find_detections([], np.empty((0, 2)), 1024).shape == (0, 3)


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"score": [0.1, 0.2]}, "score: found 2 values.* each of 3 patches"),
        ({"score": [0.1, 0.2, np.nan]}, "score: found 3 values, 1 of them NaN"),
        ({"score": ["0.1", "0.2", "0.3"]}, "score: found"),
        ({"coords": [[0, 0], [1, 1], [2, np.nan]]}, "coords: found 1 values that are NaN"),
        ({"coords": [1, 2, 3]}, "coords: found shape"),
        ({"coords": [["a", "b"]] * 3}, "coords: found shape"),
        ({"patch_size_level0": 0}, "patch_size_level0: found 0, expected a whole number of at least 1"),
        ({"patch_size_level0": np.nan}, "patch_size_level0"),
        ({"patch_size_level0": "1024"}, "patch_size_level0"),
        ({"radius": -1}, "radius"),
        ({"radius": np.nan}, "radius"),
        ({"least": np.nan}, "least"),
        ({"least": "0"}, "least"),
    ],
)
def test_bad_input_is_refused(changed, message):
    given = {"score": SCORES, "coords": COORDS, "patch_size_level0": 1024} | changed
    with pytest.raises(ParameterError, match=f"^{message}"):
        find_detections(given.pop("score"), given.pop("coords"), given.pop("patch_size_level0"), **given)


@pytest.mark.parametrize("bad", [[[0.5, 1]], [0.5, 1, 2], [["0.5", "1", "2"]], [[np.nan, 1, 2]], "detections"])
def test_what_is_no_detection_is_not_written(tmp_path, bad):
    with pytest.raises(ParameterError, match=r"^detections: found .* numbers \(k, 3\)"):
        write_detections(tmp_path / "a.csv", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["probability,x,y\n1,2,3\n", "1,2\n", "1,2,nan\n", 'a"b,"\n1,2,3,4\n'])
def test_a_bad_file_is_named(tmp_path, text):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=r"bad\.csv.*Correct the file"):
        read_detections(tmp_path / "bad.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: there is no such file"):
        read_detections(tmp_path / "gone.csv")
