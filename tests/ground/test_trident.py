"""TRIDENT's files: what is written is read, theirs and ours; what does not fit is refused."""

import h5py
import numpy as np
import pytest

from mil_tutorial import DataError, Geometry, ParameterError, trident
from mil_tutorial.hdf5 import DamagedFile

GEOMETRY = Geometry.for_slide(mpp=0.25, width=4000, height=3000, magnification=20, patch_size=512)


def test_round_trip(tmp_path):
    coords = GEOMETRY.grid()
    trident.write_patches(tmp_path / "a_patches.h5", coords, GEOMETRY)
    patches = trident.read_patches(tmp_path / "a_patches.h5")
    assert patches.name == "a" and patches.geometry == GEOMETRY and np.array_equal(patches.coords, coords)
    for compress in (False, True):
        features = np.random.default_rng(0).random((len(coords), 7)).astype(np.float16)
        trident.write_features(tmp_path / "a.h5", features, patches, "e", compress=compress)
        known, known_coords = trident.read_features(tmp_path / "a.h5")
        assert known.dtype == np.float16 and np.array_equal(known, features) and np.array_equal(known_coords, coords)


def test_an_empty_slide_round_trips(tmp_path):
    trident.write_patches(tmp_path / "e_patches.h5", np.empty((0, 2)), GEOMETRY)
    patches = trident.read_patches(tmp_path / "e_patches.h5")
    trident.write_features(tmp_path / "e.h5", np.empty((0, 5), np.float32), patches, "e")
    assert patches.coords.shape == (0, 2) and trident.read_features(tmp_path / "e.h5")[0].shape == (0, 5)
    trident.compare_features(tmp_path / "e.h5")


def test_what_made_a_file_is_remembered(tmp_path):
    path = tmp_path / "a_patches.h5"
    trident.write_patches(path, GEOMETRY.grid(), GEOMETRY, mpp=0.25, segmenter="otsu", slide_hash=None)
    assert trident.read_how(path, ["mpp", "segmenter", "slide_hash", "other"]) == {"mpp": 0.25, "segmenter": "otsu"}


def test_rows_are_matched_by_coordinate():
    patches = trident.Patches("a", np.array([[0, 0], [1024, 0], [0, 1024]]), GEOMETRY)
    other = patches.coords[[2, 0, 1]]
    order = trident.match_rows("f.h5", other, 3, patches)
    assert np.array_equal(other[order], patches.coords)
    assert trident.match_rows("f.h5", patches.coords, 3, patches) is None
    with pytest.raises(DataError, match=r"f\.h5: 2 feature rows, but 3 patches"):
        trident.match_rows("f.h5", None, 2, patches)
    with pytest.raises(DataError, match="not those of the patches"):
        trident.match_rows("f.h5", patches.coords + 1, 3, patches)


@pytest.mark.parametrize("features", [np.ones((1, 5), np.float32), np.ones(3, np.float32), np.ones((3, 5), np.int64)])
def test_features_that_are_not_a_row_for_each_patch_are_not_written(tmp_path, features):
    """One row would be repeated for every patch in silence."""
    patches = trident.Patches("a", np.array([[0, 0], [1024, 0], [0, 1024]]), GEOMETRY)
    with pytest.raises(ParameterError, match=r"features: found shape .*expected floats of shape \(3, D\)"):
        trident.write_features(tmp_path / "a.h5", features, patches, "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("coords", [np.zeros((3, 3)), np.array([[0.0, np.nan]]), [["a", "b"]]])
def test_coordinates_that_are_none_are_not_written(tmp_path, coords):
    with pytest.raises(ParameterError, match="coords: found"):
        trident.write_patches(tmp_path / "a_patches.h5", coords, GEOMETRY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fraction", "label", "name"),
    [([0.5, 0.5], [1, 3], "labels"), ([0.5, np.nan], [1, 0], "fraction"), ([0.5], [1, 0], "fraction")],
)
def test_patch_labels_that_are_none_are_not_written(tmp_path, fraction, label, name):
    labels = trident.PatchLabels(np.array(fraction), np.array(label), 0.5)
    with pytest.raises(ParameterError, match=f"{name}: found"):
        trident.write_patch_labels(tmp_path / "a.h5", labels)
    assert not list(tmp_path.iterdir())


def test_patch_labels_round_trip(tmp_path):
    labels = trident.PatchLabels(np.array([0.7, 0.1, 0.0], np.float32), np.array([1, 0, -1], np.int8), 0.5)
    trident.write_patch_labels(tmp_path / "a.h5", labels, asked_threshold=0.5)
    assert trident.read_patch_labels(tmp_path / "a.h5", 3).tolist() == [1, 0, -1]
    with pytest.raises(DataError, match=r"a\.h5: labels of shape \(3,\) for 4 patches"):
        trident.read_patch_labels(tmp_path / "a.h5", 4)


def test_a_file_cut_in_half_is_named(tmp_path):
    path = tmp_path / "a_patches.h5"
    trident.write_patches(path, GEOMETRY.grid(), GEOMETRY)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedFile, match=r"a_patches\.h5"):
        trident.read_patches(path)


def test_tridents_own_files(real):
    run = real / "trident_processed" / "20x_256px_0px_overlap"
    patches = trident.read_patches(run / "patches" / "cmu-1-small-region_patches.h5")
    file = run / "features_random_resnet18" / "cmu-1-small-region.h5"
    features, coords = trident.read_features(file)
    trident.compare_features(file)  # they carry no checksum
    assert (patches.geometry.patch_size_level0, patches.geometry.width, patches.geometry.height) == (256, 2220, 2967)
    assert trident.match_rows("f", coords, len(features), patches) is None


def test_old_fields_of_any_number_type(tmp_path):
    path = tmp_path / "a_patches.h5"
    trident.write_patches(path, GEOMETRY.grid(), GEOMETRY)
    with h5py.File(path, "a") as file:
        file["coords"].attrs["patch_size_level0"] = np.float64(1024.0)
        file["coords"].attrs["target_magnification"] = np.int64(20)
    assert trident.read_patches(path).geometry == GEOMETRY


@pytest.mark.parametrize("rows_in_a_chunk", [1, 7])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_row_chunks_as_trident_writes_them(tmp_path, rows_in_a_chunk, dtype):
    """Appended batch by batch, so that HDF5's own tables are between the rows."""
    features = np.random.default_rng(0).random((1000, 33)).astype(dtype)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("features", (0, 33), dtype, maxshape=(None, 33), chunks=(rows_in_a_chunk, 33))
        other = file.create_dataset("coords", (0, 2), np.int64, maxshape=(None, 2), chunks=(1, 2))
        for start in range(0, 1000, 64):
            for target, values in ((dataset, features), (other, np.zeros((1000, 2), np.int64))):
                part = values[start : start + 64]
                target.resize(start + len(part), axis=0)
                target[start:] = part
    known, _ = trident.read_features(path)
    assert known.dtype == dtype and np.array_equal(known, features)
    assert trident.read_features(path, coords=False)[1] is None
    assert trident.count_bad_features(path) == 0
    with h5py.File(path, "a") as file:
        file["features"][[3, 999], 5] = [np.nan, np.inf]
    assert trident.count_bad_features(path, block=1 << 12) == 2
    assert trident.features_header(path)[:2] == ((1000, 33), np.dtype(dtype))


def test_old_files_with_a_third_dimension(tmp_path):
    features = np.random.default_rng(0).random((1, 90, 4)).astype(np.float32)
    features[0, 7, 3] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = features
    assert trident.features_header(tmp_path / "a.h5")[0] == (90, 4)
    assert trident.count_bad_features(tmp_path / "a.h5") == 1
    assert np.array_equal(trident.read_features(tmp_path / "a.h5")[0], features[0], equal_nan=True)
