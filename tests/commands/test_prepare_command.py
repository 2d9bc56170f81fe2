"""`mil-tutorial prepare`: a folder of slides, what is told once, and what each flag means."""

import h5py
import pytest
import torch
from small import write_tissue_slide

from mil_tutorial import DataError, PrepareOptions, prepare, read_record, trident
from mil_tutorial.commands.main import main
from mil_tutorial.slides.encoders import PatchEncoder

SMALL = PrepareOptions(patch_size=256)
RUN = "20x_256px_0px_overlap"


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(autouse=True)
def fast_encoder(monkeypatch):
    encoder = PatchEncoder("mean", 64, 3, Mean(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    monkeypatch.setattr("mil_tutorial.commands.prepare.shared_encoder", lambda name: (encoder, torch.device("cpu")))


@pytest.fixture
def wsi(tmp_path):
    """Three slides: two say 0.5 µm per pixel, one does not say it."""
    folder = tmp_path / "wsi"
    folder.mkdir()
    for name, mpp in (("a", 0.5), ("b", 0.5), ("silent", None)):
        write_tissue_slide(folder / f"{name}.tif", mpp)
    return folder


def run(wsi, *more):
    command = ["prepare", "--wsi_dir", wsi, "--job_dir", wsi.parent / "job", "--patch_size", 256, *more]
    return main([str(a) for a in command])


def remembered(wsi):
    """µm per pixel that each coordinate file remembers."""
    folder = wsi.parent / "job" / RUN / "patches"
    return {p.name.removesuffix("_patches.h5"): trident.read_how(p, ["mpp"])["mpp"] for p in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_bad_slide_does_not_stop_the_others(tmp_path, wsi):
    (wsi / "text.tif").write_text("no slide")
    (wsi / "silent.tif").unlink()
    pixels = (wsi / "a.tif").read_bytes()
    write_tissue_slide(wsi / "glass.tif", 0.5, glass=True)
    message = r"glass\.tif: no tissue found(.|\n)*text\.tif(.|\n)*3 of 4 slides are done"
    with pytest.raises(DataError, match=message):
        prepare(wsi, tmp_path / "job", SMALL, progress=False)
    patches = tmp_path / "job" / RUN / "patches"
    counts = {name: len(trident.read_patches(patches / f"{name}_patches.h5").coords) for name in ("a", "b", "glass")}
    assert counts == {"a": 16, "b": 16, "glass": 0}
    assert not [p for p in (tmp_path / "job").rglob(".*")], "temporary files were left behind"
    assert (wsi / "a.tif").read_bytes() == pixels


@pytest.mark.slow
def test_mpp_is_for_the_slides_that_do_not_say_it_and_that_is_told_once(wsi, capsys):
    assert run(wsi, "--mpp", 1.0) == 2, "silent.tif is then 10x"
    output = capsys.readouterr()
    assert "silent.tif: the slide is 10x" in output.err
    assert output.out.count("a.tif: says 0.5 µm per pixel, which is used; mpp 1 is for slides that do not") == 1
    assert (
        "b.tif" not in output.out and "Slides that say their own µm per pixel, which is used: 2 in all." in output.out
    )
    assert remembered(wsi) == {"a": 0.5, "b": 0.5}
    assert run(wsi, "--mpp", 0.4) == 0
    assert remembered(wsi) == {"a": 0.5, "b": 0.5, "silent": 0.4}


@pytest.mark.slow
def test_mpp_slide_by_slide(wsi, tmp_path, capsys):
    table = tmp_path / "mpp.csv"
    table.write_text("wsi,mpp\na.tif,0.25\nsilent,0.495\n")
    assert run(wsi, "--mpp_csv", table, "--mpp", 0.45) == 0
    assert remembered(wsi) == {"a": 0.25, "b": 0.5, "silent": 0.495}
    told = capsys.readouterr().out
    assert "a.tif: says 0.5 µm per pixel; the 0.25 given for this slide is used." in told
    record = read_record(tmp_path / "job" / RUN / "record-prepare.json")
    assert str(table.resolve()) in record["inputs"]
    assert run(wsi, "--mpp_csv", table, "--mpp", 0.45) == 0, "a second time it fits what is there"
    assert run(wsi, "--mpp", 0.45) == 2
    assert "a_patches.h5: was made with mpp 0.25, now it is 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wsi,mpp\na,0.25\nc,0.5\nd.tif,0.5\n", "mpp.csv: names c, d, but "),
        ("wsi,mpp\na,29\n", "mpp.csv: slide a has the mpp 29"),
        ("name,mpp\na,0.25\n", "mpp.csv: column wsi is missing, found name, mpp"),
        (None, "mpp.csv: there is no such file"),
    ],
)
def test_an_mpp_table_that_is_refused(wsi, tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "mpp.csv").write_text(text)
    assert run(wsi, "--mpp_csv", tmp_path / "mpp.csv") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_many_slides_that_fail_alike_are_one_message(wsi, capsys):
    for path in wsi.iterdir():
        write_tissue_slide(path, 29)
    assert run(wsi) == 2
    error = capsys.readouterr().err
    assert error.count("which no objective gives") == 1 and "mag" not in error.replace("image", "")
    assert "a.tif: its pixels are 29 µm wide" in error and "The same holds for b.tif, silent.tif." in error
    assert "0 of 3 slides are done" in error


@pytest.mark.slow
def test_a_damaged_file_is_made_again_and_one_line_says_so(wsi, capsys):
    (wsi / "silent.tif").unlink()
    assert run(wsi) == 0
    capsys.readouterr()
    features = wsi.parent / "job" / RUN / "features_mean" / "a.h5"
    before, _ = trident.read_features(features)
    with h5py.File(features, "r+") as file:
        file["features"][3, 1] += 0.1
    assert run(wsi) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "a.h5" in line] == [line for line in told if "made again" in line]
    assert sum("a.h5: was damaged" in line for line in told) == 1
    assert (trident.read_features(features)[0] == before).all()
    assert run(wsi) == 0 and "made again" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mag", "nan"], "--mag: found nan, expected a number of at least 0.1"),
        (["--mpp", "29"], "--mpp: found 29.0, expected µm per pixel"),
        (["--mpp", "nan"], "--mpp: found nan"),
        (["--overlap", "256"], "--overlap: found 256, expected a whole number of at least 0 and at most 255"),
        (["--min_tissue_proportion", "2"], "--min_tissue_proportion: found 2.0"),
        (["--patch_encoder", " "], "--patch_encoder: found ' '"),
    ],
)
def test_flags_that_mean_nothing_are_refused_by_name(wsi, capsys, flags, message):
    assert run(wsi, *flags) == 2
    assert f"mil-tutorial prepare: {message}" in capsys.readouterr().err


def test_an_unknown_encoder_is_refused_by_its_flag(wsi, capsys, monkeypatch):
    monkeypatch.undo()
    assert run(wsi, "--patch_encoder", "conch_v15") == 2
    assert "--patch_encoder: found 'conch_v15', expected efficientnet_lite0 or timm:<model>" in capsys.readouterr().err


def test_two_slides_of_one_name_are_refused(wsi, capsys):
    write_tissue_slide(wsi / "a.tiff")
    assert run(wsi) == 2
    assert "several slides have the name a. Their results would overwrite each other" in capsys.readouterr().err
