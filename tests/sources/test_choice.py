"""Which slides are chosen, and the tables of the bucket."""

import pandas as pd
import pytest
from sources import made

from mil_tutorial import DataError, ParameterError, camelyon16_slides
from mil_tutorial.sources.bucket import list_keys, parse_checksums, read_slide_size, slide_url
from mil_tutorial.sources.camelyon16 import parse_reference
from mil_tutorial.sources.choice import choose_slides, describe_choice


@pytest.fixture(scope="module")
def table():
    """All 399 slides; lesion sizes and centres of the training slides are made up."""
    known = camelyon16_slides()
    number = known["wsi_name"].str.slice(-3).astype(int)
    center = (number % 3 == 0).map({True: "UMCU", False: "RUMC"})
    size = known["lesion_size"].where(
        known["lesion_size"] != "unknown", (number % 4 > 1).map({True: "micro", False: "macro"})
    )
    return known.assign(center=center, lesion_size=size)


@pytest.mark.parametrize("n", [8, 9, 16, 60, 200, 398])
def test_each_split_and_label_has_at_least_two(table, n):
    names = choose_slides(table, n, without={"normal_027"})
    assert len(set(names)) == n and "normal_027" not in names
    chosen = table.set_index("wsi_name").loc[names]
    counts = chosen.groupby(["split", "wsi_label"]).size()
    assert len(counts) == 4 and counts.min() >= 2


def test_a_choice_is_like_the_whole_and_holds_the_smaller_choices(table):
    names = choose_slides(table, 60)
    chosen = table[table["wsi_name"].isin(names)]
    strata = ["split", "wsi_label", "lesion_size", "center"]
    whole, some = (t.groupby(strata).size() for t in (table, chosen))
    expected = whole * 60 / len(table)
    assert (some.reindex(whole.index, fill_value=0) - expected).abs().max() <= 2
    assert set(choose_slides(table, 20)) < set(names) < set(choose_slides(table, 100))
    assert not {"test_019", "test_034"} & set(names)
    text = describe_choice(table, names)
    assert "60 of 399" in text and len(text.splitlines()) == 1 + len(whole) + 1


def test_a_choice_does_not_depend_on_the_order_of_the_table(table):
    shuffled = table.sample(frac=1, random_state=0)
    assert set(choose_slides(shuffled, 60)) == set(choose_slides(table, 60))


@pytest.mark.parametrize("n", [0, -1, 2.5, 400])
def test_numbers_that_cannot_be_chosen(table, n):
    with pytest.raises(ParameterError, match="slides: found"):
        choose_slides(table, n)


def test_the_reference(published):
    content = (published / "CAMELYON16/evaluation/reference.csv").read_bytes()
    table = parse_reference(content, "reference.csv").set_index("wsi_name")
    assert sorted(table.index) == made.NAMES
    row = table.loc["tumor_091"]
    assert (row["split"], row["wsi_label"], row["center"], row["scanner"]) == ("train", 1, "UMCU", "Hamamatsu")
    assert table.loc["test_003", "lesion_size"] == "none" and table.loc["tumor_010", "annotation"] == "partial"
    assert set(table.loc[made.TUMOR, "lesion_size"]) == {"micro", "macro"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        b"image,type,class,center\nnormal_001.tif,normal,macro,0\n",
        b"image,type,class,center\nnormal_001.tif,normal,negative,7\n",
        b"image,type,class,center\nnormal_001.tif,normal,negative,0\nnormal_001.tif,normal,negative,0\n",
    ],
)
def test_what_is_not_the_reference(content):
    with pytest.raises(DataError, match="here: is not the reference of CAMELYON16"):
        parse_reference(content, "here")


def test_checksums_with_and_without_a_star(tmp_path, published):
    listed = {}
    for star in ("*", ""):
        (tmp_path / "c").mkdir(exist_ok=True)
        text = (published / "CAMELYON16/checksums.md5").read_text().replace("*", star)
        listed[star] = parse_checksums(text + "\n# a line of another kind\n")
    assert listed["*"] == listed[""] and len(listed[""]) == 60
    assert listed[""]["masks/tumor_091_mask.tif"] != listed[""]["masks/tumor_001_mask.tif"]


def test_a_listing_in_pages(server):
    server.behaviour.page = 7
    keys = list_keys("masks/")
    assert len(keys) == 24 and keys["masks/tumor_091_mask.tif"] > 1000
    assert len(server.log) == 4


def test_a_slides_size_from_some_hundred_bytes(server):
    assert read_slide_size(slide_url("tumor_091")) == (made.WIDTH, made.HEIGHT)
    assert server.sent() < 1000
    with pytest.raises(DataError, match=r"reference\.csv: is not a TIFF"):
        read_slide_size(f"{server.address}/CAMELYON16/evaluation/reference.csv")


def test_the_size_in_a_classic_tiff(own_server):
    import numpy as np
    import tifffile

    for order in "<>":
        tifffile.imwrite(own_server.folder / f"a{ord(order)}.tif", np.zeros((300, 500), np.uint8), byteorder=order)
        assert read_slide_size(f"{own_server.address}/a{ord(order)}.tif") == (500, 300)


def test_the_shipped_table_and_the_reference_have_the_same_columns_in_common():
    own = camelyon16_slides()
    assert {"wsi_name", "split", "wsi_label", "lesion_size", "annotation"} <= set(own) and isinstance(own, pd.DataFrame)
