"""What `import mil_tutorial` brings, and what it leaves out."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_data_work_does_not_load_torch():
    names = "m.open_slide, m.read_canvas, m.label_patches, m.open_data"
    code = f"import sys, mil_tutorial as m; {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_function_is_not_hidden_by_its_module():
    modules = "import mil_tutorial.localization.froc, mil_tutorial.commands.prepare, mil_tutorial.slides.prepare"
    code = f"{modules}; from mil_tutorial import froc, prepare; assert callable(froc) and callable(prepare)"
    subprocess.run([sys.executable, "-c", code], check=True)
