"""The command line: help of every command, the way from training to a map, and one message for what is wrong."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from small import RUN

from mil_tutorial import __version__
from mil_tutorial.commands import train
from mil_tutorial.commands.main import COMMANDS, build_parser, main
from mil_tutorial.training.fit import fit

LABELS = ["--csv_path", "{tmp}/labels.csv", "--masks_dir", "{tmp}", "--save_dir", "{tmp}/out"]


def run(*arguments):
    return main([str(a) for a in arguments])


def message(capsys):
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and len(captured.err.splitlines()) <= 3
    return captured.err


def parsers():
    """The parser of each command by its name."""
    (choices,) = [a.choices for a in build_parser()._actions if isinstance(a.choices, dict)]
    return choices


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and COMMANDS[command].rstrip(".")[:40] in " ".join(capsys.readouterr().out.split())
    bare = [a.dest for a in parsers()[command]._actions if not a.help]
    assert not bare, f"{command}: options without help: {bare}"


def test_every_module_with_options_is_a_command(repo):
    texts = {
        p.stem.rstrip("_"): p.read_text(encoding="utf-8") for p in (repo / "mil_tutorial" / "commands").glob("*.py")
    }
    assert {name for name, text in texts.items() if "\ndef options(" in text} == set(COMMANDS) == set(parsers())


@pytest.mark.slow
def test_the_module_is_the_program():
    done = subprocess.run([sys.executable, "-m", "mil_tutorial", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: mil-tutorial") and all(name in done.stdout for name in COMMANDS)
    done = subprocess.run(
        [sys.executable, "-m", "mil_tutorial", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__


@pytest.mark.slow
def test_train_evaluate_localize(tmp_path, capsys, data):
    checkpoint = tmp_path / "model.pt"
    assert run("train", "--epochs", 2, "--out", checkpoint) == 0
    assert run("evaluate", "--checkpoint", checkpoint, "--json") == 0
    metrics = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert 0 <= metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= 1
    assert run("localize", "test_001", "--checkpoint", checkpoint, "--out", tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out").rglob("test_001.*")} == {"test_001.csv", "test_001.geojson"}


@pytest.mark.slow
@pytest.mark.parametrize("best,epochs,warned", [(0, 6, True), (1, 6, False), (0, 5, False)])
def test_training_that_never_got_better_is_told(tmp_path, capsys, data, monkeypatch, best, epochs, warned):
    monkeypatch.setattr(train, "fit", lambda *a, **options: replace(fit(*a, **options), best_epoch=best))
    assert run("train", "--epochs", epochs, "--out", tmp_path / "model.pt") == 0
    assert ("Try another --seed" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (["prepare", "--wsi_dir", "{tmp}/none", "--job_dir", "{tmp}/job"], "none: there is no such folder"),
        (["prepare", "--wsi_dir", "{tmp}", "--job_dir", "{tmp}/job"], "no slides here"),
        (["check", "{tmp}"], "not a data root"),
        (["evaluate", "--checkpoint", "{tmp}/no.pt"], "no.pt: there is no such checkpoint"),
        (["evaluate", "--checkpoint", "{tmp}/bad.pt"], "bad.pt: is not a checkpoint"),
        (["fixture", "../evil"], "../evil"),
        (["labels", *LABELS, "--coords_dir", "{tmp}/none"], "none: no coordinates here"),
    ],
)
def test_bad_input_ends_in_one_message(tmp_path, capsys, arguments, expected):
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    (tmp_path / "labels.csv").write_text("wsi_name,wsi_label\na,0\n")
    assert run(*[a.format(tmp=tmp_path) for a in arguments]) == 2
    assert expected in message(capsys)


@pytest.mark.parametrize("flag,value", [("--accumulate", 0), ("--patience", -3), ("--lr", "nan"), ("--epochs", 0)])
def test_what_the_library_calls_a_parameter_is_told_as_the_flag(tmp_path, capsys, data, flag, value):
    assert run("train", flag, value, "--out", tmp_path / "model.pt") == 2
    text = message(capsys)
    assert text.startswith(f"mil-tutorial train: {flag}: ") and str(value) in text
    assert not list(tmp_path.iterdir())


def test_labels_of_an_unknown_slide(tree, capsys):
    lines = (tree / "wsi_labels.csv").read_text().splitlines()
    (tree / "wsi_labels.csv").write_text("\n".join(line for line in lines if "tumor_001" not in line))
    folders = ["--masks_dir", tree, "--coords_dir", tree / RUN / "patches", "--save_dir", tree / "out"]
    assert run("labels", "--csv_path", tree / "wsi_labels.csv", *folders) == 2
    assert "no label for tumor_001" in message(capsys)
