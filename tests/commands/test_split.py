"""`mil-tutorial split` writes a split by patient, and `check` finds one that is not."""

import pandas as pd
import pytest

from mil_tutorial.commands.main import main


@pytest.fixture
def root(tmp_path):
    """Twenty patients with three slides each; every second one has a tumour."""
    rows = [(f"p{i:02d}_{k}", int(i % 2 and k == 0), f"{i:03d}") for i in range(20) for k in range(3)]
    pd.DataFrame(rows, columns=["wsi_name", "wsi_label", "case_id"]).to_csv(tmp_path / "wsi_labels.csv", index=False)
    return tmp_path


def read(root, name):
    return pd.read_csv(root / f"{name}.csv", dtype={"case_id": str})


def test_it_writes_both_tables_and_says_what_is_in_them(root, capsys):
    assert main(["split", str(root), "--fraction", "0.2"]) == 0
    train, test = read(root, "train"), read(root, "test")
    assert not set(train["case_id"]) & set(test["case_id"]) and len(train) + len(test) == 60
    assert test["case_id"].nunique() == 4 and test["wsi_label"].sum() == 2
    assert "test.csv: 12 slides of 4 patients, 2 with tumour" in capsys.readouterr().out
    assert main(["split", str(root), "--fraction", "0.2"]) == 0, "the same again is no change"


def test_a_test_set_is_not_changed_in_passing(root, capsys):
    assert main(["split", str(root)]) == 0
    before = (root / "test.csv").read_bytes()
    assert main(["split", str(root), "--seed", "1"]) == 2
    assert "is there with other content" in capsys.readouterr().err and (root / "test.csv").read_bytes() == before


def test_without_the_column_each_slide_is_a_patient_and_that_is_said(root, capsys):
    read(root, "wsi_labels").drop(columns="case_id").to_csv(root / "wsi_labels.csv", index=False)
    assert main(["split", str(root)]) == 0
    assert "no column case_id" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--fraction", "1"], "--fraction: found 1.0, expected a number between 0 and 1"), (["--seed", "-1"], "--seed:")],
)
def test_wrong_options_name_the_flag(root, arguments, message, capsys):
    assert main(["split", str(root), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_check_names_a_patient_on_both_sides(tree, capsys):
    table = pd.read_csv(tree / "wsi_labels.csv")
    cases = {"normal_001": "ann", "test_001": "ann"}
    table.assign(case_id=table["wsi_name"].map(cases).fillna(table["wsi_name"])).to_csv(
        tree / "wsi_labels.csv", index=False
    )
    assert main(["check", str(tree)]) == 1
    said = capsys.readouterr().out
    assert "patient ann has slides on both sides" in said and "normal_001 in train.csv and test_001 in test.csv" in said
