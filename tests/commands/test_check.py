"""`mil-tutorial check`: a good tree passes, and each fault, made alone, is named."""

import json
import shutil

import h5py
import numpy as np
import pytest
import tifffile
from small import RUN

from mil_tutorial import pack
from mil_tutorial.commands.check import check_root, format_report
from mil_tutorial.commands.main import main
from mil_tutorial.fixture.write import render

FEATURES = f"{RUN}/features_efficientnet_lite0"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Slide, mask and annotation of one tumour slide."""
    folder = tmp_path_factory.mktemp("pictures")
    render("tumor_001", folder)
    return folder


@pytest.fixture
def root(tree, pictures):
    shutil.copytree(pictures, tree, dirs_exist_ok=True)
    return tree


def append(path, text):
    path.write_text(path.read_text() + text)


def change(path, edit):
    with h5py.File(path, "a") as file:
        edit(file)


def replace(path, name, edit):
    """Rewrite a dataset with its attributes, as a program would that knows nothing of our checksum."""

    def rewrite(file):
        values, attributes = file[name][:], {k: v for k, v in file[name].attrs.items() if k != "crc32"}
        del file[name]
        file.create_dataset(name, data=edit(values)).attrs.update(attributes)

    change(path, rewrite)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put(values, index, value):
    values[index] = value
    return values


FAULTS = {
    "NaN": (lambda r: replace(r / FEATURES / "normal_001.h5", "features", lambda x: put(x, (3, 5), np.nan)), "normal_001.h5: 1 features are NaN"),
    "infinite": (lambda r: replace(r / FEATURES / "normal_001.h5", "features", lambda x: put(x, (3, 5), np.inf)), "normal_001.h5: 1 features are NaN"),
    "half features": (lambda r: halve(r / FEATURES / "normal_001.h5"), "normal_001.h5"),
    "half patches": (lambda r: halve(r / RUN / "patches/normal_001_patches.h5"), "normal_001_patches.h5"),
    "half labels": (lambda r: halve(r / RUN / "patch_labels/tumor_001.h5"), "patch_labels/tumor_001.h5"),
    "half slide": (lambda r: halve(r / "images/tumor_001.tif"), "images/tumor_001.tif"),
    "slide cut a little": (lambda r: (r / "images/tumor_001.tif").write_bytes((r / "images/tumor_001.tif").read_bytes()[:-2000]), "images/tumor_001.tif"),
    "half mask": (lambda r: halve(r / "masks/tumor_001_mask.tif"), "tumor_001_mask.tif"),
    "half annotation": (lambda r: halve(r / "annotations/tumor_001.xml"), "tumor_001.xml: is no readable ASAP XML"),
    "no features": (lambda r: (r / FEATURES / "tumor_002.h5").unlink(), "tumor_002.h5: is missing"),
    "no patches": (lambda r: (r / RUN / "patches/tumor_002_patches.h5").unlink(), "tumor_002_patches.h5: is missing"),
    "train and test": (lambda r: append(r / "test.csv", "normal_002,0\n"), "normal_002 is in train.csv and in test.csv"),
    "two labels": (lambda r: append(r / "wsi_labels.csv", "normal_002,1\n"), "normal_002 is named twice"),
    "other label": (lambda r: (r / "train.csv").write_text((r / "train.csv").read_text().replace("normal_002,0", "normal_002,1")), "normal_002 has label 1 in train.csv and 0 in wsi_labels.csv"),
    "one class": (lambda r: (r / "test.csv").write_text("wsi_name,wsi_label\ntest_005,0\n"), "test.csv: holds only label 0"),
    "unlabelled": (lambda r: append(r / "train.csv", "nobody,1\n"), "nobody is in train.csv, not in wsi_labels.csv"),
    "missing column": (lambda r: (r / "train.csv").write_text("name,label\na,1\n"), "train.csv: column wsi_name"),
    "outside": (lambda r: replace(r / RUN / "patches/normal_001_patches.h5", "coords", lambda c: put(c, 0, 10**6)), "normal_001_patches.h5: patches lie outside"),
    "twice": (lambda r: replace(r / RUN / "patches/normal_001_patches.h5", "coords", lambda c: put(c, 0, c[1])), "normal_001_patches.h5: some patches are there twice"),
    "other order": (lambda r: replace(r / FEATURES / "normal_001.h5", "coords", lambda c: c + 1), "normal_001.h5: its coordinates are not those"),
    "rows": (lambda r: replace(r / FEATURES / "normal_001.h5", "features", lambda x: x[1:]), "feature rows, but"),
    "size": (lambda r: replace(r / FEATURES / "normal_001.h5", "features", lambda x: x[:, :100]), "normal_001.h5: 100 features for each patch, other slides have 1280"),
    "integers": (lambda r: replace(r / FEATURES / "normal_001.h5", "features", lambda x: x.astype(int)), "expected (n, D) of floats"),
    "patch size": (lambda r: change(r / RUN / "patches/normal_001_patches.h5", lambda f: f["coords"].attrs.update(patch_size_level0=512)), "patch_size_level0 is 512"),
    "attribute": (lambda r: change(r / RUN / "patches/normal_001_patches.h5", lambda f: f["coords"].attrs.pop("overlap")), "lacks the attributes overlap"),
    "magnification": (lambda r: change(r / RUN / "patches/tumor_001_patches.h5", lambda f: f["coords"].attrs.update(level0_magnification=20, patch_size_level0=512)), "µm per pixel is 40x, its coordinates say 20x"),
    "slide size": (lambda r: change(r / RUN / "patches/tumor_001_patches.h5", lambda f: f["coords"].attrs.update(level0_width=99999)), "tumor_001.tif: is"),
    "labels count": (lambda r: replace(r / RUN / "patch_labels/tumor_001.h5", "patch_labels", lambda y: y[1:]), "patch_labels/tumor_001.h5"),
    "label value": (lambda r: replace(r / RUN / "patch_labels/tumor_001.h5", "patch_labels", lambda y: put(y, 0, 7)), "labels other than"),
    "normal with tumour": (lambda r: replace(r / RUN / "patch_labels/normal_001.h5", "patch_labels", lambda y: put(y, 0, 1)), "a normal slide with 1 tumour patches"),
    "other patches": (lambda r: change(r / RUN / "patch_labels/tumor_001.h5", lambda f: f["patch_labels"].attrs.update(coords_digest="0")), "was made for other patches"),
    "mask size": (lambda r: tifffile.imwrite(r / "masks/tumor_001_mask.tif", np.zeros((512, 512), np.uint8), tile=(256, 256)), "tumor_001_mask.tif: is 512 x 512"),
    "flipped": (lambda r: change(r / FEATURES / "normal_001.h5", lambda f: f["features"].write_direct(np.ones(f["features"].shape, "f4"))), "normal_001.h5: cannot be read as HDF5 (the values of 'features' do not fit"),
    "half store": (lambda r: halve(pack(r / RUN, "efficientnet_lite0", progress=False).folder / "features.npy"), "packed_efficientnet_lite0: is no whole store"),
    "two slides": (lambda r: (r / "images/tumor_001.svs").write_bytes(b""), "have one name"),
}  # fmt: skip


def test_a_good_tree_passes(root):
    report = check_root(root, progress=False)
    assert not report.spoiled, report.findings
    assert "features efficientnet_lite0      6" in format_report(report)
    assert main(["check", str(root)]) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(root, fault, capsys):
    make, message = FAULTS[fault]
    make(root)
    assert main(["check", str(root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert any(message in f["what"] for f in found if f["level"] == "error"), found


NOTES = {
    "no tumour patch": (lambda r: replace(r / RUN / "patch_labels/tumor_001.h5", "patch_labels", lambda y: y * 0), "a tumour slide without a tumour patch"),
    "no split": (lambda r: append(r / "wsi_labels.csv", "idle_001,0\n"), "idle_001 has a label, but is in no split"),
    "no label": (lambda r: shutil.copy(r / FEATURES / "normal_001.h5", r / FEATURES / "stranger.h5"), "stranger has no label"),
    "half-written": (lambda r: (r / FEATURES / ".normal_001.1.ab.h5").write_bytes(b"x"), "of a run that was stopped"),
    "old store": (lambda r: (pack(r / RUN, "efficientnet_lite0", progress=False), (r / FEATURES / "normal_001.h5").touch()), "normal_001.h5 has changed since. Run `mil-tutorial pack`"),
    "a line twice": (lambda r: append(r / "train.csv", "normal_002,0\n"), "normal_002 stands there twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_what_is_odd_is_noted(root, case):
    make, message = NOTES[case]
    make(root)
    report = check_root(root, progress=False)
    assert not report.spoiled and any(message in f.what for f in report.findings), report.findings


def test_an_empty_slide_in_a_split(root):
    for path in (root / RUN / "patches/normal_001_patches.h5", root / FEATURES / "normal_001.h5"):
        replace(path, "coords", lambda c: c[:0])
    replace(root / FEATURES / "normal_001.h5", "features", lambda x: x[:0])
    (root / RUN / "patch_labels/normal_001.h5").unlink()
    found = [f for f in check_root(root, progress=False).findings if f.level == "error"]
    assert len(found) == 1 and "normal_001_patches.h5: no patches" in found[0].what


def test_the_real_names_bring_the_errata(tmp_path, root):
    from mil_tutorial.sources.camelyon16 import camelyon16_slides

    table = camelyon16_slides()[["wsi_name", "wsi_label"]]
    table.loc[len(table)] = ["normal_086", 0]
    table.to_csv(root / "wsi_labels.csv", index=False)
    notes = [f.what for f in check_root(root, progress=False).findings]
    assert any("normal_086 holds tumour" in what for what in notes)
