"""What must agree between files of the repository: pins, environments, addresses; and style, types and spelling."""

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import set_repository
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STYLE = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell"]]


@pytest.fixture(scope="module")
def settings(repo):
    return tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(settings):
    return settings["project"]


@pytest.fixture(scope="module")
def pins(repo):
    """Pinned versions by package; there are several where the Python versions differ."""
    pins = {}
    for line in (repo / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(pin.name.lower().replace("_", "-"), []).append(pin)
    return pins


def floors(requirements):
    matches = (re.match(r"([A-Za-z0-9_.-]+)(?:\[[\w,]+\])?>=([\d.]+)", r) for r in requirements)
    return {m[1].lower().replace("_", "-"): m[2] for m in matches if m}


def version(pin):
    return str(pin.specifier).removeprefix("==")


def test_environments_say_the_same_as_pyproject(repo, project):
    wanted = floors(project["dependencies"]) | floors(project["optional-dependencies"]["course"])
    environment = yaml.safe_load((repo / "environment-torchmil.yml").read_text(encoding="utf-8"))["dependencies"]
    assert environment[-1] == {"pip": ["-e .[course]"]}
    names = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
    conda = floors(environment[:-1])
    assert conda.pop("python") == project["requires-python"].removeprefix(">=")
    assert {names.get(k, k): v for k, v in conda.items()}.items() <= wanted.items()
    trident = yaml.safe_load((repo / "environment-trident.yml").read_text(encoding="utf-8"))["dependencies"]
    assert "python=3.10" in trident and "TRIDENT" in trident[-1]["pip"][0]
    binder = (repo / "binder" / "requirements.txt").read_text(encoding="utf-8")
    assert ".[course]" in binder and "-c ../constraints.txt" in binder
    assert (repo / "binder" / "runtime.txt").read_text(encoding="utf-8").strip() == "python-3.11"


def test_pins_meet_the_floors(project, pins):
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for name, floor in floors(r for g in groups for r in g).items():
        if name not in ("mil-tutorial", "timm"):
            assert all(Version(version(p)) >= Version(floor) for p in pins[name]), name
    assert list(map(version, pins["torch"])) == ["2.13.0"]
    assert not any(n.startswith(("nvidia", "triton", "cuda")) for n in pins)


def test_pins_are_in_order_and_one_for_each_python(repo, pins):
    lines = [x for x in (repo / "constraints.txt").read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    assert lines == sorted(lines, key=lambda line: Requirement(line).name)
    for name, several in pins.items():
        for python in ("3.10.0", "3.11.0", "3.12.0", "3.13.0"):
            here = {"python_full_version": python, "python_version": python[:-2], "sys_platform": "linux"}
            fitting = [p for p in several if p.marker is None or p.marker.evaluate(here)]
            assert len(fitting) <= 1, f"{name}: {len(fitting)} pins for Python {python}"


def test_hooks_have_the_pinned_versions(repo, pins):
    """What is checked before a commit is what the tests check."""
    repos = yaml.safe_load((repo / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for name, url in (("ruff", "astral-sh/ruff-pre-commit"), ("codespell", "codespell-project/codespell")):
        (rev,) = [r["rev"] for r in repos if r["repo"].endswith(url)]
        assert [rev.removeprefix("v")] == list(map(version, pins[name])), name


def test_badges_and_addresses_come_from_one_setting(repo, project):
    assert set_repository.main(check=True) == 0
    for path in (repo / "notebooks").glob("*.ipynb"):
        owner = project["urls"]["Repository"].removeprefix("https://github.com/")
        assert f"github/{owner}/blob/main/notebooks/{path.name}" in path.read_text(encoding="utf-8")


def test_commands_that_the_documents_name_exist(repo):
    """`make TARGET` in README, CONTRIBUTING, the workflows and CI."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (repo / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    places = ["README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/tests.yml", ".github/workflows/site.yml"]
    for place in places:
        named = re.findall(
            r"(?:`|^|run: )make ([a-z][a-z-]*)", (repo / place).read_text(encoding="utf-8"), re.MULTILINE
        )
        assert set(named) <= targets, place


def check(repo, pins, command):
    """Run a program of the environment over the repository, if it is the pinned one."""
    program = Path(sysconfig.get_path("scripts")) / command[0]
    if not (program.exists() or program.with_suffix(".exe").exists()):
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[test]'")
    installed = metadata.version(command[0])
    if installed not in map(version, pins[command[0]]):
        pytest.skip(f"{command[0]} {installed} is installed; constraints.txt has another, which may have other rules")
    done = subprocess.run([program, *command[1:]], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]


@pytest.mark.slow
@pytest.mark.parametrize("command", STYLE, ids=" ".join)
def test_style_and_spelling(repo, pins, command):
    check(repo, pins, command)


@pytest.mark.heavy
def test_types(repo, pins):
    check(repo, pins, ["mypy"])
