"""What goes wrong with far slides: the line, the server, the file there, the cache on this disk."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from remote.philips import picture, write_philips
from remote.server import serving

from mil_tutorial import DataError, open_slide, read_canvas, read_overview
from mil_tutorial.remote import KeptFile, answers
from mil_tutorial.remote.answers import Head
from mil_tutorial.remote.cache import RangeCache

COORDS = np.mgrid[0:2048:512, 0:2048:512].reshape(2, -1).T

HEAD = Head(100, "abc")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "slide.tif"
    write_philips(path, picture(2048, 2048), levels=4)
    return path


@pytest.fixture
def server(drawn, tmp_path):
    (tmp_path / "served").mkdir()
    shutil.copy(drawn, tmp_path / "served")
    with serving(tmp_path / "served") as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Of this test's own; gives its file."""
    monkeypatch.setenv("MIL_TUTORIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(answers, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(answers, "READ_TIMEOUT", 2.0)
    return RangeCache().path


@pytest.fixture(scope="session")
def right(drawn):
    return canvas(drawn)


def canvas(slide) -> np.ndarray:
    return read_canvas(slide, COORDS, 512, 200)[0].astype(float)


def is_right(server, right) -> bool:
    return np.abs(canvas(f"{server.address}/slide.tif") - right).mean() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "503", "429", "slow", "all"])
def test_a_bad_line_gives_the_right_pixels(server, right, fault):
    now = server.behaviour
    if fault in ("cut", "all"):
        now.cut_after, now.cuts = 20_000, 6
    if fault in ("503", "429", "all"):
        now.refuse = [(429 if fault == "429" else 503, {"Retry-After": "0.05"})] * 5
    if fault in ("slow", "all"):
        now.rate = 400_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_right(server, right)
    assert not now.refuse and (not now.cut_after or now.cuts == 0)
    asked = len(server.log)
    assert is_right(server, right) and len(server.log) == asked


@pytest.mark.slow
def test_a_server_without_ranges_is_one_clear_error(server):
    server.behaviour.ignore_range = True
    with pytest.raises(DataError, match=r"slide\.tif: the server sends this file only as a whole"):
        canvas(f"{server.address}/slide.tif")


@pytest.mark.slow
@pytest.mark.parametrize("status", [404, 403])
def test_a_missing_slide(server, status):
    server.behaviour.denied = status
    with pytest.raises(DataError, match=rf"other\.tif: there is no such file, .*{status}"):
        open_slide(f"{server.address}/other.tif")


@pytest.mark.slow
def test_a_server_that_fails_in_the_middle(server):
    """The error is the line's, and does not say that the slide is damaged."""
    with open_slide(f"{server.address}/slide.tif") as slide:
        server.behaviour.refuse = [(503, {})] * 200
        with pytest.raises(DataError, match=r"slide\.tif: the server is busy"):
            read_canvas(slide, COORDS, 512, 200)
        with pytest.raises(DataError, match=r"slide\.tif: the server is busy"):
            read_overview(slide, 2)
        server.behaviour.refuse = []
        assert read_overview(slide, 2).shape == (1024, 1024, 3)


def test_a_slide_that_is_damaged_there(server, tmp_path):
    path = tmp_path / "served" / "slide.tif"
    content = bytearray(path.read_bytes())
    with open_slide(f"{server.address}/slide.tif") as slide:
        level = slide.tiles(1, 3)
        for start, size in zip(level.offsets.tolist(), level.sizes.tolist(), strict=True):
            content[start : start + size] = bytes(size)
    path.write_bytes(content)
    with open_slide(f"{server.address}/slide.tif") as slide:
        for read in (
            lambda: slide.read_region((512, 512), 1, (300, 300)),
            lambda: read_canvas(slide, COORDS, 512, 100),
        ):
            with pytest.raises(DataError, match=r"slide\.tif: cannot be read at .*damaged"):
                read()


def test_a_slide_that_changes_there(server, tmp_path):
    """Parts of two versions are never mixed."""
    url, path = f"{server.address}/slide.tif", tmp_path / "served" / "slide.tif"
    with open_slide(url) as slide:
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(DataError, match=r"slide\.tif: has changed while it was read. Open it again"):
            read_canvas(slide, COORDS, 512, 200)
    with open_slide(url) as slide:
        read_canvas(slide, COORDS, 512, 200)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["is a file", "no folder", "full", "locked", "little room"])
def test_a_cache_that_cannot_be_written_is_told_and_stops_nothing(server, right, tmp_path, monkeypatch, cache, how):
    held = None
    if how == "is a file":
        (tmp_path / "cache").write_text("")
    elif how == "no folder":
        cache.mkdir(parents=True)
    elif how == "little room":
        monkeypatch.setattr("mil_tutorial.remote.cache.SPARE", 1 << 60)
    elif how == "full":
        connect = RangeCache._connect

        def connect_full(self) -> sqlite3.Connection | None:
            database = connect(self)
            if database is not None:
                database.execute("PRAGMA max_page_count = 30")
            return database

        monkeypatch.setattr(RangeCache, "_connect", connect_full)
    else:
        RangeCache().put_head("http://other", HEAD)
        held = sqlite3.connect(cache, isolation_level=None)
        held.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("mil_tutorial.remote.cache.PATIENCE", 0.05)
    with pytest.warns(UserWarning, match=r"nothing can be kept there .*MIL_TUTORIAL_CACHE") as told:
        assert is_right(server, right)
    assert len(told) == 1
    if held is not None:
        held.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["every part", "whole file", "middle", "cut", "head"])
def test_a_damaged_cache_is_noticed_and_read_again(server, right, cache, how):
    assert is_right(server, right)
    asked = len(server.log)
    if how in ("every part", "head"):
        database = sqlite3.connect(cache)
        if how == "head":
            database.execute("UPDATE files SET size = size - 1")
        else:
            for number, content in database.execute("SELECT id, content FROM parts").fetchall():
                content = bytes([content[0] ^ 1]) + content[1:]
                database.execute("UPDATE parts SET content = ? WHERE id = ?", (content, number))
        database.commit()
        database.close()
    else:
        content = bytearray(cache.read_bytes())
        if how == "whole file":
            content[:] = b"not a database " * 9000
        elif how == "cut":
            content = content[: len(content) // 2]
        else:
            places = np.random.default_rng(3).integers(200, len(content), len(content) // 100)
            for at in places.tolist():
                content[at] ^= 255
        cache.write_bytes(content)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert is_right(server, right)
    assert len(server.log) > asked
    asked = len(server.log)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_right(server, right)  # what was read again is kept
    assert len(server.log) == asked


def test_the_cache_holds_no_more_than_it_may_and_what_was_used_longest_ago_leaves(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("mil_tutorial.remote.cache.time.time", lambda: now[0])
    cache = RangeCache(tmp_path, most=10_000)
    cache.put_head("http://a", HEAD)
    for k in range(9):
        now[0] += 10
        cache.put("http://a", HEAD, {(k, k + 1000): bytes([k]) * 1000})
    now[0] += 10
    assert cache.get("http://a", [(0, 1000)]) == {(0, 1000): bytes(1000)}  # used again
    cache.put("http://a", HEAD, {(20, 2020): b"x" * 2000})
    left = cache.get("http://a", [(k, k + 1000) for k in range(9)] + [(20, 2020)])
    assert (0, 1000) in left and (20, 2020) in left and (1, 1001) not in left and (2, 1002) not in left
    assert sum(map(len, left.values())) <= 9000 and (8, 1008) in left
    cache.close()
    assert RangeCache(tmp_path).get("http://b", [(0, 1000)]) == {}


def test_where_the_disk_is_nearly_full_what_is_there_makes_room(tmp_path, monkeypatch):
    cache = RangeCache(tmp_path)
    parts = [(k, k + 1000) for k in range(9)]
    cache.put("http://a", HEAD, {part: bytes(1000) for part in parts})
    monkeypatch.setattr("mil_tutorial.remote.cache.SPARE", 1 << 60)
    cache.put("http://a", HEAD, {(20, 2020): bytes(2000)})
    left = cache.get("http://a", [*parts, (20, 2020)])
    assert (20, 2020) in left and sum(map(len, left.values())) == 9000
    cache.close()


def test_threads_share_what_is_coming(server):
    server.behaviour.latency = 0.05
    file = KeptFile(f"{server.address}/slide.tif")
    ranges = [(k * 1000, k * 1000 + 900) for k in range(8)]
    barrier = threading.Barrier(6)

    def read(_: int) -> list[bytes]:
        barrier.wait()
        return file.read(ranges)

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(read, range(6)))
    assert all(r == results[0] for r in results) and list(map(len, results[0])) == [900] * 8
    assert len([r for r in server.log if r.method == "GET"]) == 1
    file.close()


def test_writers_wait_for_each_other(tmp_path):
    """Each with a connection of its own, as processes have: nobody is told that the file is locked."""

    def write(_: int) -> None:
        cache = RangeCache(tmp_path)
        for k in range(40):
            cache.put(f"http://{k % 7}", HEAD, {(k, k + 100): bytes(100)})
            assert (k, k + 100) in cache.get(f"http://{k % 7}", [(k, k + 100)])
        cache.close()

    with warnings.catch_warnings(), ThreadPoolExecutor(6) as pool:
        warnings.simplefilter("error")
        list(pool.map(write, range(6)))


@pytest.mark.slow
def test_processes_share_a_cache(server, cache):
    """Four programs at once, of which none sees an error, and a fifth that needs no network."""
    program = f"""
import warnings; warnings.simplefilter("error")
import numpy as np
from mil_tutorial import read_canvas
coords = np.mgrid[0:2048:512, 0:2048:512].reshape(2, -1).T
print(int(read_canvas("{server.address}/slide.tif", coords, 512, 200)[0].astype(int).sum()))
"""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    ends = [p.communicate(timeout=100) for p in [start() for _ in range(4)]]
    assert not any(error for _, error in ends), ends
    asked = len(server.log)
    ends.append(start().communicate(timeout=100))
    assert len({out for out, _ in ends}) == 1 and re.fullmatch(r"\d+\n", ends[0][0])
    assert len(server.log) == asked and isinstance(cache, Path) and cache.stat().st_size > 100_000
