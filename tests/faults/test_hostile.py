"""Files that mean harm: refused or harmless, with one error that names the file."""

import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from small import RUN

from mil_tutorial import DataError, TridentWSIDataset
from mil_tutorial.asking.trained import load_checkpoint
from mil_tutorial.bags.packed import PackedFeatures
from mil_tutorial.commands.main import main
from mil_tutorial.files import read_json, write_json
from mil_tutorial.geometry import Geometry
from mil_tutorial.slides.annotations import read_asap_xml
from mil_tutorial.training.checkpoint import load_state
from mil_tutorial.trident import (
    Patches,
    PatchLabels,
    read_features,
    read_patch_labels,
    read_patches,
    write_features,
    write_patch_labels,
    write_patches,
)

BOMB = (
    '<!DOCTYPE l [<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)) + "]>"
)


@pytest.mark.parametrize(
    "head", [BOMB, '<!DOCTYPE x SYSTEM "file:///etc/passwd">', '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>']
)
def test_xml_entities_are_refused(tmp_path, head):
    path = tmp_path / "bomb.xml"
    path.write_text(f"{head}<ASAP_Annotations>&a9;&e;</ASAP_Annotations>")
    with pytest.raises(DataError, match=r"bomb\.xml"):
        read_asap_xml(path)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["patch_labels"] = np.zeros(3, np.int64)
        file["features"] = np.ones((3, 4), np.float32)
        file["coords"] = np.zeros((3, 2), np.int64)
    return path


@pytest.mark.parametrize("kind", ["external link", "virtual dataset", "external storage"])
@pytest.mark.parametrize(
    ("key", "read"), [("patch_labels", read_patch_labels), ("features", read_features), ("coords", read_patches)]
)
def test_h5_files_that_point_elsewhere_are_refused(tmp_path, secret, kind, key, read):
    path = tmp_path / "points.h5"
    with h5py.File(path, "w") as file:
        if kind == "external link":
            file[key] = h5py.ExternalLink(secret, key)
        elif kind == "virtual dataset":
            with h5py.File(secret) as other:
                layout = h5py.VirtualLayout(other[key].shape, other[key].dtype)
                layout[...] = h5py.VirtualSource(other[key])
            file.create_virtual_dataset(key, layout)
        else:
            (tmp_path / "raw").write_bytes(bytes(96))
            shape = {"patch_labels": (3,), "features": (3, 4), "coords": (3, 2)}[key]
            file.create_dataset(
                key, shape, np.float32 if key == "features" else np.int64, external=[(str(tmp_path / "raw"), 0, 96)]
            )
    with pytest.raises(DataError, match=r"points\.h5"):
        read(path)


def test_a_small_file_that_claims_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "claims.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("patch_labels", (10**12,), np.int8, chunks=(2**20,))
        file.create_dataset("features", (10**9, 1280), np.float32, chunks=(1, 1280))
    assert path.stat().st_size < 1e5
    for read in (read_patch_labels, read_features):
        with pytest.raises(DataError, match=r"claims\.h5.*holds 0 bytes"):
            read(path)


def test_slide_names_cannot_climb_out_of_the_folder(tree, capsys):
    outside = tree.parent / "x.h5"
    source = next((tree / "trident_processed").rglob("features_*/normal_001.h5"))
    outside.write_bytes(source.read_bytes())
    climbing = os.path.relpath(outside, source.parent).removesuffix(".h5")
    for file in ("wsi_labels", "train"):
        with open(tree / f"{file}.csv", "a") as table:
            table.write(f"{climbing},0\n")
    assert main(["train", "--data", str(tree), "--epochs", "1", "--out", str(tree / "m.pt")]) == 2
    assert "x" in capsys.readouterr().err and not (tree / "m.pt").exists()
    with pytest.raises(DataError, match="no features"):
        TridentWSIDataset(
            tree / RUN,
            tree / "wsi_labels.csv",
            "efficientnet_lite0",
            wsi_names=[climbing],
        )


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("load", [load_checkpoint, lambda p: load_state(p, {})])
@pytest.mark.parametrize("form", ["torch", "pickle", "zip"])
def test_checkpoints_that_carry_code_are_refused(tmp_path, load, form):
    evil, path, door = Evil(), tmp_path / "evil.pt", tmp_path / "opened"
    evil.path = str(door)
    if form == "torch":
        torch.save({"model": evil, "in_dim": 4, "gated": False}, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(evil))
            archive.writestr("archive/version", "3")
    with pytest.raises(DataError, match=r"evil\.pt"):
        load(path)
    assert not door.exists(), "code in the checkpoint ran"


def test_a_packed_store_with_pickled_arrays_is_refused(tmp_path):
    folder = tmp_path / "packed_x"
    folder.mkdir()
    evil = Evil()
    evil.path = str(tmp_path / "opened")
    np.save(folder / "features.npy", np.array([evil], dtype=object), allow_pickle=True)
    np.save(folder / "coords.npy", np.zeros((1, 2), np.int64))
    (folder / "index.json").write_text('{"format": 1, "encoder": "x", "dim": 1, "slides": []}')
    with pytest.raises(DataError, match="packed_x"):
        PackedFeatures(folder)
    assert not (tmp_path / "opened").exists()


@pytest.mark.slow
def test_names_with_markup_are_text_in_reports(tree, tmp_path):
    import pandas as pd

    run = tree / RUN
    evil = "<img src=x onerror=alert(1)> 'q' ä"
    for part, ending in (("features_efficientnet_lite0", ".h5"), ("patches", "_patches.h5"), ("patch_labels", ".h5")):
        (run / part / f"test_001{ending}").rename(run / part / f"{evil}{ending}")
    for file in ("wsi_labels", "test"):
        table = pd.read_csv(tree / f"{file}.csv").replace("test_001", evil)
        table.to_csv(tree / f"{file}.csv", index=False)
    model = str(tmp_path / "m.pt")
    more = ["--data", str(tree), "--checkpoint", model, "--out", str(tmp_path / "out")]
    # The tree has four training slides, too few to split: train on the whole course's.
    assert main(["train", "--epochs", "1", "--out", model]) == 0
    assert main(["evaluate", *more]) == 0 and main(["localize", *more]) == 0
    for page in (tmp_path / "out").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<img src=x" not in text
    assert evil in pd.read_csv(tmp_path / "out" / "predictions.csv")["wsi_name"].tolist()


def flipped_bits(path, step):
    """Copies of a file with one bit changed, every `step` bytes."""
    good = path.read_bytes()
    for at in range(0, len(good), step):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        yield at
    path.write_bytes(good)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["patches", "features", "labels", "weights", "json"])
def test_a_flipped_bit_in_our_own_files_never_becomes_another_number(tmp_path, kind):
    """Others' files carry no checksum; in ours, what is read is what was written."""
    geometry = Geometry.for_slide(mpp=0.5, width=9000, height=9000, magnification=20, patch_size=512, overlap=0)
    coords = geometry.grid()[:40]
    path = tmp_path / {"patches": "a_patches.h5", "weights": "a.pt", "json": "a.json"}.get(kind, "a.h5")
    values = np.random.default_rng(0).normal(size=(len(coords), 8)).astype(np.float32)
    write, read = {
        "patches": (lambda: write_patches(path, coords, geometry), lambda: read_patches(path).coords),
        "features": (
            lambda: write_features(path, values, Patches("a", coords, geometry), "encoder"),
            lambda: np.hstack(read_features(path)),
        ),
        "labels": (
            lambda: write_patch_labels(path, PatchLabels(abs(values[:, 1]), (values[:, 0] > 0).astype(np.int8), 0.5)),
            lambda: read_patch_labels(path),
        ),
        "weights": (
            lambda: torch.save({"settings": {}, "w": torch.from_numpy(values)}, path),
            lambda: load_state(path, {})["w"].numpy(),
        ),
        "json": (lambda: write_json(path, {"w": values.tolist()}), lambda: np.array(read_json(path)["w"])),
    }[kind]
    write()
    before, refused = read(), 0
    for at in flipped_bits(path, 7):
        try:
            assert np.array_equal(read(), before), f"another number, bit {8 * at + 2}"
        except (DataError, ValueError):
            refused += 1
    assert refused, "no flip was noticed"
    assert np.array_equal(read(), before)
