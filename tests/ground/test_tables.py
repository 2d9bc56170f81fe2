"""CSV tables about slides."""

import pytest

from mil_tutorial import DataError
from mil_tutorial.slides.reading import SLIDE_SUFFIXES
from mil_tutorial.tables import ENDINGS, read_label_table, read_mpp_table


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_labels_with_and_without_endings(tmp_path):
    table = read_label_table(written(tmp_path, "wsi_name,wsi_label\na.svs,1\nb.TIFF,0\n001,1\nc.v2,0\na,1\n"))
    assert dict(table.itertuples(index=False)) == {"a": 1, "b": 0, "001": 1, "c.v2": 0}


def test_patients_are_texts_and_kept(tmp_path):
    table = read_label_table(written(tmp_path, "case_id,wsi_name,wsi_label\n007,a.svs,1\n007,b,0\n"))
    assert table.columns.tolist() == ["wsi_name", "wsi_label", "case_id"] and table["case_id"].tolist() == [
        "007",
        "007",
    ]


def test_columns_of_other_names(tmp_path):
    path = written(tmp_path, "slide,tumour\na,1\n")
    assert read_label_table(path, name_column="slide", label_column="tumour")["wsi_label"].tolist() == [1]
    with pytest.raises(DataError, match="column wsi_name, wsi_label is missing, found slide, tumour"):
        read_label_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a readable CSV"),
        ("wsi_name,wsi_label\na,tumor\n", "slide a has the label tumor, expected 0"),
        ("wsi_name,wsi_label\na,\n", "slide a has the label nan"),
        ("wsi_name,wsi_label\na,2\n", "slide a has the label 2"),
        ("wsi_name,wsi_label\n,1\n", "a line has no wsi_name"),
        ("wsi_name,wsi_label\na.svs,1\na,0\n", "slide a is there twice with different labels"),
        ("wsi_name,wsi_label,case_id\na,1,x\na.svs,1,y\n", "slide a is there twice with different patients"),
        ("wsi_name,wsi_label,case_id\na,1,x\nb,1,\n", "slide b has no case_id, others have one"),
    ],
)
def test_label_tables_that_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"table\.csv: .*{message}"):
        read_label_table(written(tmp_path, text))


def test_every_slide_ending_is_known():
    assert set(SLIDE_SUFFIXES) < set(ENDINGS)


def test_mpp_as_trident_lists_it(tmp_path):
    assert read_mpp_table(written(tmp_path, "wsi,mpp\na.svs,0.25\nb,0.5\nb.svs,0.5\n")) == {"a": 0.25, "b": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wsi\na\n", "column mpp is missing, found wsi. Rename"),
        ("wsi,mpp\na,\n", "slide a has the mpp nan"),
        ("wsi,mpp\na,none at all\n", "slide a has the mpp none at all"),
        ('wsi,mpp\na,"0,25"\n', "slide a has the mpp 0,25"),
        ("wsi,mpp\na,0\n", "slide a has the mpp 0"),
        ("wsi,mpp\na,-0.25\n", "slide a has the mpp -0.25"),
        ("wsi,mpp\na,inf\n", "slide a has the mpp inf"),
        ("wsi,mpp\na,29\n", "slide a has the mpp 29, expected µm per pixel from 0.05 to below 2.4"),
        ("wsi,mpp\na,0.25\na.tif,0.5\n", "slide a is there twice with different values"),
    ],
)
def test_mpp_tables_that_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"table\.csv: .*{message}"):
        read_mpp_table(written(tmp_path, text))


def test_no_such_table(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: there is no such file. Expected a CSV with columns wsi, mpp"):
        read_mpp_table(tmp_path / "none.csv")
