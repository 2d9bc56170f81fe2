"""`mil-tutorial check`: a good tree passes, and each fault, made alone, is named."""

import json
import shutil

import h5py
import numpy as np
import pytest
import tifffile
from small import RUN, copy_root

from mil_tutorial import ParameterError, pack
from mil_tutorial.commands.check import check_root, format_report
from mil_tutorial.commands.main import main
from mil_tutorial.commands.record import Record
from mil_tutorial.fixture.plan import TEST, TRAIN

FOLDER = f"{RUN}/features_efficientnet_lite0"
FEATURES, OTHER_FEATURES = f"{FOLDER}/normal_001.h5", f"{FOLDER}/tumor_002.h5"
PATCHES, OTHER_PATCHES = (f"{RUN}/patches/{name}_patches.h5" for name in ("normal_001", "tumor_001"))
LABELS, OTHER_LABELS = f"{RUN}/patch_labels/tumor_001.h5", f"{RUN}/patch_labels/normal_001.h5"
SLIDE, MASK, ANNOTATION = "images/tumor_001.tif", "masks/tumor_001_mask.tif", "annotations/tumor_001.xml"


@pytest.fixture(scope="module")
def images(data, tmp_path_factory):
    """Slide, mask and annotation of one tumour slide."""
    folder = tmp_path_factory.mktemp("images")
    for of_data in (data.slide_path, data.mask_path, data.annotation_path):
        drawn = of_data("tumor_001")
        (folder / drawn.parent.name).mkdir()
        shutil.copy(drawn, folder / drawn.parent.name)
    return folder


@pytest.fixture
def root(tree, images):
    shutil.copytree(images, tree, dirs_exist_ok=True)
    return tree


def append(file, text):
    """A line more in a table."""

    def fault(root):
        (root / file).write_text((root / file).read_text() + text)

    return fault


def write(file, text):
    def fault(root):
        (root / file).write_text(text)

    return fault


def change_attributes(file, name, **attributes):
    """Attributes of a dataset get other values; None takes one away."""

    def fault(root):
        with h5py.File(root / file, "a") as opened:
            opened[name].attrs.update({k: v for k, v in attributes.items() if v is not None})
            for key in (k for k, v in attributes.items() if v is None):
                del opened[name].attrs[key]

    return fault


def replace(file, name, edit):
    """Rewrite a dataset with its attributes, as a program would that knows nothing of our checksum."""

    def fault(root):
        with h5py.File(root / file, "a") as opened:
            values, attributes = opened[name][:], {k: v for k, v in opened[name].attrs.items() if k != "crc32"}
            del opened[name]
            opened.create_dataset(name, data=edit(values)).attrs.update(attributes)

    return fault


def cut(file, keep=lambda size: size // 2):
    def fault(root):
        path = root / file
        path.write_bytes(path.read_bytes()[: keep(path.stat().st_size)])

    return fault


def remove(file):
    return lambda root: (root / file).unlink()


def put(index, value):
    """Values with another one at a place."""

    def edit(values):
        values[index] = value
        return values

    return edit


def relabel(root):
    table = root / "train.csv"
    table.write_text(table.read_text().replace("normal_002,0", "normal_002,1"))


def flip(root):
    """Other values under the old checksum."""
    with h5py.File(root / FEATURES, "a") as opened:
        opened["features"].write_direct(np.ones(opened["features"].shape, "f4"))


def small_mask(root):
    tifffile.imwrite(root / MASK, np.zeros((512, 512), np.uint8), tile=(256, 256))


def half_store(root):
    cut("features.npy")(pack(root / RUN, "efficientnet_lite0", progress=False).folder)


def old_record(root):
    Record(root / RUN, "pack", {}, [root / "train.csv"]).write()
    append("train.csv", "tumor_005,1\n")(root)


FAULTS = {
    "NaN": (replace(FEATURES, "features", put((3, 5), np.nan)), "normal_001.h5: 1 features are NaN"),
    "infinite": (replace(FEATURES, "features", put((3, 5), np.inf)), "normal_001.h5: 1 features are NaN"),
    "half features": (cut(FEATURES), "normal_001.h5: cannot be read as HDF5"),
    "half patches": (cut(PATCHES), "normal_001_patches.h5: cannot be read as HDF5"),
    "half labels": (cut(LABELS), "patch_labels/tumor_001.h5: cannot be read as HDF5"),
    "half slide": (cut(SLIDE), "images/tumor_001.tif"),
    "slide cut a little": (cut(SLIDE, lambda size: size - 2000), "images/tumor_001.tif"),
    "half mask": (cut(MASK), "tumor_001_mask.tif"),
    "half annotation": (cut(ANNOTATION), "tumor_001.xml: is not readable as XML"),
    "no features": (remove(OTHER_FEATURES), "tumor_002.h5: is missing"),
    "no patches": (remove(PATCHES), "normal_001_patches.h5: is missing"),
    "train and test": (append("test.csv", "normal_002,0\n"), "normal_002 is in train.csv and in test.csv"),
    "two labels": (append("wsi_labels.csv", "normal_002,1\n"), "normal_002 is there twice with different labels"),
    "other label": (relabel, "normal_002 has label 1 in train.csv and 0 in wsi_labels.csv"),
    "one class": (write("test.csv", "wsi_name,wsi_label\ntest_005,0\n"), "test.csv: holds only label 0"),
    "unlabelled": (append("train.csv", "nobody,1\n"), "nobody is in train.csv, not in wsi_labels.csv"),
    "missing column": (write("train.csv", "name,label\na,1\n"), "train.csv: column wsi_name"),
    "outside": (replace(PATCHES, "coords", put(0, 10**6)), "normal_001_patches.h5: patches are outside the slide"),
    "twice": (replace(PATCHES, "coords", lambda c: put(0, c[1])(c)), "normal_001_patches.h5: some patches are there"),
    "other order": (replace(FEATURES, "coords", lambda c: c + 1), "normal_001.h5: its coordinates are not those"),
    "rows": (replace(FEATURES, "features", lambda x: x[1:]), "feature rows, but"),
    "size": (
        replace(FEATURES, "features", lambda x: x[:, :100]),
        "normal_001.h5: 100 features for each patch, other slides have 1280",
    ),
    "integers": (replace(FEATURES, "features", lambda x: x.astype(int)), "expected (n, D) of floats"),
    "patch size": (change_attributes(PATCHES, "coords", patch_size_level0=512), "patch_size_level0 is 512"),
    "attribute": (change_attributes(PATCHES, "coords", overlap=None), "lacks the attributes overlap"),
    "magnification": (
        change_attributes(OTHER_PATCHES, "coords", level0_magnification=20, patch_size_level0=512),
        "µm per pixel is 40x, its coordinates say 20x",
    ),
    "slide size": (change_attributes(OTHER_PATCHES, "coords", level0_width=99999), "tumor_001.tif: is"),
    "labels count": (replace(LABELS, "patch_labels", lambda y: y[1:]), "patch_labels/tumor_001.h5"),
    "label value": (replace(LABELS, "patch_labels", put(0, 7)), "labels other than"),
    "normal with tumour": (replace(OTHER_LABELS, "patch_labels", put(0, 1)), "a normal slide with 1 tumour patches"),
    "other patches": (change_attributes(LABELS, "patch_labels", coords_digest="0"), "was made for other patches"),
    "mask size": (small_mask, "tumor_001_mask.tif: is 512 x 512"),
    "flipped": (flip, "normal_001.h5: cannot be read as HDF5 (the values of 'features' do not"),
    "half store": (half_store, "packed_efficientnet_lite0: is "),
    "two slides": (write("images/tumor_001.svs", ""), "tumor_001.tif: has the name of tumor_001.svs"),
    "old record": (old_record, "train.csv has changed since. Make the results of `mil-tutorial pack` again"),
}


@pytest.mark.slow
def test_a_good_tree_passes(root):
    report = check_root(root, progress=False)
    assert not report.spoiled, report.findings
    assert "features efficientnet_lite0      6" in format_report(report)
    assert main(["check", str(root)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(root, fault, capsys):
    make, message = FAULTS[fault]
    make(root)
    assert main(["check", str(root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert any(message in f["what"] for f in found if f["level"] == "error"), found


def no_tumour(root):
    replace(LABELS, "patch_labels", lambda y: y * 0)(root)


def stranger(root):
    shutil.copy(root / FEATURES, root / FOLDER / "stranger.h5")


def old_store(root):
    pack(root / RUN, "efficientnet_lite0", progress=False)
    (root / FEATURES).touch()


def two_runs(root):
    (root / "trident_processed" / "10x_256px_0px_overlap").mkdir()


def lost_input(root):
    (root / "list.csv").write_text("x")
    Record(root / RUN, "pack", {}, [root / "list.csv"]).write()
    (root / "list.csv").unlink()


NOTES = {
    "no tumour patch": (no_tumour, "is a tumour slide, but no patch is labelled tumour"),
    "no split": (append("wsi_labels.csv", "idle_001,0\n"), "idle_001 has a label, but is in no split"),
    "no label": (stranger, "stranger has no label"),
    "half-written": (write(f"{FOLDER}/.normal_001.1.ab.h5", "x"), "of a run that was stopped"),
    "old store": (old_store, "normal_001.h5 has changed since. Run `mil-tutorial pack`"),
    "a line twice": (append("train.csv", "normal_002,0\n"), "normal_002 is listed twice"),
    "no polygon": (write(ANNOTATION, "<ASAP_Annotations/>"), "without a tumour polygon; the file holds nothing else"),
    "two runs": (two_runs, "2 TRIDENT runs, 10x_256px_0px_overlap, 20x_512px_0px_overlap. 20x"),
    "lost input": (lost_input, "list.csv is gone. The results stay as they are"),
}


@pytest.mark.parametrize("case", NOTES)
def test_what_is_odd_is_noted(root, case):
    make, message = NOTES[case]
    make(root)
    report = check_root(root, progress=False)
    assert not report.spoiled and any(message in f.what for f in report.findings), report.findings


def test_an_empty_slide_in_a_split(root):
    for file in (PATCHES, FEATURES):
        replace(file, "coords", lambda c: c[:0])(root)
    replace(FEATURES, "features", lambda x: x[:0])(root)
    (root / OTHER_LABELS).unlink()
    found = [f for f in check_root(root, progress=False).findings if f.level == "error"]
    assert len(found) == 1 and "normal_001_patches.h5: no patches" in found[0].what


def test_the_test_slides_are_the_training_slides(root):
    shutil.copy(root / "train.csv", root / "test.csv")
    report = check_root(root, progress=False)
    both = [f for f in report.errors if "is in train.csv and in test.csv" in f.what]
    assert [f.slide for f in both] == ["normal_001", "normal_002", "tumor_001", "tumor_002"]


def test_the_run_that_is_asked_for_is_checked(root, capsys):
    (root / RUN).rename(root / "trident_processed" / "20x_256px_0px_overlap")
    (root / "trident_processed" / "10x_256px_0px_overlap").mkdir()
    assert main(["check", str(root)]) == 2 and "Choose one" in capsys.readouterr().err
    assert main(["check", str(root), "--trident_run", "20x_256px_0px_overlap"]) == 0
    assert main(["check", str(root), "--trident_run", "5x"]) == 2 and "no such TRIDENT run" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_find_what_one_process_finds(data, tmp_path, monkeypatch):
    monkeypatch.setattr("mil_tutorial.commands.check.ENOUGH", 0)
    root = copy_root(data, tmp_path / "root", {"train": [*TRAIN[:8], *TRAIN[-8:]], "test": [*TEST[:8]]})
    (root / FEATURES).unlink()
    replace(OTHER_FEATURES.replace("tumor_002", "tumor_030"), "features", put((0, 0), np.nan))(root)
    one, two = (check_root(root, progress=False, workers=n) for n in (1, 2))
    assert one == two and len(one.errors) == 2


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2"])
def test_a_wrong_number_of_workers_is_refused(root, workers):
    with pytest.raises(ParameterError, match=r"workers: found .* a whole number of at least 1"):
        check_root(root, progress=False, workers=workers)


@pytest.mark.slow
def test_the_real_names_bring_the_errata(tmp_path, root):
    from mil_tutorial.sources.camelyon16 import camelyon16_slides

    table = camelyon16_slides()[["wsi_name", "wsi_label"]]
    table.loc[len(table)] = ["normal_086", 0]
    table.to_csv(root / "wsi_labels.csv", index=False)
    notes = [f.what for f in check_root(root, progress=False).findings]
    assert any("normal_086 holds tumour" in what for what in notes)
