"""One slide prepared: its files, what they remember, and what happens to damaged ones."""

import json
import random

import cv2
import h5py
import numpy as np
import pytest
import torch
from small import write_tissue_slide

from mil_tutorial import DataError, ParameterError, PrepareOptions, load_encoder, prepare_slide, trident
from mil_tutorial.slides.coordinates import locate_patches
from mil_tutorial.slides.encoders import PatchEncoder

SMALL = PrepareOptions(patch_size=256)
RUN = "20x_256px_0px_overlap"


class Mean(torch.nn.Module):
    """Features of a patch: the mean of each colour."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def encoder():
    """A fast one."""
    return PatchEncoder("mean", 64, 3, Mean(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def prepared(tmp_path, encoder):
    """A slide and its job folder."""
    path, job = tmp_path / "a.tif", tmp_path / "job"
    write_tissue_slide(path)
    assert prepare_slide(path, job, SMALL, encoder) == (16, True)
    return path, job


def again(prepared, encoder, options=SMALL, **more):
    """Prepare it again: what comes back, and the notes."""
    notes = []
    return prepare_slide(*prepared, options, encoder, note=notes.append, **more), [note.text for note in notes]


def files(job):
    """Coordinates and features."""
    return job / RUN / "patches" / "a_patches.h5", job / RUN / "features_mean" / "a.h5"


def content(job):
    patches, features = files(job)
    return trident.read_patches(patches).coords, *trident.read_features(features)


@pytest.mark.slow
def test_preparing_a_real_slide(real, tmp_path):
    encoder = load_encoder()
    slide = real / "cmu-1-small-region.svs"
    n, done = prepare_slide(slide, tmp_path, SMALL, encoder)
    patches = trident.read_patches(tmp_path / RUN / "patches" / "cmu-1-small-region_patches.h5")
    theirs = trident.read_patches(real / "trident_processed" / RUN / "patches" / "cmu-1-small-region_patches.h5")
    ours, other = ({tuple(c) for c in p.coords.tolist()} for p in (patches, theirs))
    assert len(ours & other) / len(ours | other) >= 0.9
    features, _ = trident.read_features(tmp_path / RUN / "features_efficientnet_lite0" / "cmu-1-small-region.h5")
    assert done and features.shape == (n, 1280) and np.isfinite(features).all()
    geojson = json.loads((tmp_path / "contours_geojson" / "cmu-1-small-region.geojson").read_text())
    assert geojson["features"] and (tmp_path / "thumbnails" / "cmu-1-small-region.jpg").is_file()
    assert prepare_slide(slide, tmp_path, SMALL, encoder) == (n, False)


def test_images_of_a_prepared_slide(data, tumor_slide, tmp_path):
    locate_patches(data.slide_path(tumor_slide), tmp_path, PrepareOptions())
    for folder in ("thumbnails", "contours", "20x_512px_0px_overlap/visualization"):
        image = cv2.imread(str(tmp_path / folder / f"{tumor_slide}.jpg"))
        assert 900 <= max(image.shape[:2]) <= 1000
    shapes = json.loads((tmp_path / "contours_geojson" / f"{tumor_slide}.geojson").read_text())["features"]
    assert shapes and all(f["properties"]["objectType"] == "annotation" for f in shapes)
    assert all(ring[0] == ring[-1] and len(ring) >= 4 for f in shapes for ring in f["geometry"]["coordinates"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mag", (0, -20, 1000, np.nan, np.inf, "20", True, None)),
        ("patch_size", (256.5, 256.0, 0, -1, 1 << 20, np.nan, "256", True, None)),
        ("overlap", (-1, 512, 1.5, np.nan, "0", False, None)),
        ("min_tissue_proportion", (-0.1, 1.1, np.nan, "0", True, None)),
        ("mpp", (0, -0.25, 2.4, 29, np.nan, np.inf, "0.25", True)),
        ("dtype", ("float64", "f4", np.float32, None)),
        ("patch_encoder", ("", " ", 3, None)),
    ],
)
def test_options_that_mean_nothing_are_refused(name, values):
    for value in values:
        with pytest.raises(ParameterError, match=f"^{name}: found "):
            PrepareOptions(**{name: value})


def test_options_of_numpys_types_are_taken():
    options = PrepareOptions(mag=np.float32(10), patch_size=np.int64(256), overlap=np.int32(0), mpp=np.float64(0.5))
    assert trident.run_folder("", options.mag, options.patch_size, options.overlap).name == "10x_256px_0px_overlap"


# -- what is there already ---------------------------------------------------------------------------------------------


def test_what_is_whole_is_kept(prepared, encoder):
    before = [(f.read_bytes(), f.stat().st_mtime_ns) for f in files(prepared[1])]
    assert again(prepared, encoder) == ((16, False), [])
    assert [(f.read_bytes(), f.stat().st_mtime_ns) for f in files(prepared[1])] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_tissue_proportion": 0.5}, "a_patches.h5: was made with min_tissue_proportion 0.0, now it is 0.5"),
        ({"dtype": "float16"}, "a.h5: was made with dtype float32, now it is float16"),
    ],
)
def test_what_was_made_otherwise_is_refused(prepared, encoder, options, message):
    with pytest.raises(DataError, match=f"{message}. Choose another job_dir, or delete the run folder"):
        again(prepared, encoder, PrepareOptions(patch_size=256, **options))


def test_another_mpp_is_refused(prepared, encoder):
    with pytest.raises(DataError, match=r"was made with mpp 0\.5, now it is 0\.45"):
        again(prepared, encoder, mpp=0.45)


@pytest.mark.slow
def test_another_slide_of_this_name_is_refused(prepared, encoder):
    write_tissue_slide(prepared[0], turned=True)
    with pytest.raises(DataError, match=r"a_patches\.h5: was made from another slide of this name"):
        again(prepared, encoder)
    files(prepared[1])[0].unlink()
    with pytest.raises(DataError, match=r"a\.h5: was made from another slide of this name"):
        again(prepared, encoder)


@pytest.mark.slow
def test_a_file_made_otherwise_is_refused_even_if_it_is_damaged(prepared, encoder):
    """Nothing is overwritten that was asked for in another way."""
    flip(files(prepared[1])[1], "features", 5)
    write_tissue_slide(prepared[0], turned=True)
    files(prepared[1])[0].unlink()
    with pytest.raises(DataError, match=r"a\.h5: was made from another slide"):
        again(prepared, encoder)


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path, key, number):
    """Change one bit of one value."""
    with h5py.File(path) as file:
        place = file[key].id.get_offset() + number * file[key].dtype.itemsize
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "key", "reason"),
    [
        (0, "coords", "values of 'coords' do not match"),
        (1, "features", "values of 'features' do not match"),
        (1, "coords", "values of 'coords' do not match"),
        (0, None, "truncated"),
        (1, None, "truncated"),
    ],
)
def test_a_damaged_file_is_made_again_and_that_is_said(prepared, encoder, which, key, reason):
    before, file = content(prepared[1]), files(prepared[1])[which]
    if key is None:
        file.write_bytes(file.read_bytes()[:-100])
    else:
        flip(file, key, 5)
    (n, done), notes = again(prepared, encoder)
    assert (n, done) == (16, which == 1)
    (note,) = notes
    assert note.startswith(f"{file}: was damaged (") and reason in note and note.endswith("and has been made again.")
    assert all(np.array_equal(a, b) for a, b in zip(before, content(prepared[1]), strict=True))
    assert again(prepared, encoder) == ((16, False), []), "it is whole again"


def test_without_a_listener_damage_is_a_warning(prepared, encoder):
    flip(files(prepared[1])[1], "features", 5)
    with pytest.warns(UserWarning, match=r"a\.h5: was damaged .* and has been made again"):
        assert prepare_slide(*prepared, SMALL, encoder) == (16, True)


@pytest.mark.heavy
def test_bits_flipped_anywhere(prepared, encoder):
    """Whatever bit it is: the file is refused (its text attributes carry no checksum), or the values are right again.

    If they were not, that was said.
    """
    before, rng, made_again = content(prepared[1]), random.Random(0), 0

    def right():
        return all(np.array_equal(a, b) for a, b in zip(before, content(prepared[1]), strict=True))

    for file in files(prepared[1]):
        whole = file.read_bytes()
        places = [rng.randrange(min(len(whole), 1000)) for _ in range(30)] + rng.sample(range(len(whole)), 10)
        for place in places:
            raw = bytearray(whole)
            raw[place] ^= 1 << rng.randrange(8)
            file.write_bytes(raw)
            try:
                damaged = not right()
            except DataError:
                damaged = True
            try:
                _, notes = again(prepared, encoder)
            except DataError as error:
                assert str(file) in str(error) and "was made" in str(error), (file, place)
            else:
                assert right() and bool(notes) >= damaged, (file, place)
                made_again += bool(notes)
            file.write_bytes(whole)
    assert made_again > 20


def test_features_of_trident_are_taken_as_they_are(prepared, encoder):
    features = files(prepared[1])[1]
    values, coords = trident.read_features(features)
    with h5py.File(features, "w") as file:
        file["features"], file["coords"] = values + 1, coords
    written = features.read_bytes()
    assert again(prepared, encoder) == ((16, False), []) and features.read_bytes() == written


# -- how large a pixel is ----------------------------------------------------------------------------------------------


def patches_of(tmp_path, stated, encoder, options=SMALL, **more):
    """Prepare a slide that states so many µm per pixel: its patches, the remembered mpp, and the notes."""
    path, notes = tmp_path / "a.tif", []
    write_tissue_slide(path, stated)
    locate_patches(path, tmp_path / "job", options, note=notes.append, **more)
    (file,) = (tmp_path / "job").rglob("a_patches.h5")
    how = trident.read_how(file, ["mpp"])["mpp"]
    return len(trident.read_patches(file).coords), how, [note.text for note in notes]


def test_mpp_is_used_where_the_slide_does_not_say_it(tmp_path, encoder):
    assert patches_of(tmp_path, None, encoder, PrepareOptions(patch_size=256, mpp=0.5)) == (16, 0.5, [])


def test_mpp_is_not_used_where_the_slide_says_it(tmp_path, encoder):
    n, mpp, notes = patches_of(tmp_path, 0.5, encoder, PrepareOptions(patch_size=256, mpp=0.25))
    assert (n, mpp) == (16, 0.5)
    (note,) = notes
    assert "a.tif: says 0.5 µm per pixel, which is used; mpp 0.25 is for slides that do not say it." in note


def test_nothing_is_said_where_both_agree(tmp_path, encoder):
    assert patches_of(tmp_path, 0.5, encoder, PrepareOptions(patch_size=256, mpp=0.505)) == (16, 0.5, [])


def test_the_mpp_of_this_slide_is_used_whatever_it_says(tmp_path, encoder):
    n, mpp, notes = patches_of(tmp_path, 0.5, encoder, mpp=0.25)
    assert mpp == 0.25 and n != 16
    (note,) = notes
    assert "a.tif: says 0.5 µm per pixel; the 0.25 given for this slide is used." in note


def test_a_value_close_to_the_stated_one_is_used_without_a_word(tmp_path, encoder):
    assert patches_of(tmp_path, 0.5, encoder, mpp=0.495) == (16, 0.495, [])


def test_without_any_mpp_the_slide_is_refused(tmp_path, encoder):
    with pytest.raises(DataError, match=r"a\.tif: the file does not say how large a pixel is.*Give its mpp") as error:
        patches_of(tmp_path, None, encoder)
    assert "--" not in str(error.value)


@pytest.mark.parametrize("stated", [29, 2.5, 0.001])
def test_pixels_of_no_objective_are_refused_once_and_sensibly(tmp_path, encoder, stated):
    message = rf"a\.tif: its pixels are {stated} µm wide, which no objective gives.*overview or a label image"
    with pytest.raises(DataError, match=message) as error:
        patches_of(tmp_path, stated, encoder)
    assert "mag" not in str(error.value).replace("image", "")
    with pytest.raises(DataError, match=message):
        patches_of(tmp_path, stated, encoder, PrepareOptions(patch_size=256, mpp=0.5))
    assert patches_of(tmp_path, stated, encoder, mpp=0.5)[:2] == (16, 0.5)


def test_more_magnification_than_the_slide_has_is_refused(tmp_path, encoder):
    with pytest.raises(DataError, match=r"the slide is 20x \(0.5 µm per pixel\), patches at 40x.*mag of at most 20"):
        patches_of(tmp_path, 0.5, encoder, PrepareOptions(mag=40))


@pytest.mark.parametrize("mpp", [29, np.nan, "0.5", True, 0])
def test_an_mpp_of_no_objective_is_refused(prepared, encoder, mpp):
    with pytest.raises(ParameterError, match=r"^mpp: found"):
        prepare_slide(*prepared, SMALL, encoder, mpp=mpp)
