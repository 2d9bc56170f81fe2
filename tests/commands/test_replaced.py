"""What a result stands on is replaced by something as good: it is noticed, never mixed in silence."""

import shutil
import threading

import h5py
import numpy as np
import pytest
from small import RUN, copy_root, write_pyramid

from mil_tutorial import DataError, pack
from mil_tutorial.bags.packed import PackedFeatures
from mil_tutorial.commands.main import main
from mil_tutorial.commands.record import Record

FEATURES = f"{RUN}/features_efficientnet_lite0"
NAMES = {
    "train": [f"{kind}_00{i}" for kind in ("normal", "tumor") for i in range(1, 6)],
    "test": ["test_001", "test_005"],
}


@pytest.fixture
def root(data, tmp_path):
    return copy_root(data, tmp_path / "root", NAMES)


def other_features(root, name="normal_001"):
    """Good features of other values, as another run would have written them."""
    with h5py.File(root / FEATURES / f"{name}.h5", "r+") as file:
        file["features"][...] = file["features"][...] * 1.5
        file["features"].attrs.pop("crc32", None)


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.mark.slow
def test_repeated_training_refuses_results_of_other_inputs(root, tmp_path, capsys):
    command = ["repeat", "--data", root, "--folds", 5, "--seeds", 0, "--epochs", 1]
    command += ["--models", "max pooling", "--out", tmp_path / "out"]
    assert run(*command) == 0 and run(*command) == 0
    other_features(root)
    assert run(*command) == 2
    assert "fold0.json: was made with inputs" in capsys.readouterr().err


@pytest.mark.slow
def test_resumed_training_never_takes_weights_of_other_inputs(root, tmp_path, capsys):
    steps = tmp_path / "steps"
    command = ["train", "--data", root, "--epochs", 2, "--out", tmp_path / "a.pt", "--checkpoint", steps]
    assert run(*command) == 0 and (steps / "last.pt").exists()
    other_features(root)
    assert run(*command, "--resume") == 2
    assert "normal_001.h5 has changed since this training began" in capsys.readouterr().err
    (steps / "inputs.json").unlink()
    assert run(*command, "--resume") == 2, "weights of unknown inputs"
    assert run(*command) == 0 and run(*command, "--resume") == 0
    assert run(*command, "--resume", "--gated") == 2
    assert "holds another model" in capsys.readouterr().err


@pytest.mark.slow
def test_an_input_replaced_meanwhile_leaves_no_checkpoint(root, tmp_path, capsys, monkeypatch):
    from mil_tutorial.commands import train

    fit = train.fit

    def fit_and_replace(*arguments, **more):
        history = fit(*arguments, **more)
        other_features(root)
        return history

    monkeypatch.setattr(train, "fit", fit_and_replace)
    assert run("train", "--data", root, "--epochs", 1, "--out", tmp_path / "a.pt") == 2
    assert "normal_001.h5 has changed since this command began" in capsys.readouterr().err
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.slow
def test_a_record_of_another_checkpoint_is_not_taken_for_this_one_s(root, tmp_path):
    for seed in (0, 1):
        assert run("train", "--data", root, "--epochs", 1, "--seed", seed, "--out", tmp_path / f"{seed}.pt") == 0
    evaluate = ["evaluate", "--data", root, "--checkpoint", tmp_path / "0.pt", "--out", tmp_path / "out"]
    assert run(*evaluate) == 0
    assert "of another checkpoint" not in (tmp_path / "out" / "report.html").read_text()
    card = (tmp_path / "out" / "model_card.md").read_text(encoding="utf-8")
    for words in (
        "Not for clinical use",
        "## Intended use",
        "| auc |",
        "## Limits",
        "| seed | 0 |",
        "epochs 1",
        "| test slides |",
    ):
        assert words in card, words
    assert str(tmp_path) not in card  # a card is published: it names no folder of this machine
    shutil.copy(tmp_path / "1.pt", tmp_path / "0.pt")
    assert run(*evaluate) == 0
    for file in ("report.html", "model_card.md"):
        assert "of another checkpoint" in (tmp_path / "out" / file).read_text(encoding="utf-8")


def test_a_digest_sees_the_middle_of_a_large_file(tmp_path):
    file = tmp_path / "large"
    values = np.random.default_rng(0).integers(0, 256, 8 << 20, dtype=np.uint8)
    file.write_bytes(values.tobytes())
    record = Record(tmp_path, "x", {}, [file])
    values[3 << 20 : 4 << 20] ^= 1
    file.write_bytes(values.tobytes())
    with pytest.raises(DataError, match="large has changed since"):
        record.refuse_changes()


def test_an_input_that_is_gone_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("wsi_name,wsi_label")
    with (
        pytest.raises(DataError, match=r"train\.csv is gone; the results would"),
        Record(tmp_path, "x", {}, [tmp_path / "train.csv"]),
    ):
        (tmp_path / "train.csv").unlink()
    assert list(tmp_path.iterdir()) == [], "no record is written"


@pytest.mark.parametrize(
    "change", [("tumor_001,1", "tumor_001,0", []), ("", "", ["--no-halve"])], ids=["label", "halve"]
)
def test_labels_of_another_slide_label_or_rule_are_refused(data, root, tmp_path, capsys, change):
    before, after, more = change
    data.mask_path("tumor_001")
    table = tmp_path / "labels.csv"
    table.write_text("wsi_name,wsi_label\ntumor_001,1\n")
    coords = tmp_path / "patches"
    coords.mkdir()
    shutil.copy(root / RUN / "patches" / "tumor_001_patches.h5", coords)
    command = [
        "labels",
        "--csv_path",
        table,
        "--masks_dir",
        data.root / "masks",
        "--coords_dir",
        coords,
        "--save_dir",
        tmp_path / "out",
    ]
    assert run(*command) == 0 and run(*command) == 0
    table.write_text(table.read_text().replace(before, after))
    assert run(*command, *more) == 2
    assert "tumor_001.h5: was made with" in capsys.readouterr().err


@pytest.mark.slow
def test_a_slide_replaced_between_coordinates_and_features(tmp_path, capsys):
    """Features of a slide that lay there for a moment only are not kept once the right slide is back."""
    images, job = tmp_path / "images", tmp_path / "job"
    images.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 200, (1024, 1024, 3), dtype=np.uint8)
    pixels[:, :, 1] //= 2
    other = np.rot90(pixels)
    command = ["prepare", "--wsi_dir", images, "--job_dir", job, "--patch_size", 256]
    write_pyramid(images / "a.tif", pixels, 0.5)
    assert run(*command) == 0 and run(*command) == 0
    (features,) = job.rglob("features_*/a.h5")
    features.unlink()
    right, run_folder = (images / "a.tif").read_bytes(), features.parent.parent
    write_pyramid(images / "a.tif", other, 0.5)
    assert run(*command) == 2, "coordinates are another slide's"
    shutil.rmtree(run_folder)
    assert run(*command) == 0
    kept = features.read_bytes()
    shutil.rmtree(run_folder)
    (images / "a.tif").write_bytes(right)
    assert run(*command) == 0
    features.write_bytes(kept)  # right coordinates, the other slide's features
    capsys.readouterr()
    assert run(*command) == 2
    assert "a.h5: was made from another slide of this name" in capsys.readouterr().err


@pytest.mark.slow
def test_many_pack_at_once(root):
    """Each gets a whole store, whoever was last."""
    folder, wrong = root / RUN, []

    def one():
        try:
            for _ in range(6):
                (root / FEATURES / "normal_001.h5").touch()
                store = pack(folder, "efficientnet_lite0", progress=False)
                for name in store.slides:
                    store.rows(name)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    store = PackedFeatures(folder / "packed_efficientnet_lite0")
    assert len(store.slides) == 12 and all(len(store.rows(n)[0]) for n in store.slides)
    assert not list(folder.glob(".packed*"))
