import json

import h5py
import numpy as np
import pytest
import tifffile

from mil_tutorial import DataError, Geometry, PrepareOptions, load_encoder, prepare, prepare_slide
from mil_tutorial import trident

GEOMETRY = Geometry.for_slide(mpp=0.25, width=4000, height=3000, magnification=20, patch_size=512)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


def test_round_trip(tmp_path):
    coords = GEOMETRY.grid()
    trident.write_patches(tmp_path / "a_patches.h5", coords, GEOMETRY)
    patches = trident.read_patches(tmp_path / "a_patches.h5")
    assert patches.name == "a" and patches.geometry == GEOMETRY and np.array_equal(patches.coords, coords)
    for compress in (False, True):
        features = np.random.default_rng(0).random((len(coords), 7)).astype(np.float16)
        trident.write_features(tmp_path / "a.h5", features, patches, "e", compress)
        found, found_coords = trident.read_features(tmp_path / "a.h5")
        assert found.dtype == np.float16 and np.array_equal(found, features) and np.array_equal(found_coords, coords)


def test_an_empty_slide_round_trips(tmp_path):
    trident.write_patches(tmp_path / "e_patches.h5", np.empty((0, 2)), GEOMETRY)
    patches = trident.read_patches(tmp_path / "e_patches.h5")
    trident.write_features(tmp_path / "e.h5", np.empty((0, 5), np.float32), patches, "e")
    assert patches.coords.shape == (0, 2) and trident.read_features(tmp_path / "e.h5")[0].shape == (0, 5)


def test_rows_are_matched_by_coordinate(tmp_path):
    patches = trident.Patches("a", np.array([[0, 0], [1024, 0], [0, 1024]]), GEOMETRY)
    other = patches.coords[[2, 0, 1]]
    order = trident.match_rows("f.h5", other, 3, patches)
    assert np.array_equal(other[order], patches.coords)
    assert trident.match_rows("f.h5", patches.coords, 3, patches) is None
    with pytest.raises(DataError, match=r"f\.h5: 2 feature rows, but 3 patches"):
        trident.match_rows("f.h5", None, 2, patches)
    with pytest.raises(DataError, match="not those of the patches"):
        trident.match_rows("f.h5", patches.coords + 1, 3, patches)


def test_a_file_cut_in_half_is_named(tmp_path):
    path = tmp_path / "a_patches.h5"
    trident.write_patches(path, GEOMETRY.grid(), GEOMETRY)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a_patches\.h5"):
        trident.read_patches(path)


def test_tridents_own_files(real):
    run = real / "trident_processed" / "20x_256px_0px_overlap"
    patches = trident.read_patches(run / "patches" / "cmu-1-small-region_patches.h5")
    features, coords = trident.read_features(run / "features_random_resnet18" / "cmu-1-small-region.h5")
    assert (patches.geometry.patch_size_level0, patches.geometry.width, patches.geometry.height) == (256, 2220, 2967)
    assert trident.match_rows("f", coords, len(features), patches) is None


def test_preparing_a_real_slide(real, tmp_path, encoder):
    slide, options = real / "cmu-1-small-region.svs", PrepareOptions(patch_size=256)
    n, done = prepare_slide(slide, tmp_path, options, encoder)
    run = tmp_path / "20x_256px_0px_overlap"
    patches = trident.read_patches(run / "patches" / "cmu-1-small-region_patches.h5")
    theirs = trident.read_patches(real / "trident_processed" / run.name / "patches" / "cmu-1-small-region_patches.h5")
    ours, other = ({tuple(c) for c in p.coords.tolist()} for p in (patches, theirs))
    assert len(ours & other) / len(ours | other) >= 0.9
    features, _ = trident.read_features(run / "features_efficientnet_lite0" / "cmu-1-small-region.h5")
    assert done and features.shape == (n, 1280) and np.isfinite(features).all()
    geojson = json.loads((tmp_path / "contours_geojson" / "cmu-1-small-region.geojson").read_text())
    assert geojson["features"] and (tmp_path / "thumbnails" / "cmu-1-small-region.jpg").is_file()
    assert prepare_slide(slide, tmp_path, options, encoder) == (n, False)


def test_folding_batch_norm_changes_nothing(encoder):
    from mil_tutorial.slides.encoders import PatchEncoder, _Lite0

    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    plain = PatchEncoder("plain", 224, 1280, _Lite0().eval(), encoder.mean, encoder.std)
    assert np.allclose(plain.encode(pictures), encoder.encode(pictures), atol=1e-4)


def _write_slide(path, rgb, mpp=0.5):
    tifffile.imwrite(
        path, rgb, tile=(256, 256), photometric="rgb", resolution=(1e4 / mpp,) * 2, resolutionunit="CENTIMETER"
    )


def test_a_bad_slide_does_not_stop_the_others(tmp_path, capsys):
    wsi = tmp_path / "wsi"
    wsi.mkdir()
    rng = np.random.default_rng(0)
    tissue = np.full((1024, 1024, 3), 240, np.uint8)
    tissue[200:800, 200:800] = (180, 90, 160) + rng.integers(-20, 20, (600, 600, 3))
    _write_slide(wsi / "good.tif", tissue)
    _write_slide(wsi / "glass.tif", np.full((1024, 1024, 3), 240, np.uint8))
    (wsi / "text.tif").write_text("no slide")
    with pytest.raises(DataError, match=r"glass\.tif: no tissue found(.|\n)*text\.tif(.|\n)*2 of 3 slides are done"):
        prepare(wsi, tmp_path / "job", PrepareOptions(patch_size=256), progress=False)
    run = tmp_path / "job" / "20x_256px_0px_overlap" / "patches"
    assert len(trident.read_patches(run / "good_patches.h5").coords) == 16
    assert len(trident.read_patches(run / "glass_patches.h5").coords) == 0
    assert not [p for p in (tmp_path / "job").rglob(".*")], "temporary files were left behind"


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
    """Appended batch by batch, so that HDF5's own tables lie between the rows."""
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
    found, _ = trident.read_features(path)
    assert found.dtype == dtype and np.array_equal(found, features)
    assert trident.count_bad_features(path) == 0
    with h5py.File(path, "a") as file:
        file["features"][[3, 999], 5] = [np.nan, np.inf]
    assert trident.count_bad_features(path, block=1 << 12) == 2
    assert trident.features_header(path)[:2] == ((1000, 33), np.dtype(dtype))


def test_what_was_prepared_otherwise_is_refused(tmp_path, encoder):
    rng = np.random.default_rng(0)
    tissue = np.full((1024, 1024, 3), 240, np.uint8)
    tissue[200:800, 200:800] = (180, 90, 160) + rng.integers(-20, 20, (600, 600, 3))
    path, job = tmp_path / "a.tif", tmp_path / "job"
    _write_slide(path, tissue)
    assert prepare_slide(path, job, PrepareOptions(patch_size=256), encoder) == (16, True)
    for options, message in (
        (PrepareOptions(patch_size=256, min_tissue_proportion=0.5), "min_tissue_proportion 0.0, now it is 0.5"),
        (PrepareOptions(patch_size=256, dtype="float16"), "holds float32 features, --dtype says float16"),
        (PrepareOptions(patch_size=256, mpp=0.45), "mpp 0.5, now it is 0.45"),
    ):
        with pytest.raises(DataError, match=message):
            prepare_slide(path, job, options, encoder)
    _write_slide(path, tissue[::-1])
    with pytest.raises(DataError, match="from another slide of this name"):
        prepare_slide(path, job, PrepareOptions(patch_size=256), encoder)


def test_pictures_of_a_prepared_slide(data, tumor_slide, tmp_path):
    from mil_tutorial.slides.prepare import locate_patches

    locate_patches(data.slide_path(tumor_slide), tmp_path, PrepareOptions())
    for folder in ("thumbnails", "contours", "20x_512px_0px_overlap/visualization"):
        import cv2

        picture = cv2.imread(str(tmp_path / folder / f"{tumor_slide}.jpg"))
        assert 900 <= max(picture.shape[:2]) <= 1000
    shapes = json.loads((tmp_path / "contours_geojson" / f"{tumor_slide}.geojson").read_text())["features"]
    assert shapes and all(f["properties"]["objectType"] == "annotation" for f in shapes)
    assert all(ring[0] == ring[-1] and len(ring) >= 4 for f in shapes for ring in f["geometry"]["coordinates"])


def test_a_timm_model_by_name(monkeypatch):
    """timm itself needs torchvision; this stands in for it and shows what is asked of it."""
    import sys
    from types import SimpleNamespace

    import torch

    class Small(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            return x.mean((2, 3))

    config = {"input_size": (3, 64, 64), "mean": (0, 0, 0), "std": (1, 1, 1)}
    fake = SimpleNamespace(
        create_model=lambda name, pretrained, num_classes: (
            Small() if (name, pretrained, num_classes) == ("org/net", True, 0) else None
        ),
        data=SimpleNamespace(resolve_model_data_config=lambda network: config),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    found = load_encoder("timm:org/net")
    assert (found.name, found.px, found.dim) == ("timm_org_net", 64, 3)
    white = np.full((2, 64, 64, 3), 255, np.uint8)
    assert np.allclose(found.encode(white), 1)
