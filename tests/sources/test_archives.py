"""torchmil's archives: streamed, one slide at a time."""

import io
import os
import shutil
import tarfile
import tracemalloc

import numpy as np
import pytest
from sources import made

from mil_tutorial import DataError, open_data
from mil_tutorial.commands.main import main
from mil_tutorial.sources.archives import read_archive
from mil_tutorial.trident import read_features, read_patch_labels, read_patches

NAMES = ["normal_001", "normal_004", "tumor_010", "test_001"]
FEATURES = f"{made.TORCHMIL}/features/features_UNI.tar.gz"

pytestmark = pytest.mark.slow


def get(root, *options):
    return main(["get", "camelyon16", str(root), "--features", "uni", *options])


def test_slides_as_published(server, tmp_path, capsys):
    root = tmp_path / "root"
    assert get(root, "--names", *NAMES) == 0
    text = capsys.readouterr().out
    assert "CC BY-NC-ND 4.0" in text and "read from its beginning until the last chosen slide has come" in text
    data = open_data(root)
    assert data.encoders == ["uni"] and len(data.bags("train")) == 3
    for name in NAMES:
        patches = read_patches(data.trident_dir / "patches" / f"{name}_patches.h5")
        np.testing.assert_array_equal(patches.coords, made.torchmil_corners(name))
        assert (patches.geometry.width, patches.geometry.patch_size_level0) == (made.WIDTH, 512)
        features, _ = read_features(data.trident_dir / "features_uni" / f"{name}.h5")
        np.testing.assert_array_equal(features, made.features(name, len(patches.coords), 32, "f4"))
        labels = read_patch_labels(data.trident_dir / "patch_labels" / f"{name}.h5")
        tumor = (made.fraction(name, patches.coords) > 0.5) & (name in made.TUMOR)
        np.testing.assert_array_equal(labels, np.where(tumor, 1, -1 if name == "tumor_010" else 0))
    assert not server.sent("masks") and server.sent("images") < 4 * 1000
    assert not (root / ".get").exists() and sorted(p.name for p in root.iterdir()) == [
        "CAMELYON16.json", "evaluation", "record-get.json", "reference.csv", "test.csv", "train.csv",
        "trident_processed", "wsi_labels.csv",
    ]  # fmt: skip


def test_again_and_with_more_slides(server, tmp_path):
    assert get(tmp_path / "a", "--names", *NAMES[:2]) == 0
    asked, before = len(server.log), made.tree(tmp_path / "a")
    assert get(tmp_path / "a", "--names", *NAMES[:2]) == 0
    assert len(server.log) == asked and made.tree(tmp_path / "a") == before
    assert get(tmp_path / "a", "--names", *NAMES) == 0
    assert get(tmp_path / "b", "--names", *NAMES) == 0
    assert made.tree(tmp_path / "a") == made.tree(tmp_path / "b")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of 40 slides of 2 MB that do not compress."""
    path = tmp_path_factory.mktemp("archive") / "large.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for k in range(40):
            buffer = io.BytesIO()
            np.save(buffer, np.random.default_rng(k).standard_normal((1000, 500)).astype("f4"))
            member = tarfile.TarInfo(f"./slide_{k:02d}.npy")
            member.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(member, buffer)
    return path


@pytest.fixture
def large(own_server, archive):
    """Its address and bytes."""
    path = shutil.copy(archive, own_server.folder)
    return f"{own_server.address}/large.tar.gz", os.path.getsize(path)


def test_one_slide_at_a_time_and_no_further_than_the_last(own_server, large):
    url, size = large
    names, kept = ["slide_03", "slide_01"], {}
    tracemalloc.start()
    for name, values in read_archive(url, size, names):
        kept[name] = float(values[0, 0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(kept) == ["slide_01", "slide_03"]
    assert own_server.sent() < size * 0.45  # four slides are a tenth; eight pieces of 2 MB may be under way
    assert peak < 80_000_000


def test_all_of_it_needs_little_memory(own_server, large):
    url, size = large
    assert size > 70_000_000
    tracemalloc.start()
    count = sum(1 for _ in read_archive(url, size, [f"slide_{k:02d}" for k in range(40)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40 and peak < 45_000_000


def test_a_server_without_ranges_will_do(own_server, large):
    own_server.behaviour.ignore_range = True
    url, size = large
    assert [name for name, _ in read_archive(url, size, ["slide_39"])] == ["slide_39"]


def test_what_an_archive_lacks_and_a_damaged_one(own_server, large):
    url, size = large
    with pytest.raises(DataError, match=r"large\.tar\.gz: does not have slide_77"):
        list(read_archive(url, size, ["slide_77", "slide_00"]))
    path = own_server.folder / "large.tar.gz"
    content = bytearray(path.read_bytes())
    content[size // 2 : size // 2 + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"large\.tar\.gz: cannot be read as a tar\.gz"):
        list(read_archive(url, size, ["slide_39"]))


def test_objects_are_not_unpickled(own_server):
    path = own_server.folder / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.array([{}], object), allow_pickle=True)
        member = tarfile.TarInfo("./a.npy")
        member.size = buffer.tell()
        buffer.seek(0)
        archive.addfile(member, buffer)
    with pytest.raises(DataError, match=r"evil\.tar\.gz: cannot be read as a tar\.gz of NumPy arrays"):
        list(read_archive(f"{own_server.address}/evil.tar.gz", path.stat().st_size, ["a"]))


def test_two_grids_in_one_root_are_refused(server, tmp_path, capsys):
    assert main(["get", "camelyon16", str(tmp_path / "r"), "--names", "tumor_091"]) == 0
    assert get(tmp_path / "r", "--names", "tumor_091") == 2
    assert "has features vits, whose patches are others than those of uni" in capsys.readouterr().err
