"""CSV tables about slides: their labels, and how large their pixels are."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from mil_tutorial.errors import DataError
from mil_tutorial.geometry import is_objective_mpp

CASE = "case_id"  # the column that says whose slide it is

# File endings that a slide's name may carry in a table.
ENDINGS = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".dcm", ".svslide", ".h5")


def read_label_table(
    path: str | os.PathLike[str], *, name_column: str = "wsi_name", label_column: str = "wsi_label"
) -> pd.DataFrame:
    """Read a CSV of slide labels.

    Args:
        path: the file.
        name_column, label_column: its columns; names may carry the slide's file ending.

    Returns:
        DataFrame with columns wsi_name (no file ending) and wsi_label (0 or 1), and case_id, the patient, where the
            file has that column.

    Raises:
        DataError: no such file, a column is missing, a label is not 0 or 1, a slide has two different labels or
            patients, or some slides have a patient and others none.
    """
    table = _read_table(path, "label file", name_column, label_column)
    labels = pd.to_numeric(table[label_column], errors="coerce")
    bad = table.loc[~labels.isin([0, 1])]
    if len(bad):
        raise DataError(
            f"{path}: slide {bad[name_column].iloc[0]} has the label {bad[label_column].iloc[0]},"
            " expected 0 (normal) or 1 (tumour). Correct the file."
        )
    clean = pd.DataFrame({"wsi_name": table[name_column], "wsi_label": labels.astype(int)})
    if CASE in table:
        clean[CASE] = table[CASE]
        if (alone := clean.loc[clean[CASE].isna(), "wsi_name"]).size:
            raise DataError(
                f"{path}: slide {alone.iloc[0]} has no {CASE}, others have one. Name the patient of each slide,"
                " or delete the column."
            )
    clean = clean.drop_duplicates()
    _refuse_doubles(path, clean[["wsi_name", "wsi_label"]].drop_duplicates()["wsi_name"], "labels")
    _refuse_doubles(path, clean["wsi_name"], "patients")
    return clean.reset_index(drop=True)


def read_mpp_table(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read a CSV with columns `wsi` and `mpp`, as TRIDENT's `custom_list_of_wsis` has them.

    Returns:
        µm per pixel at level 0 by slide name (no file ending).

    Raises:
        DataError: no such file, a column is missing, a value that no objective has, or a slide has two values.
    """
    table = _read_table(path, "file", "wsi", "mpp")
    values = pd.to_numeric(table["mpp"], errors="coerce").astype(float)
    bad = table.loc[~values.map(is_objective_mpp).astype(bool)]
    if len(bad):
        raise DataError(
            f"{path}: slide {bad['wsi'].iloc[0]} has the mpp {bad['mpp'].iloc[0]},"
            " expected µm per pixel from 0.05 to below 2.4, such as 0.25. Correct the line or delete it."
        )
    clean = pd.DataFrame({"wsi": table["wsi"], "mpp": values}).drop_duplicates()
    _refuse_doubles(path, clean["wsi"], "values")
    return dict(zip(clean["wsi"].tolist(), clean["mpp"].tolist(), strict=True))


def _read_table(path: str | os.PathLike[str], what: str, name_column: str, value_column: str) -> pd.DataFrame:
    """A CSV that has both columns, with a name without its ending in each line."""
    expected = f"Expected a CSV with columns {name_column}, {value_column}."
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such {what}. {expected}")
    try:
        table = pd.read_csv(path, dtype={name_column: str, CASE: str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a readable CSV ({error!s:.160}). {expected}") from error
    missing = [c for c in (name_column, value_column) if c not in table]
    if missing:
        columns = ", ".join(map(str, table.columns))[:200]
        raise DataError(f"{path}: column {', '.join(missing)} is missing, found {columns}. Rename the columns.")
    if table[name_column].isna().any():
        raise DataError(f"{path}: a line has no {name_column}. Complete it or delete it.")
    table[name_column] = table[name_column].map(_without_ending)
    return table


def _without_ending(name: str) -> str:
    """A slide's name without its file ending, in whatever case that is written."""
    ending = next((e for e in ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def _refuse_doubles(path: str | os.PathLike[str], names: pd.Series, what: str) -> None:
    twice = names[names.duplicated()]
    if len(twice):
        raise DataError(f"{path}: slide {twice.iloc[0]} is there twice with different {what}. Keep one line.")
