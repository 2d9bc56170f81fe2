"""`mil-tutorial view`: a server for one slide, which serves that slide to who has the token, and nothing else."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest
from remote.server import serving
from small import write_pyramid

from mil_tutorial import write_geojson
from mil_tutorial.commands.main import main
from mil_tutorial.commands.tile_server import SlideServer
from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.localization.tiles import TilePlan

SIZE = 2000, 1500
COORDS = np.array([[0, 0], [512, 512]])


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "a slide.tif"
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    write_pyramid(path, cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC), 0.25)
    return path


def hear_ctrl_c():
    """What a shell runs in the background ignores it, and so would the children of such a suite."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def viewing(*args):
    """The command in a process of its own; gives the process and the address that it printed."""
    command = [sys.executable, "-m", "mil_tutorial", "view", *map(str, args), "--no_browser"]
    started = None if os.name == "nt" else hear_ctrl_c
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=started)
    try:
        line = process.stdout.readline()
        yield process, urlparse(line[line.index("http") :].strip())
    finally:
        process.kill()
        process.communicate(timeout=20)


def ask(address, path=None, method="GET", timeout=30, **headers):
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=timeout)
    connection.putrequest(method, address.path if path is None else path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


@pytest.mark.slow
def test_the_command_serves_the_slide_with_its_scores_and_stops_at_ctrl_c(slide, tmp_path):
    write_geojson(tmp_path / "s.geojson", COORDS, 512, {"a": [0.5, 2]}, labels=[1, 0], regions=("a", 1.0))
    with viewing(slide, "--scores", tmp_path / "s.geojson") as (process, address):
        status, page = ask(address)
        assert status == 200 and len(address.path.strip("/")) >= 32
        content = json.loads(re.search(rb'id="data">(.*?)</script>', page, re.DOTALL)[1])
        assert np.array_equal(np.stack([content["x"], content["y"]], 1), COORDS) and content["side"] == 512
        assert content["scores"] == {"a": [0.5, 2]} and content["labels"] == [1, 0]
        assert [level["factor"] for level in content["levels"]] == [1]
        status, tile = ask(address, f"{address.path}{content['address']}/1/3_2.jpg")
        assert status == 200 and cv2.imdecode(np.frombuffer(tile, np.uint8), 1).shape == (512, 512, 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0 and err == "" and out.endswith("stopped\n")


@contextmanager
def served(read=None, page="<p>the page</p>", idle=60.0):
    """A server in a thread, of a slide of 2 x 2 tiles."""
    plan = TilePlan((1000, 900), 0.25, (1,), {1: None})
    server = SlideServer(page, plan, read or (lambda key: f"tile {key}".encode()))
    thread = threading.Thread(target=server.serve, args=(idle,), daemon=True)
    thread.start()
    yield server, urlparse(server.address)
    server.last_asked = -1e9
    thread.join(10)
    server.server_close()
    assert not thread.is_alive()


@pytest.mark.slow
def test_it_refuses_what_is_not_this_slides(capfd):
    with served() as (server, address):
        token = address.path.strip("/")
        assert ask(address) == (200, b"<p>the page</p>")
        assert ask(address, f"/{token}/tiles/1/1_1.jpg") == (200, b"tile (1, 1, 1)")
        assert ask(address, Host=f"localhost:{server.server_port}")[0] == 200
        for path in (
            "/",
            "",
            "/tiles/1/0_0.jpg",
            "/" + "x" * len(token) + "/",
            f"/{token[:-1]}/",
            "/%e9/",
            "//",
            "/%00/",
        ):
            assert ask(address, path)[0] == 403, path
        inside = ["../../etc/passwd", "tiles/../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "index.html", "tiles/"]
        inside += ["tiles/1/2_0.jpg", "tiles/1/0_2.jpg", "tiles/2/0_0.jpg", "tiles/1/-1_0.jpg", "tiles/1/0_0.png"]
        inside += [
            "tiles/1/0_0.jpg/..",
            "tiles/1/0_0.jpg?x=../..",
            "tiles/1/" + "9" * 400 + "_0.jpg",
            "tiles/1/%D9%A3_0.jpg",
        ]
        for name in inside:
            assert ask(address, f"/{token}/{name}")[0] == 404, name
        for host in (
            "evil.example",
            f"evil.example:{server.server_port}",
            "127.0.0.1",
            f"0.0.0.0:{server.server_port}",
        ):
            assert ask(address, Host=host)[0] == 403, host
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"):
            assert ask(address, method=method)[0] == 501, method
        for raw in (
            b"GET /\xc3\xa9/ HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x00\xff\x00\x00",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\xff" * 70_000,
            b"",
        ):
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw_client:
                raw_client.sendall(raw)
        assert ask(address)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_two_hundred_at_once_are_served_or_refused(capfd):
    def slow(key):
        time.sleep(0.002)
        return f"tile {key}".encode()

    with served(slow) as (_, address), ThreadPoolExecutor(200) as pool:
        paths = [f"{address.path}tiles/1/{i % 3}_{i % 2}.jpg" if i % 5 else "/wrong/" for i in range(200)]
        answers = list(pool.map(lambda path: ask(address, path), paths))
        for i, (status, body) in enumerate(answers):
            assert status == (403 if i % 5 == 0 else 404 if i % 3 == 2 else 200)
            assert status != 200 or body == f"tile (1, {i % 3}, {i % 2})".encode()
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_who_asks_wrongly_does_not_keep_it_alive():
    with served(idle=0.4) as (_, address):
        answers, end = [], time.monotonic() + 20
        while time.monotonic() < end:
            try:
                answers.append(ask(address, "/wrong/", timeout=1)[0])
            except OSError:  # nobody answers any more
                break
        assert set(answers) == {403} and time.monotonic() < end


@pytest.mark.slow
def test_damage_is_said_in_one_line_and_the_next_tile_comes(capfd):
    def read(key):
        if key == (1, 0, 0):
            raise DataError("slide.tif: is damaged. Copy it again.")
        return b"tile"

    with served(read) as (_, address):
        assert ask(address, f"{address.path}tiles/1/0_0.jpg")[0] == 500
        assert ask(address, f"{address.path}tiles/1/1_0.jpg") == (200, b"tile")
    err = capfd.readouterr().err
    assert err == "mil-tutorial view: slide.tif: is damaged. Copy it again.\n"


@pytest.mark.slow
def test_a_port_that_is_taken_is_said():
    with served() as (server, _), pytest.raises(ParameterError, match=r"^port: found \d+, expected a free port"):
        SlideServer("", server.plan, server.tile, server.server_port)


@pytest.mark.slow
def test_a_slide_from_afar_is_served_too(slide):
    with serving(slide.parent) as server, viewing(f"{server.address}/a%20slide.tif") as (_, address):
        status, page = ask(address)
        assert status == 200 and b"<h1>a slide.tif</h1>" in page
        assert ask(address, f"{address.path}tiles/1/1_1.jpg")[0] == 200


@pytest.mark.slow
def test_it_stops_by_itself(slide):
    with viewing(slide, "--idle", "0.02") as (process, _):
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0 and err == "" and "nobody has looked" in out


@pytest.mark.parametrize(
    "text,message",
    [
        ("x,y\n1,2\n", "column side is missing, found x, y. Expected a CSV"),
        ("", "is not a readable CSV"),
        ("x,y,side,a\n0,0,512,high\n", "column a has words"),
        ("x,y,side,a\n0,0,512,1\n9,9,256,1\n", "column side has 2 values"),
        ("x,y,side\n0,0,512\n", "scores: found none"),
        ("x,y,side,a\n99999,0,512,1\n", "coords: found 1 patches outside this slide"),
        ("x,y,side,a\n0,0,512,\n", "NaN or infinite"),
        ("x,y,side,a,label\n0,0,512,1,cancer\n", "labels: found 1 labels, among them 'cancer'"),
    ],
)
def test_scores_that_do_not_fit_are_one_message(slide, tmp_path, capsys, text, message):
    (tmp_path / "s.csv").write_text(text)
    assert main(["view", str(slide), "--scores", str(tmp_path / "s.csv"), "--no_browser"]) == 2
    err = capsys.readouterr().err
    assert message in err and "s.csv" in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"features": [{}]}', '{"features": []}', '{"features": [{"properties": {"objectType": "tile"}}]}'],
)
def test_geojson_that_does_not_fit_is_one_message(slide, tmp_path, capsys, text):
    (tmp_path / "s.geojson").write_text(text)
    assert main(["view", str(slide), "--scores", str(tmp_path / "s.geojson"), "--no_browser"]) == 2
    err = capsys.readouterr().err
    assert "s.geojson" in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize("options", [["--port", "70000"], ["--idle", "0"], ["--scores", "nowhere.csv"], []])
def test_bad_options_are_one_message(slide, capsys, options):
    path = str(slide) if options else os.devnull + ".tif"
    assert main(["view", path, *options, "--no_browser"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
