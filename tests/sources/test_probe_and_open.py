"""`--probe`, and the real slides through `open_data`."""

import socket

import numpy as np
import pytest
from remote.philips import write_large
from sources import made

from mil_tutorial import DataError, open_data, read_canvas
from mil_tutorial.commands.main import main
from mil_tutorial.sources.probe import probe
from mil_tutorial.trident import read_patches


def lines_of(text):
    return {line[:24].strip(): line for line in text.splitlines()}


@pytest.fixture
def right(own_server):
    """A server with all that `get` reads; its files are smaller than the real ones."""
    aem = (own_server.folder / made.AEM).with_name("patch_feats_pretrain_natural_supervised.h5")
    aem.write_bytes((own_server.folder / made.AEM).read_bytes())
    uni = own_server.folder / made.TORCHMIL / "features"
    (uni / "features_resnet50_bt.tar.gz").write_bytes((uni / "features_UNI.tar.gz").read_bytes())
    return own_server


def test_a_right_server(right, capsys):
    assert main(["get", "camelyon16", "--probe"]) == 0
    text = capsys.readouterr().out
    assert "FAILS" not in text and "0 failed" in text
    lines = lines_of(text)
    assert "as expected" in lines["features uni"] and "version c0ffeec0" in lines["features uni"]
    assert "differs" in lines["listing of masks/"] and "24 files" in lines["listing of masks/"]
    assert "differs" in lines["header of tumor_091"] and "8192 x 6144" in lines["header of tumor_091"]
    assert "as expected" in lines["layout of vits"] and "(660, 384) float16, in one piece" in lines["layout of vits"]
    assert "differs" in lines["layout of resnet18"]  # 512 numbers are expected
    assert right.sent(r"\.(tar\.gz|xml)") == 5  # one byte each
    assert right.sent(r"\.h5") < 25_000


@pytest.mark.slow
def test_wrong_servers(right):
    (right.folder / made.AEM).write_bytes(b"<html>sign in</html>")
    (right.folder / "CAMELYON16/masks/tumor_091_mask.tif").unlink()
    text, good = probe()
    lines = lines_of(text)
    assert not good and "3 failed" in text
    assert "FAILS" in lines["features vits"] and "another kind of file" in lines["features vits"]
    assert "FAILS" in lines["mask tumor_091"] and "404" in lines["mask tumor_091"]
    right.behaviour.ignore_range = True
    assert "FAILS" in lines_of(probe()[0])["slide tumor_091"]


def closed_port():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.mark.slow
def test_no_server_at_all(monkeypatch, capsys):
    address = closed_port()
    monkeypatch.setenv("MIL_TUTORIAL_BUCKET", address)
    monkeypatch.setenv("MIL_TUTORIAL_HUB", address)
    assert main(["get", "camelyon16", "--probe"]) == 1
    assert "0 as expected" in capsys.readouterr().out


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIL_TUTORIAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_the_default_choice_on_first_use(server, cache, monkeypatch, capsys):
    monkeypatch.setenv("MIL_TUTORIAL_DATA", "camelyon16")
    data = open_data()
    assert data.root == (cache / "camelyon16").resolve() and len(data.labels) == 24  # all that this server has
    assert data.fetched and not data.synthetic and "non-commercial" in capsys.readouterr().out
    asked = len(server.log)
    assert len(open_data("camelyon16").bags("test")) == 12 and len(server.log) == asked


@pytest.mark.slow
def test_without_a_network_it_says_what_to_do(cache, monkeypatch):
    address = closed_port()
    monkeypatch.setenv("MIL_TUTORIAL_BUCKET", address)
    monkeypatch.setenv("MIL_TUTORIAL_HUB", address)
    with pytest.raises(DataError) as error:
        open_data("camelyon16")
    for words in ("cannot be reached", "mil-tutorial get camelyon16", "MIL_TUTORIAL_DATA empty", "synthetic slides"):
        assert words in str(error.value)


@pytest.mark.slow
def test_what_was_fetched_needs_no_network(server, cache, monkeypatch):
    open_data("camelyon16")
    monkeypatch.setenv("MIL_TUTORIAL_HUB", closed_port())
    monkeypatch.setenv("MIL_TUTORIAL_BUCKET", closed_port())
    assert len(open_data("camelyon16").bags("train")) == 12


@pytest.mark.slow
def test_files_of_a_slide(server, tmp_path):
    assert main(["get", "camelyon16", str(tmp_path / "r"), "--names", "normal_004"]) == 0
    data = open_data(tmp_path / "r")
    assert data.slide_path("normal_004") == f"{server.address}/CAMELYON16/images/normal_004.tif"
    asked = server.sent("images")
    mask, annotation = data.mask_path("normal_004"), data.annotation_path("tumor_091")
    assert mask.read_bytes() == (server.folder / "CAMELYON16/masks/normal_004_mask.tif").read_bytes()
    assert annotation == data.root / "annotations" / "tumor_091.xml" and annotation.is_file()
    assert server.sent("images") == asked
    with pytest.raises(DataError, match=r"normal_004\.xml: there is no such annotation \(normal slides have none\)"):
        data.annotation_path("normal_004")
    with pytest.raises(DataError, match="no slide of this name"):
        data.slide_path("tumor_999")
    with pytest.raises(DataError, match="there is no such mask"):
        data.mask_path("tumor_999")
    assert main(["get", "camelyon16", str(tmp_path / "r"), "--whole", "normal_004"]) == 0
    assert data.slide_path("normal_004") == data.root / "images" / "normal_004.tif"


@pytest.mark.slow
def test_a_slide_is_read_from_its_address(own_server, cache, tmp_path):
    file = own_server.folder / "CAMELYON16/images/tumor_091.tif"
    write_large(file, width=made.WIDTH, height=made.HEIGHT, levels=4)
    assert main(["get", "camelyon16", str(tmp_path / "r"), "--names", "tumor_091"]) == 0
    data = open_data(tmp_path / "r")
    patches = read_patches(data.trident_dir / "patches" / "tumor_091_patches.h5")
    assert (patches.geometry.width, patches.geometry.height) == (made.WIDTH, made.HEIGHT)
    chosen = patches.coords[:40]
    canvas, *_ = read_canvas(data.slide_path("tumor_091"), chosen, 512, 128)
    np.testing.assert_array_equal(canvas, read_canvas(file, chosen, 512, 128)[0])
    assert 0 < own_server.sent("images") < file.stat().st_size / 2
    assert not (data.root / "images").exists()
