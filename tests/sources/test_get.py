"""`mil-tutorial get camelyon16` from servers on this machine: what comes, and how much is asked for."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from sources import made

from mil_tutorial import DataError, open_data, read_record
from mil_tutorial.commands.check import check_root
from mil_tutorial.commands.main import main
from mil_tutorial.sources.choice import Wanted
from mil_tutorial.sources.fetch import fetch_camelyon16
from mil_tutorial.trident import read_features, read_patch_labels, read_patches

CHOSEN = ["normal_004", "normal_042", "tumor_010", "tumor_091", "test_001", "test_002", "test_003", "test_005"]


def get(root, *options):
    return main(["get", "camelyon16", str(root), *options])


@pytest.fixture(scope="module")
def root(published, tmp_path_factory):
    """A root of eight slides, and what the server was asked for."""
    from remote.server import serving
    from sources.conftest import name_server

    with serving(published) as server, pytest.MonkeyPatch.context() as patch:
        name_server(patch, server)
        root = tmp_path_factory.mktemp("got") / "root"
        assert get(root, "--names", *CHOSEN) == 0
        return root, list(server.log), server.address


@pytest.mark.slow
def test_bags_are_those_that_were_published(root):
    data = open_data(root[0])
    assert data.trident_dir.name == "20x_256px_0px_overlap" and data.encoders == ["vits"] and not data.synthetic
    assert data.split("train")["wsi_name"].tolist() == ["normal_004", "normal_042", "tumor_010", "tumor_091"]
    assert data.split("test")["wsi_label"].tolist() == [1, 1, 0, 0]
    bags = [*data.bags("train", keys=("X", "Y", "y_inst", "coords"))]
    for name, bag in zip(data.split("train")["wsi_name"], bags, strict=True):
        coords = made.corners(name)
        np.testing.assert_array_equal(bag["X"].numpy(), made.features(name, len(coords)).astype("f4"))
        assert bag["Y"].item() == (name in made.TUMOR) and len(bag["y_inst"]) == len(coords)
    for name in CHOSEN:
        patches = read_patches(data.trident_dir / "patches" / f"{name}_patches.h5")
        np.testing.assert_array_equal(patches.coords, made.corners(name))
        g = patches.geometry
        assert (g.width, g.height, g.patch_size_level0, g.patch_size) == (made.WIDTH, made.HEIGHT, 512, 256)
        assert (g.target_magnification, g.level0_magnification, g.overlap) == (20, 40, 0)
        features, beside = read_features(data.trident_dir / "features_vits" / f"{name}.h5")
        assert features.dtype == np.float16
        np.testing.assert_array_equal(beside, patches.coords)


def test_patch_labels_are_counted_from_the_masks(root):
    folder = open_data(root[0]).trident_dir / "patch_labels"
    for name in CHOSEN:
        labels, by_hand = read_patch_labels(folder / f"{name}.h5"), made.fraction(name, made.corners(name))
        if name not in made.TUMOR:
            assert not labels.any()
        elif name == "tumor_010":  # annotated in part: what is outside is unknown
            np.testing.assert_array_equal(labels, np.where(by_hand > 0.5, 1, np.where(by_hand > 0, 0, -1)))
            assert set(labels) == {-1, 0, 1}
        else:
            np.testing.assert_array_equal(labels, by_hand > 0.5)
            assert labels.sum() > 3


@pytest.mark.slow
def test_reference_and_check(root):
    reference = open_data(root[0]).reference.set_index("wsi_name")
    assert reference.loc["tumor_091", "scanner"] == "Hamamatsu" and reference.loc["test_003", "lesion_size"] == "none"
    assert list(reference.columns[:2]) == ["lesion_size", "scanner"]
    assert not check_root(root[0]).spoiled


def test_little_more_than_the_chosen_slides_is_fetched(root):
    _, log, _ = root
    chosen = sum(len(made.corners(name)) * (2 * made.DIM + 16) for name in CHOSEN)
    assert chosen < sum(r.sent for r in log if ".h5" in r.path) <= 1.02 * chosen
    pictures = [r for r in log if "/images/" in r.path]
    assert {r.path.rpartition("/")[2] for r in pictures} == {f"{name}.tif" for name in CHOSEN}
    assert sum(r.sent for r in pictures) < len(CHOSEN) * 1000
    masks = {r.path.rpartition("/")[2] for r in log if "/masks/" in r.path}
    assert masks == {f"{name}_mask.tif" for name in CHOSEN if name in made.TUMOR}
    asked = [(r.path.rpartition("/")[2], r.range) for r in log if r.method == "GET" and r.status == 206]
    assert len(set(asked)) == len(asked), "a range was asked for twice"


def test_the_record(root):
    root, _, address = root
    record = read_record(root / "record-get.json")
    assert record["command"] == "get" and record["slides"] == sorted(CHOSEN) and not record["reference_as_published"]
    assert {"mil_tutorial", "h5py", "numpy"} <= set(record["versions"])
    (features,) = (v for k, v in record["sources"].items() if k.endswith(".h5"))
    assert features["bytes"] > 10_000_000 and re.fullmatch("[0-9a-f]{64}", features["sha256"]) and features["version"]
    assert "apache-2.0" in features["licence"] and "non-commercial" in features["terms"]
    mask = record["sources"][f"{address}/CAMELYON16/masks/tumor_091_mask.tif"]
    content = (root / "masks/tumor_091_mask.tif").read_bytes()
    assert (mask["md5"], mask["bytes"]) == (hashlib.md5(content).hexdigest(), len(content)) and "CC0" in mask["licence"]
    for name, entry in record["results"].items():
        assert entry["sha256"] == hashlib.sha256((root / name).read_bytes()).hexdigest()
    assert {f"{made.RUN}/features_vits/{n}.h5" for n in CHOSEN} < set(record["results"])
    assert {"wsi_labels.csv", "train.csv", "test.csv", "reference.csv"} < set(record["results"])


@pytest.mark.slow
def test_it_says_first_what_comes_and_on_which_terms(server, tmp_path, capsys):
    assert get(tmp_path / "r", "--names", "tumor_091", "normal_004") == 0
    text = capsys.readouterr().out
    for words in (
        "2 of 24",
        "vits: ViT-S/16",
        "non-commercial use",
        "apache-2.0",
        "CC0",
        "MB",
        server.address,
    ):
        assert words in text
    assert "of 1 tumour slides" in text and str(tmp_path / "r") in text


@pytest.mark.slow
def test_again_asks_for_nothing_and_changes_nothing(server, tmp_path, capsys):
    root = tmp_path / "r"
    assert get(root, "--slides", "8") == 0
    before, asked = made.tree(root), len(server.log)
    assert get(root, "--slides", "8") == 0
    assert len(server.log) == asked and made.tree(root) == before
    assert "nothing is left to fetch" in capsys.readouterr().out
    labels = pd.read_csv(root / "wsi_labels.csv").merge(pd.read_csv(root / "reference.csv"))
    split = np.where(labels["wsi_name"].str.startswith("test"), "test", "train")
    assert (labels.groupby([split, "wsi_label"]).size() == 2).all()


@pytest.mark.slow
def test_more_slides_later(server, tmp_path):
    assert get(tmp_path / "a", "--names", "tumor_091", "normal_004") == 0
    server.log.clear()
    assert get(tmp_path / "a", "--names", "test_001", "test_003") == 0
    assert not [r for r in server.log if "tumor_091" in r.path]
    assert get(tmp_path / "b", "--names", "tumor_091", "test_001", "test_003", "normal_004") == 0
    assert made.tree(tmp_path / "a") == made.tree(tmp_path / "b")


@pytest.mark.slow
def test_everything_leaves_out_what_the_file_lacks(own_server, tmp_path, capsys):
    import h5py

    with h5py.File(own_server.folder / made.AEM, "r+") as file:
        del file["test_012"], file["normal_001"]
    root = tmp_path / "r"
    assert get(root, "--all") == 0
    assert len(open_data(root).labels) == 22 and not {"test_012", "normal_001"} & set(
        open_data(root).labels["wsi_name"]
    )
    capsys.readouterr()
    asked = len(own_server.log)
    assert get(root, "--all") == 0 and len(own_server.log) == asked
    assert get(root, "--names", "test_012") == 2
    assert "--names: found test_012, which vits does not have" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names,message",
    [
        (["normal_086"], "found 'normal_086'; it holds tumour; it is tumor_111 now"),
        (["tumor_91"], "found 'tumor_91', expected names of slides of CAMELYON16"),
    ],
)
def test_names_that_do_not_exist(server, tmp_path, capsys, names, message):
    assert get(tmp_path / "r", "--names", *names) == 2
    assert f"--names: {message}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_slide_that_aem_lacks_is_never_chosen(own_server, tmp_path, capsys):
    reference = own_server.folder / "CAMELYON16/evaluation/reference.csv"
    reference.write_text(reference.read_text() + "normal_027.tif,normal,negative,0\n")
    assert get(tmp_path / "r", "--names", "normal_027", "normal_001") == 2
    assert "--names: found normal_027, which vits does not have" in capsys.readouterr().err
    assert get(tmp_path / "r", "--all") == 0
    assert len(open_data(tmp_path / "r").labels) == 24


@pytest.mark.slow
def test_labels_from_annotations(server, tmp_path):
    root = tmp_path / "r"
    assert get(root, "--names", "tumor_091", "normal_004", "--labels", "annotations") == 0
    assert not (root / "masks").exists() and [p.name for p in (root / "annotations").iterdir()] == ["tumor_091.xml"]
    labels = read_patch_labels(root / made.RUN / "patch_labels" / "tumor_091.h5")
    by_hand = made.fraction("tumor_091", made.corners("tumor_091"))
    clear = abs(by_hand - 0.5) > 0.01  # an outline's own pixels count a little differently
    np.testing.assert_array_equal(labels[clear], by_hand[clear] > 0.5)


def test_whole_slides_alone_and_a_wrong_md5(own_server, tmp_path, capsys):
    root = tmp_path / "r"
    assert get(root, "--whole", "tumor_091") == 0
    assert (root / "images/tumor_091.tif").read_bytes() == (
        own_server.folder / "CAMELYON16/images/tumor_091.tif"
    ).read_bytes()
    assert not (root / "wsi_labels.csv").exists() and own_server.sent(r"\.h5") == 0
    (own_server.folder / "CAMELYON16/images/tumor_001.tif").write_bytes(b"another slide")
    assert get(root, "--whole", "tumor_001") == 2
    assert "md5" in capsys.readouterr().err and not list((root / "images").glob("tumor_001*"))


@pytest.mark.slow
def test_chunked_and_compressed_features(own_server, tmp_path, capsys):
    made.write_aem(own_server.folder / made.AEM, others=20, chunks=True, compression="gzip", compression_opts=1)
    root = tmp_path / "r"
    assert get(root, "--names", "tumor_091", "normal_004") == 0
    assert "2 slides are compressed there" in capsys.readouterr().out
    for name in ("tumor_091", "normal_004"):
        features, coords = read_features(root / made.RUN / "features_vits" / f"{name}.h5")
        np.testing.assert_array_equal(coords, made.corners(name))
        np.testing.assert_array_equal(features, made.features(name, len(coords)))


def test_patches_beside_the_slide_are_refused(own_server, tmp_path):
    import h5py

    with h5py.File(own_server.folder / made.AEM, "r+") as file:
        file["tumor_091/coords"][5] = (made.WIDTH, 0)
    with pytest.raises(DataError, match=r"tumor_091 do not lie on it; it has 8192 x 6144 pixels"):
        fetch_camelyon16(tmp_path / "r", Wanted(names=["tumor_091"]), progress=False)


def test_somebodys_folder_is_left_alone(server, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert get(tmp_path) == 2
    assert "this folder holds files" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == [
        "thesis.txt"
    ]
    assert server.log == []


def test_another_process_is_at_work(server, tmp_path):
    from mil_tutorial.sources.fetch import alone

    with alone(tmp_path / "r"), pytest.raises(DataError, match="another process is fetching into this folder"):
        fetch_camelyon16(tmp_path / "r", Wanted(names=["tumor_091"]))


@pytest.mark.slow
def test_a_new_version_of_the_file_voids_what_was_fetched_of_the_old(own_server, tmp_path, monkeypatch):
    root, name = tmp_path / "r", "tumor_091"

    def stop(*arguments):
        raise DataError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("mil_tutorial.sources.get.parse_arrays", stop)
        assert get(root, "--names", name) == 2
    (part,) = (root / ".get").rglob("*.part")
    assert part.stat().st_size > 100_000
    made.write_aem(own_server.folder / made.AEM, others=30)  # all values stay, their places change
    assert get(root, "--names", name) == 0
    features, coords = read_features(root / made.RUN / "features_vits" / f"{name}.h5")
    np.testing.assert_array_equal(features, made.features(name, len(coords)))
    assert not (root / ".get").exists()
    assert json.loads((root / "CAMELYON16.json").read_text())["dataset"] == "CAMELYON16"


def test_one_slide_by_itself(server, tmp_path):
    """The function that loops and clusters can call."""
    from mil_tutorial.remote import remote_size
    from mil_tutorial.sources.bucket import parse_checksums
    from mil_tutorial.sources.get import Files, Slide, get_slide
    from mil_tutorial.sources.hdf5_slides import find_places
    from mil_tutorial.sources.sets import feature_set

    vits, told = feature_set("vits"), []
    head = remote_size(vits.url)
    places, missing = find_places(vits.url, head, ["tumor_091", "tumor_999"], tmp_path / "note.json")
    assert missing == ["tumor_999"]
    slide = Slide(Files(tmp_path / "r", "tumor_091", "vits"), 1, vits, places["tumor_091"], head)
    checksums = parse_checksums((server.folder / "CAMELYON16/checksums.md5").read_text())
    get_slide(slide, checksums=checksums, told=told.append)
    mask = tmp_path / "r/masks/tumor_091_mask.tif"
    assert slide.files.whole and sum(told) == places["tumor_091"].size + mask.stat().st_size
    before, asked = made.tree(tmp_path / "r"), len(server.log)
    get_slide(slide, checksums=checksums, told=told.append)
    assert made.tree(tmp_path / "r") == before and len(server.log) == asked
