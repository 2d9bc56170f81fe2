"""CAMELYON16 as it is: splits, labels, lesion sizes, errata and partly annotated slides, as a table.

Source: the data set's README and reference standard (CC0), https://camelyon17.grand-challenge.org/Data/ and
B. Ehteshami Bejnordi et al., JAMA 2017, doi:10.1001/jama.2017.14585. The table that ships has lesion sizes of the test
slides only; the official `reference.csv`, which `mil-tutorial get` fetches, has them of all slides, and the centres.
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from mil_tutorial.errors import DataError, require

REMOVED = {
    "normal_086": "holds tumour; it is tumor_111 now",
    "test_049": "is a duplicate of another slide; the organizers took it out",
}


def camelyon16_slides(test: str = "official") -> pd.DataFrame:
    """The 399 slides, one row each.

    Args:
        test: `official` for the 129 test slides, `tutorial` for the 128 of the torchmil tutorial, which leaves out
            test_011.

    Returns:
        Columns wsi_name, split (train, test), wsi_label (0, 1), lesion_size (none, micro, macro, unknown), annotation
        (complete, partial) and note. On slides with partial annotation, patches outside it are unknown, not normal.

    Raises:
        ParameterError: another `test`.

    >>> len(camelyon16_slides())
    399
    """
    known = ("official", "tutorial")
    require(test in known, "test", test, "'official' (129 test slides) or 'tutorial' (128 test slides)")
    table = pd.read_csv(Path(__file__).with_suffix(".csv"), keep_default_na=False)
    return table if test == "official" else table[table["wsi_name"] != "test_011"].reset_index(drop=True)


CENTERS = {"0": ("RUMC", "3DHISTECH"), "1": ("UMCU", "Hamamatsu")}  # hospital and scanner

SIZES = {"negative": "none", "micro": "micro", "macro": "macro"}


def parse_reference(content: bytes, source: object) -> pd.DataFrame:
    """The official reference: columns image, type, class, center.

    Args:
        content: of `reference.csv`.
        source: path or address, named in errors.

    Returns:
        Columns wsi_name, split (train, test), wsi_label (0, 1), lesion_size (none, micro, macro), center (RUMC, UMCU),
        scanner (3DHISTECH, Hamamatsu), annotation (complete, partial), a row for each slide.

    Raises:
        DataError: it is not such a table.
    """
    expected = "Expected the columns image, type, class, center, as the public bucket has them."
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        columns = [table[c].str.strip() for c in ("image", "type", "class", "center")]
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"{source}: is not the reference of CAMELYON16 ({error!s:.100}). {expected}") from error
    image, kind, size, center = columns
    known = kind.isin(["normal", "tumor"]) & size.isin(list(SIZES)) & center.isin(list(CENTERS))
    bad = table[~known | ((kind == "tumor") == (size == "negative"))]
    if len(bad) or image.duplicated().any() or not len(table):
        line = ",".join(bad.iloc[0]) if len(bad) else "a slide twice, or none"
        raise DataError(f"{source}: is not the reference of CAMELYON16: it has {line[:100]}. {expected}")
    names = image.str.removesuffix(".tif")
    return pd.DataFrame(
        {
            "wsi_name": names,
            "split": names.str.startswith("test_").map({True: "test", False: "train"}),
            "wsi_label": (kind == "tumor").astype(int),
            "lesion_size": size.map(SIZES),
            "center": center.map({k: v[0] for k, v in CENTERS.items()}),
            "scanner": center.map({k: v[1] for k, v in CENTERS.items()}),
            "annotation": names.isin(list(partly_annotated())).map({True: "partial", False: "complete"}),
        }
    )


def partly_annotated() -> frozenset[str]:
    """Names of the slides whose lesions are not all outlined."""
    table = camelyon16_slides()
    return frozenset(table.loc[table["annotation"] == "partial", "wsi_name"])
