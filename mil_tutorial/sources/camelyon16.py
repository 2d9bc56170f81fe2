"""CAMELYON16 as it is: splits, labels, lesion sizes, errata and partly annotated slides, as a table.

Source: the data set's README and reference standard (CC0), https://camelyon17.grand-challenge.org/Data/ and
B. Ehteshami Bejnordi et al., JAMA 2017, doi:10.1001/jama.2017.14585. Lesion sizes are published for the test slides
only.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mil_tutorial.errors import require

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


def partly_annotated() -> frozenset[str]:
    """Names of the slides whose lesions are not all outlined."""
    table = camelyon16_slides()
    return frozenset(table.loc[table["annotation"] == "partial", "wsi_name"])
