"""Patch labels from what a pathologist drew: the share of tumour pixels in each patch."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from mil_tutorial.errors import DataError


def read_label_table(
    path: str | os.PathLike, name_column: str = "wsi_name", label_column: str = "wsi_label"
) -> pd.DataFrame:
    """Read a CSV of slide labels: DataFrame with columns wsi_name (no file ending) and wsi_label (0 or 1).

    Raises:
        DataError: no such file, a column is missing, a label is not 0 or 1, or a slide is named twice with different labels.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such label file. Expected a CSV with columns {name_column}, {label_column}."
        )
    try:
        table = pd.read_csv(path, dtype={name_column: str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: is no readable CSV ({error}). Expected columns {name_column}, {label_column}."
        ) from error
    missing = [c for c in (name_column, label_column) if c not in table]
    if missing:
        raise DataError(
            f"{path}: column {', '.join(missing)} is missing, found {', '.join(map(str, table.columns))}. Rename the columns or name yours."
        )
    names = table[name_column].astype(str).str.replace(r"\.(tif|tiff|svs|ndpi|mrxs|h5)$", "", regex=True)
    labels = pd.to_numeric(table[label_column], errors="coerce")
    if not labels.isin([0, 1]).all():
        bad = table.loc[~labels.isin([0, 1])].iloc[0]
        raise DataError(
            f"{path}: slide {bad[name_column]} has the label {bad[label_column]}, expected 0 (normal) or 1 (tumour). Correct the file."
        )
    clean = pd.DataFrame({"wsi_name": names, "wsi_label": labels.astype(int)}).drop_duplicates()
    twice = clean.loc[clean["wsi_name"].duplicated(), "wsi_name"]
    if len(twice):
        raise DataError(f"{path}: slide {twice.iloc[0]} is named twice with different labels. Keep one line.")
    return clean.reset_index(drop=True)
