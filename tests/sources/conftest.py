"""The made servers of this folder's tests."""

import shutil

import pytest
from remote.server import serving
from sources import made


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The folder that is served; nobody changes it."""
    folder = tmp_path_factory.mktemp("published")
    made.write_bucket(folder)
    made.write_aem(folder / made.AEM)
    made.write_archives(folder)
    return folder


@pytest.fixture
def server(published, monkeypatch):
    """Bucket and hub on this machine, as the two variables name them."""
    with serving(published) as server:
        name_server(monkeypatch, server)
        yield server


@pytest.fixture
def own_server(published, tmp_path, monkeypatch):
    """The same with files that a test may change."""
    folder = tmp_path / "served"
    shutil.copytree(published, folder)
    with serving(folder) as server:
        name_server(monkeypatch, server)
        yield server


def name_server(monkeypatch, server):
    monkeypatch.setenv("MIL_TUTORIAL_BUCKET", server.address)
    monkeypatch.setenv("MIL_TUTORIAL_HUB", server.address)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
