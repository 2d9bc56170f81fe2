"""Launch: a single notebook in an empty folder, in a fresh environment like Colab's; and what Binder will read.

Colab has torch, numpy, matplotlib, pandas, scikit-learn and a notebook server. It does not have this package.
"""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

COLAB = ["ipykernel", "nbclient", "matplotlib", "pandas", "scikit-learn", "h5py", "scipy", "opencv-python-headless"]


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="paths of the environment differ")
def test_one_notebook_in_an_empty_folder_installs_what_is_missing_and_leaves_torch_alone(repo, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheel", repo)
    wheel = next((tmp_path / "wheel").glob("mil_tutorial-*.whl"))
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pins = {
        line.split("==")[0].lower(): line.strip().split(";")[0]
        for line in (repo / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    run(python, "-m", "pip", "install", "-q", "-c", repo / "constraints.txt", pins["torch"], *COLAB)
    before = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    versions = {p["name"].lower(): p["version"] for p in before}
    assert "mil-tutorial" not in versions and "torch" in versions

    folder = tmp_path / "content"
    folder.mkdir()
    notebook = nbformat.read(repo / "notebooks" / "02-bags-and-collate.ipynb", as_version=4)
    address = re.search(r"mil-tutorial\[notebook\] @ (git\+https://\S+?)\"", notebook.cells[1].source)[1]
    notebook.cells[1].source = notebook.cells[1].source.replace(
        address, wheel.as_uri()
    )  # the wheel made here stands for the repository
    nbformat.write(notebook, folder / "lesson.ipynb")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MIL_TUTORIAL", "PYTHON", "VIRTUAL"))}
    environment |= {"MIL_TUTORIAL_CACHE": str(tmp_path / "cache"), "PATH": f"{python.parent}:{environment['PATH']}"}
    code = (
        "import nbformat, nbclient; n = nbformat.read('lesson.ipynb', 4);"
        " nbclient.NotebookClient(n, timeout=600, kernel_name='python3').execute(); nbformat.write(n, 'lesson.ipynb')"
    )
    run(python, "-c", code, cwd=folder, env=environment)
    text = "".join(
        o.get("text", "")
        for c in nbformat.read(folder / "lesson.ipynb", as_version=4).cells
        for o in c.get("outputs", ())
    )
    assert "Key result:" in text
    after = {p["name"].lower(): p["version"] for p in json.loads(run(python, "-m", "pip", "list", "--format=json"))}
    assert "mil-tutorial" in after
    changed = {n: (v, after.get(n)) for n, v in versions.items() if after.get(n) != v}
    assert changed == {}, "the set-up cell changed packages that were there"


def test_binder_reads_what_we_mean(repo):
    """What repo2docker's parser makes of binder/, as far as that goes without Docker."""
    repo2docker = pytest.importorskip("repo2docker.buildpacks", reason="pip install jupyter-repo2docker")
    here = os.getcwd()
    os.chdir(repo)
    try:
        picks = [b for b in (repo2docker.CondaBuildPack("base"), repo2docker.PythonBuildPack("base")) if b.detect()]
        assert isinstance(picks[0], repo2docker.PythonBuildPack)
        assert picks[0].python_version == "3.11"
        assert picks[0].binder_dir == "binder" and "binder/requirements.txt" in picks[0].binder_path("requirements.txt")
    finally:
        os.chdir(here)


def test_environments_parse(repo):
    for name in ("environment-torchmil.yml", "environment-trident.yml"):
        found = yaml.safe_load((repo / name).read_text())
        assert found["name"] and found["channels"] and found["dependencies"]
