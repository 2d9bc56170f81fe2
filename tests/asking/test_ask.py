"""One slide asked: the numbers of `evaluate`, warnings where they belong, every file, one message for what is wrong."""

import json
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from small import write_tissue_slide

from mil_tutorial import ABMIL, DataError, ParameterError, make_loader, predict, predict_slide
from mil_tutorial.asking.ask import ask
from mil_tutorial.asking.known import know_slides
from mil_tutorial.asking.source import SlideFeatures, prepare_options
from mil_tutorial.asking.trained import TrainedModel, load_checkpoint
from mil_tutorial.commands.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Two checkpoints, untrained but whole, that know 40 training slides; an old one; one of another encoder."""
    out, bags = tmp_path_factory.mktemp("models"), data.bags("train")
    chosen = [i for i, name in enumerate(bags.get_bag_names()) if name != "tumor_003"][:40]
    parts = bags.subset(chosen[:32]), bags.subset(chosen[32:])
    known = know_slides(*parts, encoder=data.encoder, synthetic=True, progress=False)
    names = tuple(bags.get_bag_names()[i] for i in chosen)
    for seed, file in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        TrainedModel(ABMIL(1280), False, data.encoder, 0.4, seed, names, known).save(out / file)
    TrainedModel(ABMIL(1280), False, data.encoder, 0.4, 0, names).save(out / "old.pt")
    TrainedModel(ABMIL(1280), False, "conch_v15", 0.4, 0, names).save(out / "conch.pt")
    TrainedModel(ABMIL(64), False, data.encoder, 0.4, 0, names).save(out / "small.pt")
    (out / "bad.pt").write_bytes((out / "a.pt").read_bytes()[:5000])
    return out


@pytest.fixture(scope="module")
def slide(data):
    return data.slide_path("tumor_003")


@pytest.fixture(scope="module")
def answer(data, folder, slide):
    return predict_slide(slide, [folder / "a.pt", folder / "b.pt"], features=data.trident_dir, progress=False)


@pytest.fixture(scope="module")
def written(data, folder, slide, tmp_path_factory):
    """The folder that the command writes for a slide that is there and one that is not, and its exit code."""
    out = tmp_path_factory.mktemp("out")
    models = ["--checkpoint", str(folder / "a.pt"), "--checkpoint", str(folder / "b.pt")]
    call = ["predict", str(out / "none.tif"), str(slide), "--features", str(data.trident_dir), *models]
    return out, main([*call, "--out", str(out)])


def source(data, name, **changes):
    bags = data.bags("train")
    X = bags[bags.get_bag_names().index(name)]["X"].numpy()
    return SlideFeatures(name, bags.read_patches(name), changes.get("X", X), None, data.encoder)


def test_probability_is_that_of_evaluate(data, folder):
    bags = data.bags("test").subset(range(8))
    model = load_checkpoint(folder / "a.pt")
    expected = predict(model.model, make_loader(bags)).prob
    for i, name in enumerate(bags.get_bag_names()):
        slide = SlideFeatures(name, bags.read_patches(name), bags[i]["X"].numpy(), None, data.encoder)
        assert ask(slide, [model], ["a.pt"]).probability == pytest.approx(expected[i], abs=1e-6)


def test_several_checkpoints_are_averaged_and_their_spread_is_told(answer):
    single = [a.probability for a in answer.answers]
    assert answer.spread == (min(single), max(single)) and single[0] != single[1]
    assert answer.probability == pytest.approx(np.mean(single))
    assert answer.scores["attention x n"].mean() == pytest.approx(1)


def test_files_beside_the_report(answer, written):
    out, code = written
    assert code == 2, "one of the two slides is not there"
    folder, n = out / "tumor_003", len(answer.patches.coords)
    table = pd.read_csv(folder / "patches.csv")
    assert np.allclose(table["logit contribution"], answer.scores["logit contribution"]) and len(table) == n
    told = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
    assert told["probability"] == pytest.approx(answer.probability) and len(told["checkpoints"]) == 2
    assert pd.read_csv(out / "predictions.csv")["probability"][0] == pytest.approx(answer.probability)
    squares = json.loads((folder / "patches.geojson").read_text(encoding="utf-8"))["features"]
    assert len(squares) == n
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("heatmap.html", "prediction.json", "patches.csv", "patches.geojson", "detections.csv"):
        assert (folder / name).is_file() and f'href="{name}"' in page
    assert not re.search(r"(src|href)=.https?:", page) and "It must not be used" in page and "synthetic" in page
    assert f"{answer.probability:.3f}" in answer._repr_html_() and "<img" in answer._repr_html_()


def test_a_slide_like_the_training_slides_has_no_warning(data, folder):
    model = load_checkpoint(folder / "a.pt")
    name = next(n for n in data.bags("train").get_bag_names() if n not in model.slides and n.startswith("normal"))
    said = ask(source(data, name), [model], ["a.pt"])
    assert said.warnings == [] and {c.verdict for c in said.comparisons} == {"like", "unknown"}


def test_what_is_unlike_is_told_thing_by_thing(data, folder):
    model = load_checkpoint(folder / "a.pt")
    name = next(n for n in data.bags("train").get_bag_names() if n not in model.slides)
    usual = source(data, name)
    strange = SlideFeatures("x", usual.patches, np.roll(usual.X, 7, axis=1), None, data.encoder)
    said = ask(strange, [model], ["a.pt"])
    assert said.comparisons[0].verdict == "unlike" and "look like nothing in training" in said.warnings[0]
    patches = usual.patches
    few = type(patches)(patches.name, patches.coords[:3], patches.geometry)
    said = ask(SlideFeatures("x", few, usual.X[:3], None, data.encoder), [model], ["a.pt"])
    assert any("less tissue than any training slide" in w for w in said.warnings)


def test_a_slide_that_was_trained_on_is_told(data, folder):
    model = load_checkpoint(folder / "a.pt")
    said = ask(source(data, model.slides[0]), [model], ["a.pt"])
    assert any("is no test of the model" in w for w in said.warnings)


def test_an_old_checkpoint_says_that_nothing_is_known(data, folder):
    said = ask(source(data, "tumor_003"), [load_checkpoint(folder / "old.pt")], ["old.pt"])
    assert said.comparisons == () and "nothing can be said" in said.warnings[0]


def test_checkpoints_that_want_different_features_are_refused(folder):
    with pytest.raises(DataError, match="different encoder"):
        prepare_options([load_checkpoint(folder / f) for f in ("a.pt", "conch.pt")])


@pytest.mark.heavy
def test_from_pixels_and_kept_for_the_next_time(folder, tmp_path, capsys):
    write_tissue_slide(tmp_path / "slide.tif")
    call = ["predict", str(tmp_path / "slide.tif"), "--checkpoint", str(folder / "a.pt"), "--out", str(tmp_path / "o")]
    assert main(call) == 1  # a square of noise is unlike the training slides
    said = capsys.readouterr().out
    assert "look like nothing in training" in said and "report.html" in said
    table = pd.read_csv(tmp_path / "o" / "predictions.csv")
    assert table["slide"].tolist() == ["slide"] and "look" in table["unlike"][0]
    (features,) = (tmp_path / "o" / "prepared").glob("*/features_*/slide.h5")
    before = features.stat().st_mtime_ns
    assert main(call) == 1 and features.stat().st_mtime_ns == before


def spoiled_inputs(data, tmp):
    """What can be wrong with a slide, as files in a folder."""
    write_tissue_slide(tmp / "good.tif")
    write_tissue_slide(tmp / "glass.tif", glass=True)
    write_tissue_slide(tmp / "no_mpp.tif", None)
    whole = (tmp / "good.tif").read_bytes()
    (tmp / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp / "text.tif").write_text("no slide")
    (tmp / "empty.svs").write_bytes(b"")
    (tmp / "folder").mkdir()
    (tmp / "file").write_text("no folder")
    run = tmp / "other" / "20x_512px_0px_overlap"
    for part in ("patches", f"features_{data.encoder}"):
        (run / part).mkdir(parents=True)
        for file in (data.trident_dir / part).glob("tumor_003*.h5"):
            shutil.copy(file, run / part / file.name.replace("tumor_003", "good"))
    shutil.copytree(run, tmp / "nan")
    with h5py.File(tmp / "nan" / f"features_{data.encoder}" / "good.h5", "r+") as file:
        file["features"].attrs.pop("crc32", None)
        values = file["features"][:]
        values[0, 0] = np.nan
        file["features"][...] = values


@pytest.mark.parametrize(
    "name,options,expected",
    [
        ("text.tif", [], "OpenSlide cannot open it"),
        ("none.tif", [], "there is no such file"),
        ("folder", [], "is a folder, expected a slide file"),
        ("empty.svs", [], "is empty: 0 bytes"),
        ("cut.tif", [], "cut.tif: "),
        ("glass.tif", [], "no tissue found"),
        ("no_mpp.tif", [], "does not say how large a pixel is"),
        ("good.tif", ["--checkpoint", "{models}/conch.pt"], "conch_v15, which cannot be computed here"),
        ("good.tif", ["--checkpoint", "{models}/bad.pt"], "is not a checkpoint"),
        ("good.tif", ["--checkpoint", "{models}/none.pt"], "there is no such checkpoint"),
        ("good.tif", ["--out", "{tmp}/file"], "is a file, expected the folder"),
        ("good.tif", ["--features", "{tmp}/folder"], "there are no features"),
        ("good.tif", ["--features", "{tmp}/other"], "belongs to a slide of"),
        ("good.tif", ["--mpp", "30"], "--mpp: found 30.0"),
        ("good.tif", ["--device", "abacus"], "--device: found 'abacus'"),
    ],
)
def test_bad_input_is_one_message(data, folder, tmp_path, capsys, name, options, expected):
    spoiled_inputs(data, tmp_path)
    options = [o.format(models=folder, tmp=tmp_path) for o in options]
    usual = [] if "--checkpoint" in options else ["--checkpoint", str(folder / "a.pt")]
    out = [] if "--out" in options else ["--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / name), *usual, *out, *options]) == 2
    said = capsys.readouterr().err
    assert (
        expected in said and "Traceback" not in said and len([x for x in said.splitlines() if "mil-tutorial" in x]) == 1
    )


def test_features_of_another_size_or_with_nan(data, folder, tmp_path, slide):
    with pytest.raises(DataError, match="takes 64 features for each patch"):
        predict_slide(slide, folder / "small.pt", features=data.trident_dir, progress=False)
    spoiled_inputs(data, tmp_path)
    for part in ("patches", f"features_{data.encoder}"):
        for file in (tmp_path / "nan" / part).iterdir():
            file.rename(file.with_name(file.name.replace("good", "tumor_003")))
    with pytest.raises(DataError, match="1 of its features are NaN"):
        predict_slide(slide, folder / "a.pt", features=tmp_path / "nan", progress=False)
    with pytest.raises(ParameterError, match="checkpoint: found none"):
        predict_slide(slide, [])


def test_two_slides_of_one_name_are_refused(folder, tmp_path, capsys):
    twice = ["predict", "a/x.tif", "b/x.svs", "--checkpoint", str(folder / "a.pt"), "--out", str(tmp_path / "out")]
    assert main(twice) == 2 and "two slides have this name" in capsys.readouterr().err


@pytest.mark.heavy
def test_a_real_slide_is_unlike_the_synthetic_ones(real, folder):
    said = predict_slide(real / "cmu-1-small-region.svs", folder / "a.pt", progress=False)
    verdicts = {c.what.split()[0]: c.verdict for c in said.comparisons}
    assert verdicts["look"] == verdicts["magnification"] == verdicts["size"] == "unlike"
