import hashlib

import pandas as pd
import pytest

from mil_tutorial import DataError, ParameterError, camelyon16_slides
from mil_tutorial.commands.camelyon16 import write_tables
from mil_tutorial.commands.main import main
from mil_tutorial.sources.camelyon16 import partly_annotated
from mil_tutorial.tables import read_label_table


def test_the_slides_as_published():
    table = camelyon16_slides()
    counts = table.groupby(["split", "wsi_label"]).size().to_dict()
    assert counts == {("test", 0): 80, ("test", 1): 49, ("train", 0): 159, ("train", 1): 111}
    test = table[table["split"] == "test"]
    assert test["lesion_size"].value_counts().to_dict() == {"none": 80, "micro": 27, "macro": 22}
    assert not {"normal_086", "test_049"} & set(table["wsi_name"])
    tutorial = camelyon16_slides("tutorial")
    assert len(tutorial) == 398 and tutorial.loc[tutorial["split"] == "test", "wsi_label"].sum() == 48
    assert len(partly_annotated()) == 21 and {"tumor_010", "test_114"} < partly_annotated()
    with pytest.raises(ParameterError, match="test: found 'offical', expected 'official'"):
        camelyon16_slides("offical")  # codespell:ignore offical


def test_the_published_reference(real):
    reference = pd.read_csv(real / "camelyon16_reference.csv", header=None, keep_default_na=False).set_index(0)
    test = camelyon16_slides().query("split == 'test'").set_index("wsi_name")
    assert set(reference.index) == set(test.index)
    assert ((reference[1] == "Tumor") == (test["wsi_label"] == 1)[reference.index]).all()
    assert (reference[3].str.lower() == test["lesion_size"][reference.index]).all()


def test_the_label_files(tmp_path):
    write_tables(tmp_path, test="tutorial")
    assert len(read_label_table(tmp_path / "test.csv")) == 128 and len(read_label_table(tmp_path / "train.csv")) == 270
    write_tables(tmp_path, test="tutorial")
    with pytest.raises(DataError, match=r"wsi_labels\.csv: is there with other content"):
        write_tables(tmp_path)


def test_the_label_files_stay_byte_for_byte(tmp_path):
    content = b"".join(path.read_bytes() for path in write_tables(tmp_path))
    assert hashlib.sha256(content).hexdigest()[:16] == "26013f6441d78793"


def test_a_mistyped_root_is_not_made(tmp_path, capsys):
    root = tmp_path / "camelion16"
    assert main(["camelyon16", str(root)]) == 2
    assert "there is no such folder" in capsys.readouterr().err and not root.exists()
    root.mkdir()
    assert main(["camelyon16", str(root)]) == 0
    assert sorted(path.name for path in root.iterdir()) == ["test.csv", "train.csv", "wsi_labels.csv"]
