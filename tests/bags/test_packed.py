"""The packed store: the same bags, noticed changes, safe to interrupt, shared by processes."""

import pickle
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from small import RUN
from torch.utils.data import DataLoader

from mil_tutorial import DataError, PackedFeatures, ParameterError, TridentWSIDataset, collate_fn, pack
from mil_tutorial.bags.packed import packed_folder
from mil_tutorial.commands.main import main
from mil_tutorial.files import read_json, write_json

ENCODER = "efficientnet_lite0"


def dataset_of(tree, **more):
    return TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", ENCODER, **more)


def same_bags(a, b):
    for x, y in zip(a, b, strict=True):
        assert list(x.keys()) == list(y.keys())
        for key in x.keys():
            left, right = (v[key].to_dense() for v in (x, y))
            assert left.dtype == right.dtype and torch.equal(left, right), key


def rewrite(path, edit):
    """Replace `features` by what `edit` makes of it."""
    with h5py.File(path, "a") as file:
        features, attributes = file["features"][:], {k: v for k, v in file["features"].attrs.items() if k != "crc32"}
        del file["features"]
        file.create_dataset("features", data=edit(features)).attrs.update(attributes)


def test_the_same_bags(tree):
    plain = dataset_of(tree, packed=False)
    packed = dataset_of(tree, packed=True)
    assert packed.store is not None and plain.store is None
    same_bags(plain, packed)
    assert dataset_of(tree).store is not None, "a store that fits is used without being asked for"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_type_stays_as_found(tree, dtype):
    for path in (tree / RUN / f"features_{ENCODER}").glob("*.h5"):
        rewrite(path, lambda x: x.astype(dtype))
    store = pack(tree / RUN, ENCODER, progress=False)
    assert store.features.dtype == dtype
    same_bags(dataset_of(tree, packed=False), dataset_of(tree))
    assert np.load(store.folder / "features.npy", mmap_mode="r").dtype == dtype, "plain NumPy reads it"


@pytest.mark.slow
def test_a_changed_file_is_noticed(tree):
    pack(tree / RUN, ENCODER, progress=False)
    path = tree / RUN / f"features_{ENCODER}" / "normal_001.h5"
    time.sleep(0.02)
    rewrite(path, lambda x: x + 1)
    with pytest.warns(UserWarning, match=r"normal_001\.h5 has changed since"):
        stale = dataset_of(tree)
    assert stale.store is None
    same_bags(dataset_of(tree, packed=False), stale)
    same_bags(dataset_of(tree, packed=False), dataset_of(tree, packed=True))
    path.unlink()
    store = PackedFeatures(packed_folder(tree / RUN, ENCODER))
    assert "normal_001.h5 is gone" in store.changed(["normal_001"])
    assert store.changed(["normal_002"]) is None and store.changed([]) is None
    assert store.changed(["normal_002", "no_such"]) == "slide no_such is not in it"


def test_a_slide_that_came_later_is_noticed(tree):
    folder = tree / RUN / f"features_{ENCODER}"
    shutil.move(folder / "normal_001.h5", tree / "aside.h5")
    pack(tree / RUN, ENCODER, progress=False)
    shutil.move(tree / "aside.h5", folder / "normal_001.h5")
    with pytest.warns(UserWarning, match="slide normal_001 is not in it"):
        dataset_of(tree)
    assert set(pack(tree / RUN, ENCODER, progress=False).slides) >= {"normal_001"}


def test_it_is_not_made_twice(tree):
    first = pack(tree / RUN, ENCODER, progress=False)
    stamp = (first.folder / "index.json").stat().st_mtime_ns
    assert (pack(tree / RUN, ENCODER, progress=False).folder / "index.json").stat().st_mtime_ns == stamp


def test_bad_features_leave_no_store(tree):
    path = tree / RUN / f"features_{ENCODER}" / "tumor_001.h5"
    rewrite(path, lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x))
    with pytest.raises(DataError, match=r"tumor_001\.h5: 1 features are NaN"):
        pack(tree / RUN, ENCODER, progress=False)
    rewrite(path, lambda x: np.nan_to_num(x)[:, :5])
    with pytest.raises(DataError, match=r"tumor_001\.h5: 5 features for each patch, others have 1280"):
        pack(tree / RUN, ENCODER, progress=False)
    assert not [p.name for p in (tree / RUN).iterdir() if "packed" in p.name]


def test_a_damaged_store_is_named(tree):
    folder = pack(tree / RUN, ENCODER, progress=False).folder
    features = folder / "features.npy"
    features.write_bytes(features.read_bytes()[:-5000])
    with pytest.raises(DataError, match=f"packed_{ENCODER}: is not a complete store"):
        PackedFeatures(folder)
    with pytest.warns(UserWarning, match="is not a complete store"):
        unpacked = dataset_of(tree)
    same_bags(unpacked, dataset_of(tree, packed=True))
    write_json(folder / "index.json", {**read_json(folder / "index.json"), "format": 99})
    with pytest.raises(DataError, match="format 99"):
        PackedFeatures(folder)


@pytest.mark.parametrize("file", ["features.npy", "coords.npy"])
def test_a_flipped_bit_in_a_row_is_noticed(tree, file):
    folder = pack(tree / RUN, ENCODER, progress=False).folder
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    store = PackedFeatures(folder)
    *others, last = store.slides
    for name in others:
        store.rows(name)
    with pytest.raises(DataError, match=f"packed_{ENCODER}: the rows of slide {last} are not those that were written"):
        store.rows(last)


@pytest.mark.heavy
def test_killed_at_any_moment_it_leaves_none_or_a_whole_one(tree):
    code = f"from mil_tutorial import pack; pack({str(tree / RUN)!r}, {ENCODER!r}, progress=False)"
    whole = 0
    for delay in np.linspace(0.3, 1.2, 8):
        shutil.rmtree(packed_folder(tree / RUN, ENCODER), ignore_errors=True)
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay)
        process.kill()
        process.wait()
        if packed_folder(tree / RUN, ENCODER).exists():
            whole += 1
            same_bags(dataset_of(tree, packed=False), dataset_of(tree))
    same_bags(dataset_of(tree, packed=False), dataset_of(tree, packed=True))


@pytest.mark.slow
def test_workers_share_it(tree):
    dataset = dataset_of(tree, packed=True, bag_keys=["X", "Y"])
    dataset[0]
    assert len(pickle.dumps(dataset)) < 20_000, "a map was copied"
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate_fn, multiprocessing_context="spawn")
    plain = DataLoader(dataset, batch_size=2, collate_fn=collate_fn)
    for a, b in zip(loader, plain, strict=True):
        assert torch.equal(a["X"], b["X"])


def test_the_empty_slides_of_a_run_are_packed_too(tree):
    for part, ending in ((f"features_{ENCODER}", ".h5"), ("patches", "_patches.h5")):
        with h5py.File(tree / RUN / part / f"normal_001{ending}", "a") as file:
            for key in list(file):
                attributes = {k: v for k, v in file[key].attrs.items() if k != "crc32"}
                del file[key]
                file.create_dataset(
                    key, data=np.empty((0, 1280 if key == "features" else 2), "f2" if key == "features" else "i8")
                )
                file[key].attrs.update(attributes)
    store = pack(tree / RUN, ENCODER, progress=False)
    assert store.slides["normal_001"].start == store.slides["normal_001"].stop
    assert len(store.rows("normal_001")[0]) == 0 and len(store.rows("normal_002")[0]) > 0
    with pytest.raises(DataError, match="slide normal_001 has no patches"):
        dataset_of(tree)[0]


def test_what_is_not_a_run_or_has_no_features_is_refused(tree, data):
    with pytest.raises(ParameterError, match=r"^run: found DataRoot"):
        pack(data, ENCODER)
    with pytest.raises(ParameterError, match=r"^encoder: found None"):
        pack(tree / RUN, None)
    with pytest.raises(DataError, match=f"features_uni: there is no such folder .*features_{ENCODER}"):
        pack(tree / RUN, "uni")
    (tree / RUN / "features_uni").mkdir()
    (tree / RUN / "features_uni" / "tumor_001.npy").touch()
    with pytest.raises(
        DataError, match=r"features_uni: no features here\. Files found: 1 \.npy, such as tumor_001\.npy"
    ):
        pack(tree / RUN, "uni")


def test_the_command(tree, capsys):
    assert main(["pack", "--data", str(tree)]) == 0
    assert "6 slides" in capsys.readouterr().out
    (tree / RUN / "patches" / "normal_001_patches.h5").unlink()
    assert main(["pack", "--data", str(tree)]) == 2
    assert "normal_001_patches.h5" in capsys.readouterr().err
