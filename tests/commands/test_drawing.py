"""`mil-tutorial fixture`: what ships comes out of the drawn slides, and workers do not outlive the command."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import h5py
import pytest

from mil_tutorial import DataError
from mil_tutorial.commands import drawing
from mil_tutorial.commands.main import main
from mil_tutorial.fixture import tree


@pytest.mark.slow
def test_shipped_files_come_out_of_the_slide_again(data, tumor_slide):
    assert drawing.verify_one(tumor_slide, data.root) < drawing.FEATURE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("patches/{}_patches.h5", "coords", 1, "or they are at other places"),
        ("patch_labels/{}.h5", "patch_labels", -1, "other patch labels"),
        ("features_efficientnet_lite0/{}.h5", "features", 9, r"features differ by .* from the shipped ones"),
    ],
)
def test_shipped_files_that_differ_are_named(data, tumor_slide, tmp_path, monkeypatch, file, key, value, message):
    shipped = tmp_path / "shipped" / "trident_processed" / tree.RUN
    for part in ("patches", "patch_labels", "features_efficientnet_lite0"):
        (shipped / part).mkdir(parents=True)
        for path in (tree.SHIPPED / "trident_processed" / tree.RUN / part).glob(f"{tumor_slide}*"):
            shutil.copy(path, shipped / part)
    with h5py.File(shipped / file.format(tumor_slide), "r+") as opened:
        opened[key][0] = value
        del opened[key].attrs["crc32"]
    monkeypatch.setattr(drawing, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(DataError, match=f"{tumor_slide}: .*{message}"):
        drawing.verify(data.root, [tumor_slide], workers=1)


@pytest.mark.slow
def test_the_command_draws_into_a_folder(tmp_path, capsys):
    assert main(["fixture", "normal_001", "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert f"1 synthetic slides with masks are in {tmp_path / 'out'}" in capsys.readouterr().out
    assert (tmp_path / "out" / "images" / "normal_001.tif").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tumor_1"], "'tumor_1' is not the name of a synthetic slide"),
        (["../evil"], "'../evil' is not the name of a synthetic slide"),
        (["nobody", "--build"], "'nobody' is not the name of a synthetic slide"),
        (["tumor_001", "--workers", "0"], "--workers: found 0, expected a whole number of at least 1"),
        (["--all", "--workers", "-3"], "--workers: found -3, expected a whole number of at least 1"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, message):
    assert main(["fixture", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out" / "images").exists()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    """A killed command must not leave processes behind that hold memory."""

    def others():
        marked = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is not ours
                if b"MIL_TUTORIAL_MARK=" + str(tmp_path).encode() in path.read_bytes():
                    marked.add(int(path.parent.name))
        return marked

    arguments = ["fixture", "normal_001", "normal_002", "--workers", "2", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mil_tutorial", *arguments],
        env={**os.environ, "MIL_TUTORIAL_MARK": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(others()) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(1.5)  # the workers have begun
    process.kill()
    process.wait()
    while others() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert others() == set()
