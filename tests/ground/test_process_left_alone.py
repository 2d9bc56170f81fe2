"""Nothing in the library changes the process that uses it: threads, environment, matplotlib's settings."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import mil_tutorial
from mil_tutorial.commands import drawing, report

HEAVY = ("torch", "numpy", "cv2", "pandas", "h5py", "openslide", "matplotlib")


def state():
    """What a library must leave as it is."""
    return torch.get_num_threads(), cv2.getNumThreads(), dict(os.environ)


@pytest.fixture
def several_threads():
    """More threads than one, so that a library that sets them to one is noticed."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_the_import_changes_nothing_and_loads_nothing_heavy():
    code = f"""
import json, os, sys
before = dict(os.environ)
import mil_tutorial
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([heavy, dict(os.environ) == before, mil_tutorial.__version__]))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], True, mil_tutorial.__version__]


def test_only_the_program_tells_the_collector_what_is_no_garbage():
    names = "from mil_tutorial import open_data, open_slide"
    program = "import sys; from mil_tutorial.commands import main; sys.argv = ['mil-tutorial', 'check', '--help']"
    program += "\ntry: main.program()\nexcept SystemExit: pass"
    for code, frozen in ((names, False), (program, True)):
        code += "\nimport gc, sys; print(gc.isenabled(), gc.get_freeze_count() > 50_000, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.split() == ["True", str(frozen)]


def test_loading_an_encoder(several_threads):
    before = state()
    mil_tutorial.load_encoder().encode(np.zeros((1, 224, 224, 3), np.uint8))
    assert state() == before


@pytest.mark.slow
def test_verifying_a_slide_of_the_fixture(several_threads, data, tumor_slide):
    before = state()
    drawing.verify_one(tumor_slide, data.root)
    assert state() == before


@pytest.mark.slow
def test_drawing_the_figure_of_a_report():
    import matplotlib
    import matplotlib.pyplot as plt

    before, backend, open_ones = dict(matplotlib.rcParams), matplotlib.get_backend(), plt.get_fignums()
    y, prob = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.6, 0.7])
    assert report.png(report.evaluation_figure(y, prob, 0.5)).startswith(b"\x89PNG")
    assert (dict(matplotlib.rcParams), matplotlib.get_backend(), plt.get_fignums()) == (before, backend, open_ones)
