"""GeoJSON that QuPath reads, merged regions with their area, bad input refused before a file appears."""

import json

import numpy as np
import pytest

from mil_tutorial import ParameterError, merge_patches, write_geojson
from mil_tutorial.localization.geojson_reader import read_geojson

# The first two overlap, the third touches them.
COORDS = np.array([[0, 0], [512, 0], [0, 1024], [5000, 5000], [9000, 9000]])
SCORES = np.array([0.9, 0.8, 0.7, 0.95, 0.1])


def test_tiles_are_what_qupath_reads(tmp_path):
    path = tmp_path / "a.geojson"
    write_geojson(path, [[0, 0], [1024, 2048]], 1024, {"score": [0.1, 0.9]}, labels=[0, 1])
    collection = json.loads(path.read_text())
    second = collection["features"][1]
    assert collection["type"] == "FeatureCollection" and second["properties"]["objectType"] == "tile"
    assert second["properties"]["measurements"] == {"score": 0.9}
    assert second["properties"]["classification"]["name"] == "Tumor"
    ring = [[1024, 2048], [2048, 2048], [2048, 3072], [1024, 3072], [1024, 2048]]
    assert second["geometry"] == {"type": "Polygon", "coordinates": [ring]}
    assert '"coordinates": [[[1024, 2048], ' in path.read_text(), "tiles are in whole pixels"


def test_merged_regions_and_their_area():
    regions = merge_patches(COORDS, 1024, SCORES, 0.5, mpp=0.25)
    assert len(regions) == 2
    (alone, a), (joined, b) = regions
    assert a["patches"] == 1 and a["largest score"] == 0.95 and a["area mm2"] == pytest.approx(0.256**2)
    assert b["patches"] == 3 and b["mean score"] == pytest.approx(0.8) and joined.area == 1536 * 1024 + 1024**2
    assert merge_patches(COORDS, 1024, SCORES, 2.0) == [] and alone.area == 1024**2
    assert merge_patches(np.empty((0, 2)), 1024, [], 0.5) == []


def test_regions_are_annotations_in_front_of_the_tiles(tmp_path):
    path = tmp_path / 'a "b" <script>é.geojson'
    write_geojson(path, COORDS, 1024, {"score": SCORES}, labels=[1, 0, -1, 1, 0], regions=("score", 0.5), mpp=0.25)
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    assert [f["properties"]["objectType"] for f in features] == ["annotation"] * 2 + ["tile"] * 5
    for f in features:
        ring = np.array(f["geometry"]["coordinates"][0])
        assert f["geometry"]["type"] == "Polygon" and (ring[0] == ring[-1]).all() and len(ring) >= 5
        assert all(isinstance(v, float) for v in f["properties"]["measurements"].values())
    assert features[0]["properties"]["measurements"]["area mm2"] == pytest.approx(0.256**2)


def test_a_hole_is_a_ring_of_its_own(tmp_path):
    ring = np.array([[x, y] for x in range(3) for y in range(3) if (x, y) != (1, 1)]) * 100
    write_geojson(tmp_path / "a.geojson", ring, 100, {"s": np.ones(8)}, regions=("s", 0.5))
    region = json.loads((tmp_path / "a.geojson").read_text())["features"][0]
    outer, inner = (np.array(r) for r in region["geometry"]["coordinates"])
    assert (outer.min(), outer.max(), inner.min(), inner.max()) == (0, 300, 100, 200)


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"labels": [7] * 5}, "labels: found 5 labels, among them 7, expected 1, 0 or -1 for each of 5 patches"),
        ({"labels": [1]}, "labels: found 1 labels"),
        ({"labels": [np.nan] * 5}, "labels"),
        ({"measurements": {"score": SCORES * np.nan}}, r"measurements\['score'\]: found 5 values, 5 of them NaN"),
        ({"measurements": {"score": SCORES[1:]}}, r"measurements\['score'\]: found 4 values"),
        ({"measurements": {"score": ["0.5"] * 5}}, r"measurements\['score'\]"),
        ({"measurements": SCORES}, "measurements: found ndarray, expected a dictionary by name"),
        ({"coords": COORDS + [np.nan, 0]}, "coords: found 5 values that are NaN"),
        ({"patch_size_level0": 0}, "patch_size_level0: found 0"),
        ({"patch_size_level0": np.nan}, "patch_size_level0"),
        ({"patch_size_level0": "1024"}, "patch_size_level0"),
        ({"patch_size_level0": 512.5}, "patch_size_level0"),
        ({"regions": ("score", np.nan)}, "regions: found nan, expected a number as its threshold"),
        ({"regions": ("score", "3")}, "regions: found '3'"),
        ({"regions": ("attention", 3.0)}, "regions: found the measurement 'attention', expected one of 'score'"),
        ({"regions": "score"}, "regions: found 'score', expected a pair"),
        ({"regions": ("score",)}, "regions"),
        ({"mpp": -0.25}, "mpp"),
        ({"mpp": np.nan}, "mpp"),
        ({"mpp": -0.25, "regions": None}, "mpp"),
    ],
)
def test_bad_input_is_refused_before_a_file_appears(tmp_path, changed, message):
    given = {"coords": COORDS, "patch_size_level0": 1024, "measurements": {"score": SCORES}}
    given |= {"regions": ("score", 0.5)} | changed
    data = [given.pop(k) for k in ("coords", "patch_size_level0", "measurements")]
    with pytest.raises(ParameterError, match=f"^{message}"):
        write_geojson(tmp_path / "a.geojson", *data, **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"threshold": np.nan}, "threshold: found nan"),
        ({"threshold": "0.5"}, "threshold"),
        ({"score": SCORES[1:]}, "score: found 4 values"),
        ({"score": SCORES * np.inf}, "score"),
        ({"patch_size_level0": -1}, "patch_size_level0"),
        ({"mpp": 0}, "mpp: found 0, expected a number above 0"),
    ],
)
def test_bad_regions_are_refused(changed, message):
    given = {"coords": COORDS, "patch_size_level0": 1024, "score": SCORES, "threshold": 0.5} | changed
    with pytest.raises(ParameterError, match=f"^{message}"):
        merge_patches(**given)


def test_what_is_written_is_read_again_without_the_regions(tmp_path):
    for labels in (None, [1, 0, -1, 1, 0]):
        values = {"score": SCORES, "raw": -SCORES}
        write_geojson(tmp_path / "a.geojson", COORDS, 1024, values, labels=labels, regions=("score", 0.5))
        coords, side, read, known = read_geojson(tmp_path / "a.geojson")
        assert np.array_equal(coords, COORDS) and side == 1024 and list(read) == ["score", "raw"]
        assert all(np.array_equal(read[name], values[name]) for name in values)
        assert known is None if labels is None else known.tolist() == labels
