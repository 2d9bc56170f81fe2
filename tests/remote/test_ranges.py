"""Parts of files on a server, and whole ones: over a server on this machine that misbehaves in every way asked."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from remote.server import LocalServer, serving

from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.files import digest
from mil_tutorial.remote import RangeFile, answers, download, read_range, read_ranges, remote_size, whole

SIZE = 3_000_017

HUB = "/datasets/somebody/slides"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(answers, "READ_TIMEOUT", 1.0)
    answers._resolved.clear()


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()


@pytest.fixture
def server(tmp_path: Path, content: bytes):
    for name in ("CAMELYON16/a.tif", "datasets/somebody/slides/a.tif"):
        path = tmp_path / "served" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    with serving(tmp_path / "served") as running:
        yield running


def bucket(server: LocalServer, name: str = "a.tif") -> str:
    return f"{server.address}/CAMELYON16/{name}"


def hub(server: LocalServer, name: str = "a.tif") -> str:
    return f"{server.address}{HUB}/resolve/main/{name}"


def test_ranges_are_the_bytes_asked_for_and_near_ones_come_with_one_request(server, content):
    url = bucket(server)
    asked = [(10, 20), (5, 12), (70_000, 70_000), (2_000_000, 2_000_500), (60_000, 61_000), (SIZE - 3, SIZE)]
    assert read_ranges(url, asked) == [content[a:b] for a, b in asked]
    assert len(server.log) == 3 and server.sent() < 63_000
    everything = [(0, SIZE), (0, 100), (1_000_000, SIZE)]
    assert read_ranges(url, everything) == [content[a:b] for a, b in everything]
    assert read_range(url, 7, 7) == b"" == b"".join(read_ranges(url, []))
    with pytest.raises(ParameterError, match="start"):
        read_range(url, 7, 6)


def test_ranges_come_in_parallel(server, content):
    server.behaviour.latency = 0.1
    asked = [(k * 200_000, k * 200_000 + 100) for k in range(8)]
    begun = time.perf_counter()
    assert read_ranges(bucket(server), asked) == [content[a:b] for a, b in asked]
    assert time.perf_counter() - begun < 0.5


def test_head_of_bucket_and_hub(server, content):
    assert remote_size(bucket(server)).size == SIZE and remote_size(bucket(server)).etag.endswith("-7")
    head = remote_size(hub(server))
    assert head.size == SIZE and head.linked_etag == hashlib.sha256(content).hexdigest()
    assert head.commit.startswith("c0ffee")


def test_signed_addresses_are_renewed(server, content):
    server.behaviour.signed_uses = 2
    for k in range(7):
        assert read_range(hub(server), k, k + 50) == content[k : k + 50]
    redirects = [r for r in server.log if r.path.startswith("/datasets")]
    assert len(redirects) == 4  # one for two reads


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server, content, status):
    server.behaviour.refuse = [(status, {"Retry-After": "0.2"}), (status, {})]
    begun = time.perf_counter()
    assert read_range(bucket(server), 5, 99) == content[5:99]
    assert len(server.log) == 3 and time.perf_counter() - begun > 0.2
    server.behaviour.refuse = [(status, {})] * 50
    with pytest.raises(DataError, match=f"a.tif: the server is busy .{status}"):
        read_range(bucket(server), 5, 99)
    assert len(server.behaviour.refuse) == 50 - answers.TRIES


def test_after_a_cut_only_the_rest_is_asked_for(server, content):
    server.behaviour.cut_after, server.behaviour.cuts = 300_000, 3
    assert read_range(bucket(server), 100, 1_500_000) == content[100:1_500_000]
    starts = [int(r.range.split("=")[1].split("-")[0]) for r in server.log]
    assert len(starts) == 4 and all(b > a for a, b in zip(starts, starts[1:], strict=False))
    assert server.sent() < 1_700_000


@pytest.mark.slow
def test_a_line_that_is_always_cut_ends(server):
    server.behaviour.cut_after, server.behaviour.cuts = 0, 10_000
    with pytest.raises(DataError, match="cannot be reached"):
        read_range(bucket(server), 0, 1000)


def test_what_cannot_be_read_is_one_clear_error(server, tmp_path):
    for status in (404, 403):
        server.behaviour.denied = status
        for ask in (remote_size, lambda url: read_range(url, 0, 5), lambda url: download(url, tmp_path / "b")):
            for url in (bucket(server, "b.tif"), hub(server, "b.tif")):
                with pytest.raises(DataError, match=rf"{url}: there is no such file.*{status}"):
                    ask(url)
    with pytest.raises(DataError, match="ends before"):
        read_range(bucket(server), SIZE, SIZE + 5)
    server.behaviour.ignore_range, server.behaviour.rate, begun = True, 1_000_000, time.perf_counter()
    with pytest.raises(DataError, match="only as a whole"):
        read_range(bucket(server), 5, 10)
    assert time.perf_counter() - begun < 1  # the file would take three
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/a.tif"
        with pytest.raises(DataError, match=rf"{nobody}: cannot be reached \(.*refused\)"):
            read_range(nobody, 0, 5)
    with pytest.raises(DataError, match="cannot be reached"):
        read_range("http://nowhere.invalid/a.tif", 0, 5)
    begun = time.perf_counter()
    for wrong in ("https://", "http://[::1", "https://host:99999/x", "https://exa mple/x"):
        with pytest.raises(DataError, match="is no web address"):
            remote_size(wrong)
    assert time.perf_counter() - begun < 0.5


@pytest.mark.slow
def test_a_server_that_says_nothing_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(answers, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(answers, "TRIES", 2)
    server.behaviour.latency = 0.6
    with pytest.raises(DataError, match="cannot be reached"):
        read_range(bucket(server), 0, 5)


def test_range_file(server, content):
    file = RangeFile(bucket(server))
    assert file.seek(-5, 2) == SIZE - 5 and file.read(99) == content[-5:] and file.read(1) == b""
    file.seek(65_530)
    assert file.read(100) == content[65_530:65_630]
    asked = len(server.log)
    file.seek(65_000)
    assert file.read(1000) == content[65_000:66_000] and len(server.log) == asked
    file.seek(0)
    assert file.readall() == content and file.tell() == SIZE
    with pytest.raises(ValueError, match="cannot seek"):
        file.seek(-1)


def test_h5py_reads_over_it(server, tmp_path):
    import h5py

    values = np.random.default_rng(1).normal(size=(3000, 64)).astype("f2")
    path = tmp_path / "served" / "CAMELYON16" / "f.h5"
    with h5py.File(path, "w") as file:
        for k in range(9):
            file[f"slide_{k}/feat"] = values + k
    with h5py.File(RangeFile(bucket(server, "f.h5")), "r") as file:
        np.testing.assert_array_equal(file["slide_4/feat"][:], values + np.float16(4))
    assert server.sent() < 0.3 * path.stat().st_size


@pytest.mark.parametrize("large", [whole.LARGE, 1 << 20], ids=["one connection", "several"])
@pytest.mark.parametrize("address", [bucket, hub])
def test_download_resumes(server, content, tmp_path, monkeypatch, large, address):
    monkeypatch.setattr(whole, "LARGE", large)
    monkeypatch.setattr(whole, "PART", 1 << 18)
    target, told = tmp_path / "got" / "a.tif", []

    def stop_half_way(more: int) -> None:
        told.append(more)
        if sum(told) > SIZE // 2:
            raise KeyboardInterrupt

    hashes = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest().upper()}
    with pytest.raises(KeyboardInterrupt):
        download(address(server), target, **hashes, progress=stop_half_way)
    assert not target.exists()
    before = len(server.log)
    download(address(server), target, size=SIZE, **hashes, progress=told.append)
    assert target.read_bytes() == content and sum(told) == SIZE
    asked = {r.range for r in server.log[before:] if r.method == "GET" and r.status == 206}
    assert sum(int(b) + 1 - int(a) for a, b in (r[6:].split("-") for r in asked)) <= SIZE - SIZE // 2
    assert [p.name for p in target.parent.iterdir()] == ["a.tif"]


def test_download_starts_again_where_the_file_has_changed(server, content, tmp_path):
    target = tmp_path / "a.tif"
    part, note = tmp_path / "a.tif.part", tmp_path / "a.tif.part.json"
    part.write_bytes(b"x" * 1000)
    note.write_text("{}")
    download(bucket(server), target)
    assert target.read_bytes() == content and not part.exists() and not note.exists()
    with pytest.raises(DataError, match=f"has {SIZE:,} bytes, expected 5"):
        download(bucket(server), target, size=5)


def test_a_file_that_changes_while_it_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "LARGE", 1 << 18)
    monkeypatch.setattr(whole, "PART", 1 << 16)
    path = tmp_path / "served" / "CAMELYON16" / "a.tif"

    def change(more: int) -> None:
        if path.stat().st_size == SIZE:
            (tmp_path / "other").write_bytes(b"another version" + path.read_bytes())
            (tmp_path / "other").replace(path)

    with pytest.raises(DataError, match=r"a\.tif: has changed while it was read"):
        download(bucket(server), tmp_path / "a.tif", progress=change)
    download(bucket(server), tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes() == path.read_bytes()


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    for wrong in ({"md5": "0" * 32}, {"sha256": "0" * 64}):
        with pytest.raises(DataError, match=r"a\.tif: what came is not the file that was expected .*, expected 000"):
            download(bucket(server), tmp_path / "b" / "a.tif", **wrong)
        assert list((tmp_path / "b").iterdir()) == []


def test_download_from_a_server_that_sends_files_whole_only(server, content, tmp_path):
    told: list[int] = []
    server.behaviour.ignore_range, server.behaviour.cut_after, server.behaviour.cuts = True, 500_000, 2
    download(bucket(server), tmp_path / "a.tif", md5=hashlib.md5(content).hexdigest(), progress=told.append)
    assert (tmp_path / "a.tif").read_bytes() == content and sum(told) == SIZE


def test_a_full_disk_is_said_before_it_begins(server, tmp_path, monkeypatch):
    monkeypatch.setattr(whole.shutil, "disk_usage", lambda folder: whole.shutil._ntuple_diskusage(9, 9, 5))
    with pytest.raises(DataError, match=r"needs 3,000,017 bytes more, the disk has 5 left"):
        download(bucket(server), tmp_path / "a.tif")
    assert server.sent() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_is_a_clear_error(server, tmp_path, monkeypatch):
    def to_full(file, pieces, part, url, told):
        with open("/dev/full", "wb") as full:
            append(full, pieces, part, url, told)

    append = whole._append
    monkeypatch.setattr(whole, "_append", to_full)
    with pytest.raises(DataError, match=r"cannot be written .No space left on device"):
        download(bucket(server), tmp_path / "a.tif")


def test_only_one_process_fetches_a_file(server, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / "a.tif.lock"), pytest.raises(DataError, match="another process is fetching"):
        download(bucket(server), tmp_path / "a.tif")
    download(bucket(server), tmp_path / "a.tif", progress=False)
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "served/CAMELYON16/a.tif")
