"""Command and course agree: `train`, `evaluate`, `localize` with their defaults give the numbers of notebooks 5 and 6.

The notebooks' own cells are executed here, not a copy of them: on the synthetic slides, and on a root made for the
purpose.
"""

import json
import re
import shutil

import matplotlib
import numpy as np
import pandas as pd
import pytest
from small import RUN, write_pyramid

from mil_tutorial import Geometry, open_data, read_detections
from mil_tutorial.asking.trained import load_checkpoint
from mil_tutorial.commands.main import main
from mil_tutorial.trident import Patches, PatchLabels, write_features, write_patch_labels, write_patches

CELLS = {  # one line of each cell that leads to the numbers
    "05-evaluation": [
        "class Diary(list)",
        "def train_model(",
        "threshold = choose_threshold(validation.Y",
        "metrics = bag_metrics(test.Y, test.prob",
    ],
    "06-metastasis-localization": [
        "from mil_tutorial import ABMIL, fit, make_loader",
        "class Diary(list)",
        "test = predict(model, test_loader)",
        "wsi_name = data.example",
        "masks = dict(zip(",
        "by_hand = find_detections(",
        "localize_slide(model",
        "lesions = {name: lesions_from_mask",
    ],
}


def run_cells(repo, stem):
    """Execute those cells of a notebook's script in their order; what they defined."""
    text = (repo / "notebooks" / "scripts" / f"{stem}.py").read_text(encoding="utf-8")
    cells = [c for c in re.split(r"^# %%", text, flags=re.MULTILINE)[1:] if not c.lstrip().startswith("[markdown]")]
    chosen = [i for i, cell in enumerate(cells) if any(line in cell for line in CELLS[stem])]
    assert len(chosen) == len(CELLS[stem]), f"{stem}: the cells have changed, found {chosen}"
    defined = {}
    with matplotlib.rc_context({"backend": "agg"}):
        import matplotlib.pyplot as plt

        preamble = "import numpy as np, matplotlib.pyplot as plt, torch\nfrom mil_tutorial import attention_times_n"
        for source in [preamble, *(cells[i].split("\n", 1)[1] for i in chosen)]:
            exec(compile(source, stem, "exec"), defined)
        plt.close("all")
    return defined


def made_root(folder):
    """A data root of 40 + 16 slides of 8 x 4 patches whose features tell tumour, with masks; two slides have images."""
    rng = np.random.default_rng(7)
    geometry = Geometry.for_slide(mpp=0.25, width=4096, height=2048, magnification=20, patch_size=256)
    side, coords = geometry.patch_size_level0, geometry.grid()
    tables = {"train": [], "test": []}
    for which, n in (("train", 40), ("test", 16)):
        for i in range(n):
            name, label = f"{which}_{i:03d}" if which == "test" else f"slide_{i:03d}", i % 2
            hit = np.zeros(len(coords), bool)
            if label:
                corner = rng.integers(0, (7, 3))
                hit = (np.abs(coords // side - corner - 0.5) <= 1).all(1) & (rng.random(len(coords)) < 0.9)
            features = rng.normal(size=(len(coords), 24)).astype(np.float32)
            features[hit] += rng.uniform(0.5, 2.0)
            patches = Patches(name, coords, geometry)
            write_patches(folder / RUN / "patches" / f"{name}_patches.h5", coords, geometry)
            write_features(folder / RUN / "features_made" / f"{name}.h5", features, patches, "made")
            labels = PatchLabels(hit.astype(np.float32), hit.astype(np.int8), 0.5)
            write_patch_labels(folder / RUN / "patch_labels" / f"{name}.h5", labels)
            tables[which].append((name, label))
            if which == "test":
                mask = np.ones((2048, 4096), np.uint8)
                for x, y in coords[hit]:
                    mask[y : y + side, x : x + side] = 2
                (folder / "masks").mkdir(exist_ok=True)
                write_pyramid(folder / "masks" / f"{name}_mask.tif", mask, 0.25)
    for file, rows in {**tables, "wsi_labels": tables["train"] + tables["test"]}.items():
        pd.DataFrame(rows, columns=["wsi_name", "wsi_label"]).to_csv(folder / f"{file}.csv", index=False)
    (folder / "images").mkdir()
    image = rng.integers(120, 200, (2048, 4096, 3), np.uint8)
    write_pyramid(folder / "images" / f"{open_data(folder).example}.tif", image, 0.25)
    return folder


@pytest.fixture(params=[pytest.param("synthetic slides", marks=pytest.mark.heavy), "a root of its own"])
def root(request, tmp_path, monkeypatch):
    """None for the synthetic slides, else the path of another root, which the notebooks find by the environment."""
    if request.param == "synthetic slides":
        return None
    (tmp_path / "root").mkdir()
    root = made_root(tmp_path / "root")
    monkeypatch.setenv("MIL_TUTORIAL_DATA", str(root))
    return root


@pytest.mark.slow
def test_commands_give_the_numbers_of_the_notebooks(repo, tmp_path, root):
    out = tmp_path / "out"
    assert main(["train", "--out", str(out / "abmil.pt")]) == 0
    assert main(["evaluate", "--checkpoint", str(out / "abmil.pt"), "--out", str(out / "evaluate")]) == 0
    assert main(["localize", "--checkpoint", str(out / "abmil.pt"), "--out", str(out), "--froc"]) == 0

    five = run_cells(repo, "05-evaluation")
    trained = load_checkpoint(out / "abmil.pt")
    assert trained.threshold == pytest.approx(five["threshold"], abs=1e-6)
    weights = five["model"].cpu().state_dict()
    assert all(np.allclose(weights[k], v, atol=1e-6) for k, v in trained.model.state_dict().items())
    metrics = json.loads((out / "evaluate" / "metrics.json").read_text())["metrics"]
    for name, estimate in five["metrics"].items():
        for key in ("value", "low", "high"):
            assert metrics[name][key] == pytest.approx(getattr(estimate, key), abs=1e-6), name
    table = pd.read_csv(out / "evaluate" / "predictions.csv")
    assert table["wsi_name"].tolist() == five["test"].names
    assert np.allclose(table["probability"], five["test"].prob, atol=1e-6)

    six = run_cells(repo, "06-metastasis-localization")
    for name, detections in six["detections"].items():
        written = read_detections(out / "detections" / f"{name}.csv")
        assert written.shape == detections.shape, name
        assert np.allclose(written[:, 0], detections[:, 0], atol=1e-6), name
        assert np.allclose(written[:, 1:], detections[:, 1:], atol=0.5), name
    froc = json.loads((out / "froc.json").read_text())
    assert froc["score"] == pytest.approx(six["result"].score, abs=1e-6)
    assert (froc["low"], froc["high"]) == pytest.approx((six["result"].low, six["result"].high), abs=1e-6)


def test_the_recipe_is_the_one_that_notebook_4_writes_by_hand(repo):
    from mil_tutorial.training.recipe import BATCH_SIZE, EPOCHS, LEARNING_RATE

    text = (repo / "notebooks" / "scripts" / "04-training-on-gpu.py").read_text(encoding="utf-8")
    assert re.search(r"^EPOCHS = (\d+)$", text, re.MULTILINE)[1] == str(EPOCHS)
    assert float(re.search(r"^LEARNING_RATE = (\S+)$", text, re.MULTILINE)[1]) == LEARNING_RATE
    assert BATCH_SIZE == 4  # make_loader's default


@pytest.mark.slow
def test_test_slides_that_were_trained_on_are_named(tmp_path, capsys, tree):
    out = tmp_path / "a.pt"
    rows = pd.read_csv(tree / "train.csv")
    extra = [f"{kind}_{i:03d}" for kind in ("normal", "tumor") for i in range(3, 8)]
    data = open_data()
    for name in extra:
        for part in ("patches", "features_efficientnet_lite0", "patch_labels"):
            for file in (data.trident_dir / part).glob(f"{name}*.h5"):
                shutil.copy(file, tree / RUN / part)
    table = pd.concat([rows, pd.DataFrame({"wsi_name": extra, "wsi_label": [int("tumor" in n) for n in extra]})])
    for file in ("train", "test", "wsi_labels"):
        table.to_csv(tree / f"{file}.csv", index=False)
    assert main(["train", "--data", str(tree), "--epochs", "1", "--out", str(out)]) == 0
    capsys.readouterr()
    report = tmp_path / "report"
    assert main(["evaluate", "--data", str(tree), "--checkpoint", str(out), "--out", str(report)]) == 0
    warning = capsys.readouterr().err
    assert "14 of 14 test slides" in warning and "trained or validated on them" in warning
    for file in ("report.html", "model_card.md"):
        assert "say nothing about new slides" in (report / file).read_text(encoding="utf-8")
