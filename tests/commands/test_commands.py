"""The command line, and what must agree between files of the repository."""

import ast
import json
import re
import subprocess
import sys

import pytest
import yaml
from small import RUN

from mil_tutorial.commands.main import build_parser, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def run(*arguments):
    return main([str(a) for a in arguments])


def said(capsys):
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_every_command_has_help(capsys):
    for command in ("course", "fixture", "prepare", "labels", "check", "train", "evaluate", "localize"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0 and "--" in capsys.readouterr().out


def test_train_evaluate_localize(tmp_path, capsys, data):
    checkpoint = tmp_path / "model.pt"
    assert run("train", "--epochs", 2, "--out", checkpoint) == 0
    assert run("evaluate", "--checkpoint", checkpoint, "--json") == 0
    metrics = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert 0 <= metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= 1
    assert run("localize", "test_001", "--checkpoint", checkpoint, "--out", tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out").rglob("test_001.*")} == {"test_001.csv", "test_001.geojson"}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["prepare", "--wsi_dir", "{tmp}/none", "--job_dir", "{tmp}/job"], "none: there is no such folder"),
        (["prepare", "--wsi_dir", "{tmp}", "--job_dir", "{tmp}/job"], "no slides here"),
        (["check", "{tmp}"], "no data root"),
        (["evaluate", "--checkpoint", "{tmp}/no.pt"], "no.pt: there is no such checkpoint"),
        (["evaluate", "--checkpoint", "{tmp}/bad.pt"], "bad.pt: is no checkpoint"),
        (["fixture", "../evil"], "../evil"),
        (
            ["labels", "--csv_path", "x", "--masks_dir", "x", "--coords_dir", "{tmp}", "--save_dir", "x"],
            "no coordinates here",
        ),
    ],
)
def test_bad_input_ends_in_one_message(tmp_path, capsys, arguments, message):
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    assert run(*[a.format(tmp=tmp_path) for a in arguments]) == 2
    assert message in said(capsys)


def test_labels_of_an_unknown_slide(tree, capsys):
    lines = (tree / "wsi_labels.csv").read_text().splitlines()
    (tree / "wsi_labels.csv").write_text("\n".join(line for line in lines if "tumor_001" not in line))
    coords = tree / RUN / "patches"
    assert (
        run(
            "labels",
            "--csv_path",
            tree / "wsi_labels.csv",
            "--masks_dir",
            tree,
            "--coords_dir",
            coords,
            "--save_dir",
            tree / "out",
        )
        == 2
    )
    assert "no label for tumor_001" in said(capsys)


def test_notebooks_are_built_from_their_scripts(repo):
    subprocess.run([sys.executable, repo / "tools" / "build_notebooks.py", "--check"], check=True)


def scripts(repo):
    found = sorted((repo / "notebooks" / "scripts").glob("0*.py"))
    assert len(found) == 6
    return {p.stem: p.read_text(encoding="utf-8") for p in found}


def test_every_notebook_has_what_the_design_asks_for(repo):
    for name, text in scripts(repo).items():
        for wanted in (
            "You will be able to",
            "## In ",
            "## Exercises",
            "## Recap",
            "### Quiz",
            "What to see",
            "Key result:",
        ):
            assert wanted in text, f"{name} lacks {wanted!r}"
        for tag in ("exercise", "check", "solution", "setup"):
            assert f'tags=["{tag}"]' in text, f"{name} has no cell tagged {tag}"
        assert not re.search(r"(?<![\w.])/(home|data|tmp|work|root)/", text), f"{name} holds an absolute path"
        assert "CUDA_VISIBLE_DEVICES" not in text


def test_the_set_up_cell_is_the_same_everywhere(repo):
    cells = {text.split('# %% tags=["setup"]\n')[1].split("# %%")[0].strip() for text in scripts(repo).values()}
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    assert len(cells) == 1
    assert project["urls"]["Repository"] in cells.pop()
    assert project["urls"]["Repository"] in (repo / "CITATION.cff").read_text()


def test_figures_are_explained(repo):
    """Each figure, or group of figures in one section, is followed by words that say what to see."""
    for name, text in scripts(repo).items():
        assert text.count("What to see:") >= 2, name


def _floors(requirements):
    found = (re.match(r"([A-Za-z0-9_.-]+)(?:\[[\w,]+\])?>=([\d.]+)", r) for r in requirements)
    return {m[1].lower().replace("_", "-"): m[2] for m in found if m}


def test_environments_say_the_same_as_pyproject(repo):
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    wanted = _floors(project["dependencies"]) | _floors(project["optional-dependencies"]["course"])
    environment = yaml.safe_load((repo / "environment-torchmil.yml").read_text())["dependencies"]
    assert environment[-1] == {"pip": ["-e .[course]"]}
    names = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
    conda = _floors(e for e in environment[:-1])
    assert conda.pop("python") == project["requires-python"].removeprefix(">=")
    assert {names.get(k, k): v for k, v in conda.items()}.items() <= wanted.items()
    trident = yaml.safe_load((repo / "environment-trident.yml").read_text())["dependencies"]
    assert "python=3.10" in trident and "TRIDENT" in trident[-1]["pip"][0]
    binder = (repo / "binder" / "requirements.txt").read_text()
    assert ".[course]" in binder and "-c ../constraints.txt" in binder
    assert (repo / "binder" / "runtime.txt").read_text().strip() == "python-3.11"


def test_pins_meet_the_floors(repo):
    from packaging.requirements import Requirement
    from packaging.version import Version

    pins = {}
    for line in (repo / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(pin.name.lower().replace("_", "-"), []).append(str(pin.specifier).removeprefix("=="))
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for name, floor in _floors(r for g in groups for r in g).items():
        if name not in ("mil-tutorial", "timm"):
            assert all(Version(v) >= Version(floor) for v in pins[name]), name
    assert pins["torch"] == ["2.13.0"]
    assert not any(n.startswith(("nvidia", "triton")) for n in pins)


def test_modules_import_only_what_stands_before_them(repo):
    order = ["files", "style", "geometry", "data", "fixture", "slides", "trident", "encoders", "prepare", "labels", "bags", "collate", "abmil", "training", "evaluation", "froc", "localization", "viewer", "check", "course", "cli"]  # fmt: skip
    for place, name in enumerate(order):
        path = repo / "mil_tutorial" / f"{name}.py"
        if not path.exists():
            continue
        for node in ast.parse(path.read_text()).body:  # at the top of the module; what a function imports may be later
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mil_tutorial"):
                parts = node.module.split(".")
                modules = [parts[1]] if len(parts) > 1 else [a.name for a in node.names]
                assert all(order.index(m) < place for m in modules if m in order), f"{name} imports {modules}"


def test_public_classes_have_docstrings(repo):
    for path in (repo / "mil_tutorial").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_public_names(repo):
    import mil_tutorial

    for name in mil_tutorial.__all__:
        value = getattr(mil_tutorial, name)
        assert value.__doc__, name


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell"]], ids=" ".join
)
def test_style_and_spelling(repo, command):
    import sysconfig
    from importlib import metadata
    from pathlib import Path

    program = Path(sysconfig.get_path("scripts")) / command[0]
    if not program.exists():
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[test]'")
    pinned = f"{command[0]}=={metadata.version(command[0])}"
    if pinned not in (repo / "constraints.txt").read_text().splitlines():
        pytest.skip(f"{pinned} is installed, and constraints.txt has another, which may have other rules")
    done = subprocess.run([program, *command[1:]], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
