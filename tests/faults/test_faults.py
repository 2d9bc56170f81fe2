"""A small sample of the fault matrix. The whole: make test-faults."""

import os
import subprocess
import sys

import pytest


@pytest.mark.heavy
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks, signals and file-size limits as Linux has them"
)
def test_a_sample_of_the_fault_matrix(repo):
    seed = os.environ.get("MIL_TUTORIAL_SEED", "1")
    command = [sys.executable, repo / "tests" / "faults" / "matrix.py", "--times", "1", "--seed", seed]
    command += ["--only", "labels", "pack", "train"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "nothing lost, nothing silently wrong" in done.stdout, (
        done.stdout[-3000:] + done.stderr[-1500:]
    )


@pytest.mark.heavy
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and memory limits as Linux has them")
def test_a_sample_of_damaged_files(repo):
    command = [
        sys.executable,
        repo / "tests" / "faults" / "fuzz.py",
        "--inputs",
        "1500",
        "--seed",
        os.environ.get("MIL_TUTORIAL_SEED", "1"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and ", 0 went wrong" in done.stdout, done.stdout[-3000:] + done.stderr[-1500:]
