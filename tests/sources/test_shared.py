"""Features as others share them: CLAM's folders and NumPy files become TRIDENT's, or one says what is missing."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from small import write_tissue_slide

from mil_tutorial import DataError, ParameterError, TridentWSIDataset, open_data
from mil_tutorial.commands.import_ import import_folder
from mil_tutorial.commands.main import main
from mil_tutorial.sources.places import ImportOptions
from mil_tutorial.sources.shared import find_shared, import_slide
from mil_tutorial.trident import read_features, read_how, read_patches

SIDE, DIM = 512, 16
NAMES = ["normal_001", "tumor_001", "normal_002", "tumor_002"]  # in no order
RUN = "trident_processed/20x_256px_0px_overlap"
CLAM = {"patch_size": SIDE, "patch_level": 0, "downsample": (1.0, 1.0), "level_dim": (20_000, 10_000)}
GIVEN = {"patch_size_level0": SIDE, "magnification": 20, "level0_magnification": 40}


def corners(name):
    """Two pieces of tissue, each with a grid of its own."""
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * SIDE
    return np.concatenate([grid, grid + (5000, 217 + len(name))])


def values(name):
    return np.random.default_rng(len(name) + ord(name[-1])).random((24, DIM), np.float32)


def write_h5(path, attributes=None, **datasets):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
        file["coords" if "coords" in datasets else "features"].attrs.update(attributes or {})


def write_pt(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def clam_h5(folder):
    for name in NAMES:
        write_h5(folder / "h5_files" / f"{name}.h5", features=values(name), coords=corners(name).astype(np.int32))
        write_h5(folder / "patches" / f"{name}.h5", CLAM, coords=corners(name))


def clam_pt(folder):
    for name in NAMES:
        write_pt(folder / "features" / "pt_files" / f"{name}.pt", torch.from_numpy(values(name)))
        write_h5(folder / "patches" / f"{name}.h5", CLAM, coords=corners(name))


def numpy_beside(folder):
    for name in NAMES:
        np.save(folder / f"{name}.npy", values(name).astype(np.float64))
        np.save(folder / f"{name}_coords.npy", corners(name).astype(float))


def numpy_apart(folder):
    for part, make in (("features", values), ("coords", corners)):
        (folder / part).mkdir()
        for name in NAMES:
            np.save(folder / part / f"{name}.npy", make(name))


LAYOUTS = {
    "clam_h5": (clam_h5, ".", None, {"magnification": 20, "mpp": 0.25}),
    "clam_pt": (clam_pt, "features", None, {"magnification": 20, "mpp": 0.25}),
    "numpy_beside": (numpy_beside, ".", None, GIVEN),
    "numpy_apart": (numpy_apart, "features", "coords", GIVEN),
}


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def bring(folder, root, *, coords=None, **given):
    return import_folder(folder, root, ImportOptions(encoder="uni", **given), coords=coords, progress=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_bags(layout, shared, tmp_path):
    make, folder, coords, given = LAYOUTS[layout]
    make(shared)
    root = tmp_path / "root"
    done = bring(shared / folder, root, coords=coords and shared / coords, **given)
    assert [(s.run, s.patches, s.dim, s.new) for s in done] == [(root / RUN, 24, DIM, True)] * 4
    pd.DataFrame({"wsi_name": NAMES, "wsi_label": [0, 1, 0, 1]}).to_csv(root / "wsi_labels.csv", index=False)
    dataset = TridentWSIDataset(root / RUN, root / "wsi_labels.csv", "uni", bag_keys=["X", "coords", "adj"])
    for name, bag in zip(dataset.get_bag_names(), dataset, strict=True):
        assert np.array_equal(bag["X"].numpy(), values(name)), "row for row"
        patches = read_patches(root / RUN / "patches" / f"{name}_patches.h5")
        assert np.array_equal(patches.coords, corners(name))
        geometry = patches.geometry
        assert (geometry.patch_size_level0, geometry.patch_size, geometry.level0_magnification) == (SIDE, 256, 40)
    size = (20_000, 10_000) if make in (clam_h5, clam_pt) else tuple(corners(NAMES[-1]).max(0) + SIDE)
    last = read_patches(root / RUN / "patches" / f"{NAMES[-1]}_patches.h5").geometry
    assert (last.width, last.height) == size


def test_what_is_there_stays_and_a_broken_run_goes_on(shared, tmp_path):
    clam_h5(shared)
    root, given = tmp_path / "root", {"magnification": 20, "mpp": 0.25}
    bring(shared, root, **given)
    target = root / RUN / "features_uni" / f"{NAMES[1]}.h5"
    before = {p: p.stat().st_mtime_ns for p in sorted((root / RUN).rglob("*.h5"))}
    target.unlink()
    assert [s.new for s in bring(shared, root, **given)] == [False, False, True, False]
    assert {p for p, t in before.items() if p.stat().st_mtime_ns != t} == {target}
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 255
    target.write_bytes(content)
    bring(shared, root, **given)
    assert np.array_equal(read_features(target)[0], values(NAMES[1])), "a damaged file is made again"


def test_other_files_are_never_overwritten(shared, tmp_path):
    clam_h5(shared)
    root, given = tmp_path / "root", {"magnification": 20, "mpp": 0.25}
    bring(shared, root, **given)
    before = {p: p.read_bytes() for p in sorted((root / RUN).rglob("*.h5"))}
    changed = shared / "h5_files" / f"{NAMES[0]}.h5"
    write_h5(changed, features=values(NAMES[0]) + 1, coords=corners(NAMES[0]))
    with pytest.raises(
        DataError, match=r"normal_001\.h5: is there, made from something else.*\n3 of 4 slides are done"
    ):
        bring(shared, root, **given)
    write_h5(changed, features=values(NAMES[0]), coords=corners(NAMES[0]) + 1)
    with pytest.raises(DataError, match=r"normal_001(_patches)?\.h5: is there"):
        import_folder(shared, root, ImportOptions(encoder="other", **given), progress=False)
    assert {p: p.read_bytes() for p in before} == before


def test_a_second_encoder_shares_the_patches(shared, tmp_path):
    clam_h5(shared)
    root, given = tmp_path / "root", {"magnification": 20, "mpp": 0.25}
    bring(shared, root, **given)
    order = np.random.default_rng(0).permutation(24)
    for name in NAMES:
        rows = {"features": values(name)[order, :4].astype(np.float16), "coords": corners(name)[order]}
        write_h5(shared / "h5_files" / f"{name}.h5", **rows)
    import_folder(shared, root, ImportOptions(encoder="small", **given), progress=False)
    pd.DataFrame({"wsi_name": NAMES, "wsi_label": [0, 1, 0, 1]}).to_csv(root / "labels.csv", index=False)
    bag = TridentWSIDataset(root / RUN, root / "labels.csv", "small", bag_keys=["X", "coords"])[0]
    expected = values(NAMES[0])[:, :4].astype(np.float16).astype(np.float32)
    assert np.array_equal(bag["X"].numpy(), expected), "in the order of the patches"


def test_the_slides_know_their_size_and_magnification(shared, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    write_tissue_slide(slides / "a.tif", 0.5)
    np.save(shared / "a.npy", np.zeros((2, 3), np.float32))
    np.save(shared / "a_coords.npy", [[100, 200], [356, 200]])
    options = ImportOptions(encoder="e", patch_size_level0=256, magnification=20)
    (found,) = find_shared(shared, slides=slides)
    notes = []
    done = import_slide(found, tmp_path / "job", options, note=notes.append)
    geometry = read_patches(done.run / "patches" / "a_patches.h5").geometry
    assert (geometry.width, geometry.height, geometry.level0_magnification) == (1024, 1024, 20) and not notes
    assert read_how(done.run / "features_e" / "a.h5", ["source"]) == {"source": "a.npy"}
    other = ImportOptions(encoder="e", patch_size_level0=256, magnification=20, level0_magnification=40)
    with pytest.raises(DataError, match=r"a\.tif: is 20x \(0\.5 µm per pixel\)"):
        import_slide(found, tmp_path / "other", other)
    np.save(shared / "a_coords.npy", [[100, 200], [5000, 200]])
    with pytest.raises(DataError, match=r"a_coords\.npy: patches lie outside the slide of 1024 x 1024 pixels"):
        import_slide(found, tmp_path / "other", options)
    (slides / "a.tif").unlink()
    with pytest.raises(DataError, match="there is no such file"):
        import_slide(*find_shared(shared, slides=slides), tmp_path / "other", options)


def test_a_size_that_is_a_guess_is_told_once(shared, tmp_path, capsys):
    numpy_beside(shared)
    bring(shared, tmp_path / "root", **GIVEN)
    told = capsys.readouterr().out
    assert told.count("the slide's size is not known") == 1 and "Slides that have a guessed size: 4 in all" in told


def test_a_guessed_size_is_corrected_once_the_slide_is_there(shared, tmp_path):
    root, given = tmp_path / "root", {"patch_size_level0": 256, "magnification": 20, "mpp": 0.5}
    np.save(shared / "a.npy", np.zeros((2, 3), np.float32))
    np.save(shared / "a_coords.npy", [[100, 200], [356, 200]])
    (first,) = bring(shared, root, **given)
    path = first.run / "patches" / "a_patches.h5"
    assert read_patches(path).geometry.width == 612 and read_how(path, ["size_guessed"])
    assert [s.new for s in bring(shared, root, **given)] == [False]
    (root / "images").mkdir()
    write_tissue_slide(root / "images" / "a.tif", 0.5)
    assert [s.new for s in bring(shared, root, **given)] == [True]
    assert read_patches(path).geometry.width == 1024 and not read_how(path, ["size_guessed"])
    assert [s.new for s in bring(shared, root, **given)] == [False]


def bad_value(value):
    rows = values("a")
    rows[3, 5] = value
    return rows


FAULTS = {
    "no coordinates": (lambda f: write_h5(f / "a.h5", features=values("a")), r"a\.h5: no coordinates for slide a"),
    "no patch size": (
        lambda f: write_h5(f / "a.h5", features=values("a"), coords=corners("a")),
        r"a\.h5: does not say how large a patch is",
    ),
    "another patch size": (
        lambda f: write_h5(f / "a.h5", CLAM | {"patch_size": 300}, features=values("a"), coords=corners("a")),
        r"a\.h5: says 300 level-0 pixels for a patch, but patch_size_level0 512",
    ),
    "a level without its size": (
        lambda f: write_h5(
            f / "a.h5", {"patch_size": 256, "patch_level": 1}, features=values("a"), coords=corners("a")
        ),
        r"a\.h5: does not say how large a patch is",
    ),
    "rows": (
        lambda f: write_h5(f / "a.h5", CLAM, features=values("a")[:-1], coords=corners("a")),
        r"a\.h5: 23 rows of features, but 24 coordinates",
    ),
    "NaN": (
        lambda f: write_h5(f / "a.h5", CLAM, features=bad_value(np.nan), coords=corners("a")),
        r"a\.h5: 1 features are NaN or infinite",
    ),
    "infinite": (
        lambda f: write_h5(f / "a.h5", CLAM, features=bad_value(np.inf), coords=corners("a")),
        r"a\.h5: 1 features are NaN or infinite",
    ),
    "whole numbers": (
        lambda f: write_h5(f / "a.h5", CLAM, features=values("a").astype(int), coords=corners("a")),
        r"a\.h5: 'features' has shape .* expected \(n, D\) of floats",
    ),
    "one row": (
        lambda f: (np.save(f / "a.npy", values("a")[0]), np.save(f / "a_coords.npy", corners("a")[:1])),
        r"a\.npy: its features have shape \(16,\)",
    ),
    "objects": (
        lambda f: (np.save(f / "a.npy", np.array([{}])), np.save(f / "a_coords.npy", corners("a"))),
        r"a\.npy: cannot be read as an array",
    ),
    "fractions": (
        lambda f: (np.save(f / "a.npy", values("a")), np.save(f / "a_coords.npy", corners("a") + 0.5)),
        r"a_coords\.npy: its coordinates are fractions",
    ),
    "another shape": (
        lambda f: (np.save(f / "a.npy", values("a")), np.save(f / "a_coords.npy", np.zeros((24, 3)))),
        r"a_coords\.npy: as coordinates, found shape \(24, 3\)",
    ),
    "below 0": (
        lambda f: (np.save(f / "a.npy", values("a")), np.save(f / "a_coords.npy", corners("a") - 1)),
        r"a_coords\.npy: has coordinates below 0",
    ),
    "a dictionary": (
        lambda f: (write_pt(f / "a.pt", {"features": torch.ones(24, 4)}), np.save(f / "a_coords.npy", corners("a"))),
        r"a\.pt: holds a dict of features, expected one dense tensor",
    ),
    "code": (
        lambda f: (write_pt(f / "a.pt", torch.nn.Linear(2, 2)), np.save(f / "a_coords.npy", corners("a"))),
        r"a\.pt: cannot be read as a tensor",
    ),
    "no tensor": (
        lambda f: ((f / "a.pt").write_bytes(b"text"), np.save(f / "a_coords.npy", corners("a"))),
        r"a\.pt: cannot be read as a tensor",
    ),
    "overlap": (
        lambda f: write_h5(f / "a.h5", CLAM, features=values("a"), coords=corners("a") // 2),
        r"a\.h5: patches lie 256 level-0 pixels apart. Give overlap 128",
    ),
    "only coordinates": (
        lambda f: write_h5(f / "a.h5", CLAM, coords=corners("a")),
        r"a\.h5: has no dataset 'features'",
    ),
    "damaged": (lambda f: (f / "a.h5").write_bytes(b"no HDF5"), r"a\.h5: cannot be read as HDF5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(fault, shared, tmp_path):
    make, message = FAULTS[fault]
    make(shared)
    silent = ("no patch size", "a level without its size")
    options = ImportOptions(encoder="e", **GIVEN | ({"patch_size_level0": None} if fault in silent else {}))
    with pytest.raises(DataError, match=message):
        import_slide(*find_shared(shared), tmp_path / "job", options)
    assert not list(tmp_path.glob("job/**/features_e/*"))


def test_magnifications_that_are_missing_or_do_not_fit(shared, tmp_path):
    numpy_beside(shared)
    for given, message in (
        ({"magnification": 20}, "does not say the slide's magnification"),
        ({"mpp": 0.25}, "does not say at which magnification"),
        ({"mpp": 0.25, "magnification": 3}, "expected a whole number"),
    ):
        with pytest.raises(DataError, match=message):
            bring(shared, tmp_path / "root", patch_size_level0=SIDE, **given)
    with pytest.raises(ParameterError, match=r"mpp: found 0\.25, which is 40x"):
        ImportOptions(encoder="e", mpp=0.25, level0_magnification=20)
    with pytest.raises(ParameterError, match="encoder: found"):
        ImportOptions(encoder="../e")


def test_slides_of_another_encoder_or_grid_are_named(shared, tmp_path):
    clam_h5(shared)
    write_h5(shared / "h5_files" / "tumor_001.h5", features=values("a")[:, :3], coords=corners("tumor_001"))
    (shared / "patches" / "tumor_002.h5").unlink()
    wide = CLAM | {"patch_size": 2 * SIDE}
    write_h5(shared / "h5_files" / "tumor_002.h5", wide, features=values("a"), coords=corners("a") * 2)
    with pytest.raises(DataError) as error:
        bring(shared, tmp_path / "root", magnification=20, mpp=0.25, overlap=0)
    first, second, last = str(error.value).splitlines()
    assert "tumor_001.h5: 3 features for each patch, others have 16" in first and "2 of 4 slides are done" in last
    assert "tumor_002.h5: its patches belong to 20x_512px_0px_overlap" in second


def test_the_command(shared, tmp_path, capsys):
    clam_pt(shared)
    root, labels = tmp_path / "root", tmp_path / "labels.csv"
    call = ["import", str(shared / "features"), str(root), "--encoder", "uni", "--labels", str(labels)]
    pd.DataFrame({"wsi_name": ["normal_001", "tumour_1"], "wsi_label": [0, 1]}).to_csv(labels, index=False)
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "no label for normal_002, tumor_001, tumor_002, whose features" in error and not root.exists()
    pd.DataFrame({"wsi_name": [f"{n}.tif" for n in NAMES], "wsi_label": [0, 1, 0, 1]}).to_csv(labels, index=False)
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "Give level0_magnification or mpp" in error
    assert "same holds for normal_002.h5, tumor_001.h5, tumor_002.h5" in error
    assert error.count("normal_001.h5: does not say") == 1
    assert main([*call, "--mpp", "0.25", "--magnification", "20"]) == 0
    assert "4 slides, 4 of them new, 96 patches of 16 features" in capsys.readouterr().out
    assert (root / "trident_processed" / "record-import.json").is_file()
    table = pd.read_csv(root / "wsi_labels.csv")
    table[:2].to_csv(root / "train.csv", index=False)
    table[2:].to_csv(root / "test.csv", index=False)
    bags = open_data(root).bags("train")
    assert bags.get_bag_labels() == [0, 1] and bags[0]["X"].shape == (24, DIM)
    assert main(["check", str(root)]) == 0, capsys.readouterr().out
    pd.DataFrame({"wsi_name": NAMES, "wsi_label": [1, 1, 1, 1]}).to_csv(labels, index=False)
    assert main([*call, "--mpp", "0.25", "--magnification", "20"]) == 2
    assert "wsi_labels.csv: is there with other labels" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "nowhere"), str(root), "--encoder", "uni"]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["import", str(tmp_path / "empty"), str(root), "--encoder", "uni"]) == 2
    assert "no features here, found nothing" in capsys.readouterr().err
