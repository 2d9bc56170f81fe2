"""What goes wrong on the way: killed programs, broken lines, busy servers, full disks."""

import errno
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from remote.server import serving
from sources import made

from mil_tutorial import DataError
from mil_tutorial.commands.main import main
from mil_tutorial.remote import answers
from mil_tutorial.sources.choice import Wanted
from mil_tutorial.sources.fetch import fetch_camelyon16
from mil_tutorial.sources.get import fetch_file

NAMES = ["normal_004", "tumor_091", "test_001"]
HUB, BUCKET = r"\.h5", "CAMELYON16/(masks|images|annotations|evaluation|checksums)"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waits are short here; what a server asks for in Retry-After is kept."""
    monkeypatch.setattr(answers, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def expected(published, tmp_path_factory):
    """The tree of a root that was fetched in one go, and the bytes that it took. Addresses stand in its record."""

    def fetch(server, names):
        root = tmp_path_factory.mktemp("expected") / "root"
        before = server.sent()
        fetch_camelyon16(root, Wanted(names=names), progress=False)
        return made.tree(root), server.sent() - before

    return fetch


@contextmanager
def running(root, *options):
    command = [sys.executable, "-m", "mil_tutorial", "get", "camelyon16", str(root), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(3))
def test_killed_and_run_again(published, expected, tmp_path, monkeypatch, seed):
    """Killed three times at random moments: the same tree, and at most a tenth more bytes in all."""
    from sources.conftest import name_server

    with serving(published) as server:
        name_server(monkeypatch, server)
        tree, size = expected(server, made.NAMES)
        server.behaviour.rate = 1_500_000  # bytes a second of one connection
        server.log.clear()
        root = tmp_path / "root"
        moments = np.sort(np.random.default_rng(seed).uniform(0.02, 0.95, 3)) * size
        for moment in moments:
            with running(root, "--all") as process:
                deadline = time.monotonic() + 60
                while server.sent() < moment and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert process.poll() is None, process.stderr.read().decode()
        server.behaviour.rate = 0
        assert main(["get", "camelyon16", str(root), "--all"]) == 0
        assert made.tree(root) == tree
        sent = server.sent()
        assert sent <= 1.1 * size, [server.sent(p) / size for p in (HUB, "masks", "images", "")]


def test_killed_when_the_file_was_whole(tmp_path):
    """Between its last name and the end of its lock: the next run takes away what was left."""
    mask = tmp_path / "masks" / "tumor_091_mask.tif"
    mask.parent.mkdir()
    for end in ("", ".lock", ".part.json"):
        mask.with_name(mask.name + end).write_bytes(b"x")
    assert fetch_file("masks", "tumor_091", tmp_path, checksums={}) == mask
    assert [p.name for p in mask.parent.iterdir()] == [mask.name]


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("where", [HUB, BUCKET])
def test_a_busy_server_is_asked_again_when_it_says(own_server, expected, tmp_path, status, where):
    tree, size = expected(own_server, NAMES)
    own_server.behaviour.refuse = [(status, {"Retry-After": "1"})] * 3
    own_server.behaviour.refuse_path = where
    own_server.log.clear()
    start = time.monotonic()
    fetch_camelyon16(tmp_path / "root", Wanted(names=NAMES), progress=False)
    assert time.monotonic() - start >= 1 and not own_server.behaviour.refuse
    assert made.tree(tmp_path / "root") == tree
    assert own_server.sent() <= size + 100


@pytest.mark.slow
def test_bodies_that_are_cut(own_server, expected, tmp_path):
    tree, size = expected(own_server, NAMES)
    own_server.behaviour.cut_after, own_server.behaviour.cuts = 20_000, 12
    own_server.log.clear()
    fetch_camelyon16(tmp_path / "root", Wanted(names=NAMES), progress=False)
    assert own_server.behaviour.cuts == 0 and made.tree(tmp_path / "root") == tree
    assert own_server.sent() <= 1.02 * size


@pytest.mark.slow
def test_signed_addresses_that_expire(own_server, expected, tmp_path):
    tree, _ = expected(own_server, NAMES)
    own_server.behaviour.signed_uses = 3
    fetch_camelyon16(tmp_path / "root", Wanted(names=NAMES), progress=False)
    assert made.tree(tmp_path / "root") == tree
    assert sum(r.status == 403 for r in own_server.log) > 3


def test_a_server_without_ranges(own_server, tmp_path, capsys):
    own_server.behaviour.ignore_range = True
    assert main(["get", "camelyon16", str(tmp_path / "root"), "--names", *NAMES]) == 2
    text = capsys.readouterr().err
    assert ".h5: the server sends this file only as a whole (it ignores Range)" in text and "Traceback" not in text
    assert own_server.sent(HUB) < 5_000_000  # it is not read to its end


@pytest.mark.parametrize("denied", [403, 404])
@pytest.mark.parametrize("key", ["masks/tumor_091_mask.tif", "images/tumor_091.tif", "evaluation/reference.csv"])
def test_a_missing_key(own_server, tmp_path, capsys, key, denied):
    (own_server.folder / "CAMELYON16" / key).unlink()
    own_server.behaviour.denied = denied
    assert main(["get", "camelyon16", str(tmp_path / "root"), "--names", "tumor_091"]) == 2
    text = capsys.readouterr().err
    assert f"CAMELYON16/{key}: there is no such file, or it is not public (the server answers {denied})" in text
    assert not (tmp_path / "root" / "wsi_labels.csv").exists()


@pytest.mark.slow
def test_a_mask_with_another_md5(own_server, tmp_path, capsys):
    list_ = own_server.folder / "CAMELYON16/checksums.md5"
    lines = list_.read_text().splitlines()
    list_.write_text("\n".join("0" * 32 + line[32:] if "tumor_091_mask" in line else line for line in lines))
    root = tmp_path / "root"
    assert main(["get", "camelyon16", str(root), "--names", "tumor_091", "normal_004"]) == 2
    text = capsys.readouterr().err
    assert "tumor_091_mask.tif: what came is not the file that was expected (md5" in text
    assert "1 of 2 slides are whole" in text and not list((root / "masks").glob("*.tif"))


@pytest.mark.slow
def test_checksums_without_stars(own_server, tmp_path):
    made.write_checksums(own_server.folder / "CAMELYON16", star="")
    assert main(["get", "camelyon16", str(tmp_path / "root"), "--names", "tumor_091"]) == 0


def test_no_network(tmp_path, monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MIL_TUTORIAL_BUCKET", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MIL_TUTORIAL_HUB", f"http://127.0.0.1:{port}")
    assert main(["get", "camelyon16", str(tmp_path / "root")]) == 2
    text = capsys.readouterr().err
    assert text.count("cannot be reached") == 1 and "Check the network connection" in text


def test_the_hub_alone_is_gone(own_server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIL_TUTORIAL_HUB", "http://127.0.0.1:9")
    assert main(["get", "camelyon16", str(tmp_path / "root"), "--names", "tumor_091"]) == 2
    assert capsys.readouterr().err.count("cannot be reached") == 1


@pytest.mark.slow
def test_the_disk_is_full_in_the_middle(server, expected, tmp_path, monkeypatch, capsys):
    tree, size = expected(server, NAMES)
    root, left = tmp_path / "root", [200_000]
    real_open = open

    class Full:
        """A file on a disk with little room."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            left[0] -= len(content)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

    def full_open(path, mode="r", *args, **options):
        file = real_open(path, mode, *args, **options)
        return Full(file) if str(path).endswith(".part") and mode == "ab" else file

    monkeypatch.setattr("builtins.open", full_open)
    server.log.clear()
    assert main(["get", "camelyon16", str(root), "--names", *NAMES]) == 2
    text = capsys.readouterr().err
    assert "cannot be written (No space left on device" in text and "goes on where it stopped" in text
    assert text.count("Traceback") == 0
    monkeypatch.setattr("builtins.open", real_open)
    assert main(["get", "camelyon16", str(root), "--names", *NAMES]) == 0
    assert made.tree(root) == tree
    # What the disk did not take must come again, which is a piece of each slide at most.
    assert server.sent(HUB) <= 1.1 * size


def test_too_small_a_disk_is_told_before(server, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(DataError, match=r"needs \d\.\d MB, the disk has 100 KB left"):
        fetch_camelyon16(tmp_path / "root", Wanted(names=NAMES), progress=False)
    assert server.sent(HUB) < 100_000


def test_a_file_that_is_no_hdf5(own_server, tmp_path):
    (own_server.folder / made.AEM).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 30)
    with pytest.raises(DataError, match=r"\.h5: cannot be read as HDF5"):
        fetch_camelyon16(tmp_path / "root", Wanted(names=NAMES), progress=False)


def test_stopped_in_the_middle_it_is_no_data_root_yet(own_server, tmp_path):
    from mil_tutorial import open_data

    (own_server.folder / "CAMELYON16/masks/tumor_091_mask.tif").unlink()
    with pytest.raises(DataError):
        fetch_camelyon16(tmp_path / "root", Wanted(names=["tumor_091"]), progress=False)
    with pytest.raises(DataError, match="began this data root and did not come to its end"):
        open_data(tmp_path / "root")
    assert Path(tmp_path / "root" / "CAMELYON16.json").is_file()


@pytest.mark.slow
def test_the_process_ends_well_though_an_error_of_hdf5_is_kept(own_server):
    """HDF5 frees what hangs on our file object when the process ends, after Python: it must be gone before."""
    program = (
        "import sys\nfrom mil_tutorial.remote import Head\n"
        "from mil_tutorial.sources.hdf5_slides import open_remote_h5\n"
        "try:\n"
        "    with open_remote_h5(sys.argv[1], Head(size=5000)):\n"
        "        pass\n"
        "except Exception as error:\n"
        "    kept = error\n"
        "print(type(kept).__name__)"
    )
    for path in ("nothing.h5", "CAMELYON16/evaluation/reference.csv"):
        arguments = [sys.executable, "-c", program, f"{own_server.address}/{path}"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "DataError"), done.stderr
