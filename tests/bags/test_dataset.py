"""TridentWSIDataset: torchmil's call, torchmil's numbers, and one clear message for what cannot be read."""

import copy
import pickle

import numpy as np
import pytest
import torch
from small import RUN

from mil_tutorial import DataError, ParameterError, TridentWSIDataset
from mil_tutorial.bags import dataset as module

ENCODER = "efficientnet_lite0"


def dataset_of(tree, **more):
    return TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", ENCODER, **more)


def test_a_bag_has_the_contract_s_keys_shapes_and_types(tree):
    bag = dataset_of(tree)[0]
    n = len(bag["X"])
    assert list(bag.keys()) == ["X", "Y", "y_inst", "adj", "coords"]
    assert bag["X"].shape == (n, 1280) and bag["X"].dtype == torch.float32
    assert bag["Y"].shape == () and bag["Y"].dtype == torch.float32
    assert bag["y_inst"].shape == (n,) and bag["y_inst"].dtype == torch.int64
    assert bag["adj"].is_sparse and bag["adj"].shape == (n, n)
    assert bag["coords"].shape == (n, 2) and bag["coords"].dtype == torch.int64
    assert bag["coords"].min(0).values.tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"dist_thr": 1.0}, {"adj_with_dist": True}, {"norm_adj": False}])
def test_torchmil_reads_the_same(tree, more):
    torchmil = pytest.importorskip("torchmil.datasets")
    ours = dataset_of(tree, **more)
    theirs = torchmil.TridentWSIDataset(
        base_path=f"{ours.base_path}/",
        labels_path=str(tree / "wsi_labels.csv"),
        feature_extractor=ENCODER,
        patch_labels_path=f"{ours.base_path / 'patch_labels'}/",
        patch_size=1024,
        load_at_init=False,
        wsi_name_col="wsi_name",
        wsi_label_col="wsi_label",
        **more,
    )
    assert ours.get_bag_names() == theirs.get_bag_names()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a["X"], b["X"].float())
        assert torch.allclose(a["adj"].to_dense(), b["adj"].to_dense().float(), atol=1e-6)
        assert a["y_inst"].tolist() == b["y_inst"].tolist() and int(a["Y"]) == int(b["Y"])


def test_the_call_is_torchmil_s_in_its_order(tree):
    import inspect

    torchmil = pytest.importorskip("torchmil.datasets")
    theirs = list(inspect.signature(torchmil.TridentWSIDataset.__init__).parameters)
    ours = inspect.signature(TridentWSIDataset.__init__).parameters
    assert [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == theirs
    run, names, keys = tree / RUN, ["tumor_001"], ["X", "Y", "adj"]
    values = (f"{run}/", str(tree / "wsi_labels.csv"), ENCODER, None, names, keys, 1024, 1.0, True, False, True)
    by_position = TridentWSIDataset(*values, "wsi_name", "wsi_label")
    by_name = dataset_of(tree, wsi_names=names, bag_keys=keys, dist_thr=1.0, adj_with_dist=True, norm_adj=False)
    assert torch.equal(by_position[0]["adj"].to_dense(), by_name[0]["adj"].to_dense())


def test_subset_and_labels_touch_no_features(tree, monkeypatch):
    whole = dataset_of(tree)
    monkeypatch.setattr(module, "read_features", None)
    part = whole.subset([3, 0])
    assert part.get_bag_names() == [whole.get_bag_names()[i] for i in (3, 0)]
    assert part.get_bag_labels() == [whole.get_bag_labels()[i] for i in (3, 0)]
    assert whole.subset(np.array([-1])).get_bag_names() == whole.get_bag_names()[-1:]
    assert whole.subset(torch.tensor([1, 2])).get_bag_names() == whole.get_bag_names()[1:3]
    assert len(whole.subset(range(0))) == 0


def test_subsets_share_the_memory_and_other_processes_start_with_an_empty_one(tree, monkeypatch):
    built = []
    build = module.build_adjacency
    monkeypatch.setattr(module, "build_adjacency", lambda *a, **more: built.append(1) or build(*a, **more))
    whole = dataset_of(tree)
    part = whole.subset([2, 0])
    first = part[1]["adj"]
    assert whole[0]["adj"] is first and part.subset([1])[0]["adj"] is first
    assert copy.copy(whole)[0]["adj"] is first
    assert len(built) == 1
    there = pickle.loads(pickle.dumps(part))
    assert torch.equal(there[1]["adj"].to_dense(), first.to_dense()) and len(built) == 2


def test_a_full_memory_keeps_no_more(tree, monkeypatch):
    monkeypatch.setattr(module, "KEEP", dataset_of(tree)[0]["adj"]._nnz() * 20)
    whole = dataset_of(tree, bag_keys=["X", "Y", "adj"])
    kept, not_kept = whole[0]["adj"], whole[1]["adj"]
    assert whole[0]["adj"] is kept and whole[1]["adj"] is not not_kept


def test_changes_of_a_bag_stay_in_that_bag(tree):
    for whole in (dataset_of(tree), dataset_of(tree, load_at_init=True)):
        bag = whole[0]
        bag["X"] = torch.zeros(1, 1)
        assert whole[0]["X"].shape[1] == 1280
    whole = dataset_of(tree)
    before = whole[0]["X"].clone()
    whole[0]["y_inst"][:] = 7
    whole[0]["X"][0] += 1
    whole[0]["coords"] += 1
    assert whole[0]["y_inst"].max() <= 1 and whole[0]["coords"].min() == 0
    assert torch.equal(whole[0]["X"], before)


def test_bags_that_fit_are_read_once_and_others_each_time(tree, monkeypatch):
    read = []
    read_features = module.read_features
    monkeypatch.setattr(
        module, "read_features", lambda path, **more: read.append(path.stem) or read_features(path, **more)
    )
    whole = dataset_of(tree, bag_keys=["X", "Y"])
    with torch.inference_mode():
        first = whole[0]["X"]
    assert whole.reads_files and whole.subset([0])[0]["X"] is first and len(read) == 1
    assert not first.is_inference(), "it may be trained on later"
    for _ in range(2):
        _ = [whole[i] for i in range(len(whole))]
    assert sorted(read) == whole.get_bag_names() and not whole.reads_files

    monkeypatch.setattr("mil_tutorial.bags.memory.SOME", first.nbytes + 8)
    size = sum(file.stat().st_size for file in whole.features_path.glob("*.h5"))
    for room, keeps_all in ((size, True), (size - 1, False)):
        monkeypatch.setattr("mil_tutorial.bags.memory.WHOLE", room)
        whole = dataset_of(tree, bag_keys=["X", "Y"])
        assert whole._features.room == (room if keeps_all else first.nbytes + 8)
    read.clear()
    for _ in range(2):
        _ = [whole[i] for i in range(len(whole))]
    assert read.count(whole.get_bag_names()[0]) == 1 and len(read) > len(whole) and whole.reads_files
    assert dataset_of(tree, load_at_init=True).reads_files is False


def test_all_datasets_share_one_room_and_give_it_back(tree, monkeypatch):
    first = dataset_of(tree, bag_keys=["X", "Y"])
    size = first[0]["X"].nbytes
    for name in ("WHOLE", "SOME"):
        monkeypatch.setattr(f"mil_tutorial.bags.memory.{name}", size + first[1]["X"].nbytes + 64)
    del first
    one, two = (dataset_of(tree, bag_keys=["X", "Y"]) for _ in range(2))
    assert not one._features.bytes and not two._features.bytes
    _ = one[0], one[1], two[0]
    assert one._features.bytes and not two._features.bytes, "the room is full"
    del one
    _ = two[0]
    assert two._features.bytes, "what a dataset held is free when it is gone"


def test_a_dataset_without_memory_reads_each_time(tree):
    whole = dataset_of(tree, bag_keys=["X", "Y"])
    other, some = whole.with_memory(0), whole.with_memory(whole[0]["X"].nbytes + 64)
    assert torch.equal(other[0]["X"], whole[0]["X"])
    assert other._features.bytes == 0 < whole._features.bytes
    with pytest.raises(ParameterError, match="room: found -1"):
        whole.with_memory(-1)
    del whole
    assert [some[i]["X"] is some[i]["X"] for i in (0, 1)] == [True, False]


def test_workers_of_a_loader_keep_no_features_of_their_own(tree):
    whole = dataset_of(tree, bag_keys=["X", "Y"])
    loader = torch.utils.data.DataLoader(whole, num_workers=1, collate_fn=lambda bags: whole._features.bytes)
    assert set(loader) == {0}


def test_errors_name_the_slide(tree):
    with pytest.raises(DataError, match="1 of 1 slides have no features, such as no_such"):
        dataset_of(tree, wsi_names=["no_such"])
    with pytest.raises(DataError, match="features_conch_v15"):
        TridentWSIDataset(dataset_of(tree).base_path, tree / "wsi_labels.csv", "conch_v15")
    with pytest.raises(DataError, match="patch_size=512"):
        dataset_of(tree, patch_size=512)[0]
    path = dataset_of(tree).features_path / "normal_001.h5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"normal_001\.h5"):
        dataset_of(tree)[0]


def test_names_are_there_once_and_at_all(tree):
    with pytest.raises(DataError, match="slide tumor_001 is named twice"):
        dataset_of(tree, wsi_names=["tumor_001", "normal_001", "tumor_001"])
    with pytest.raises(DataError, match="no slide is named"):
        dataset_of(tree, wsi_names=[])


def test_a_folder_without_h5_says_what_is_there(tree):
    folder = tree / RUN / f"features_{ENCODER}"
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(".pt"))
    with pytest.raises(
        DataError, match=r"Files found: 6 \.pt, such as normal_001\.pt\. Expected TRIDENT's <slide>\.h5"
    ):
        dataset_of(tree)
    with pytest.raises(DataError, match=r"6 \.pt"):
        dataset_of(tree, wsi_names=["normal_001"])
    for path in list(folder.iterdir()):
        path.unlink()
    with pytest.raises(DataError, match="Files found: none"):
        dataset_of(tree)


def test_labels_of_other_slides_are_named(tree):
    (tree / "other.csv").write_text("wsi_name,wsi_label\npatient_7,1\n")
    with pytest.raises(DataError, match=r"6 files, such as normal_001\.h5, and 1 labels in .*other\.csv.*patient_7"):
        TridentWSIDataset(tree / RUN, tree / "other.csv", ENCODER)
    with pytest.raises(DataError, match=r"other\.csv: no label for slide normal_001 and 1 more"):
        TridentWSIDataset(tree / RUN, tree / "other.csv", ENCODER, wsi_names=["tumor_001", "normal_001"])


@pytest.mark.parametrize(
    "parameter, value",
    [
        ("bag_keys", "X"),
        ("bag_keys", ["X", "features"]),
        ("bag_keys", []),
        ("bag_keys", None),
        ("bag_keys", [["X"]]),
        ("wsi_names", 5),
        ("wsi_names", "tumor_001"),
        ("wsi_names", [1, 2]),
        ("dist_thr", float("nan")),
        ("dist_thr", -1),
        ("dist_thr", 0),
        ("dist_thr", float("inf")),
        ("dist_thr", "2"),
        ("patch_size", 256.5),
        ("patch_size", 0),
        ("patch_size", "1024"),
        ("adj_with_dist", "no"),
        ("norm_adj", None),
        ("load_at_init", 1),
        ("packed", "yes"),
        ("wsi_name_col", None),
        ("wsi_label_col", 3),
        ("patch_labels_path", 5),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(tree, parameter, value):
    with pytest.raises(ParameterError, match=f"^{parameter}: found "):
        dataset_of(tree, **{parameter: value})


def test_a_data_root_is_not_a_run_folder(data, tree):
    with pytest.raises(ParameterError, match=r"^base_path: found DataRoot"):
        TridentWSIDataset(data, tree / "wsi_labels.csv", ENCODER)
    with pytest.raises(ParameterError, match=r"^feature_extractor: found"):
        TridentWSIDataset(tree / RUN, tree / "wsi_labels.csv", torch.nn.Identity())


@pytest.mark.parametrize("indices", [[6], [-7], [0.5], [True, False], np.ones(6, bool), "01", ["tumor_001"], [[0]], 3])
def test_numbers_that_are_not_of_bags_are_refused(tree, indices):
    with pytest.raises(ParameterError, match=r"^indices: found .* expected whole numbers below 6"):
        dataset_of(tree).subset(indices)
