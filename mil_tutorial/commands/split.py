"""`mil-tutorial split`: train.csv and test.csv of a data root, by patient."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.tables import CASE, read_label_table
from mil_tutorial.training.patients import split_by_patient


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("root", help="data root with wsi_labels.csv; its column case_id says whose slide each is")
    parser.add_argument("--fraction", type=float, default=0.3, help="of the patients, for the test set")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split")


def run(args: argparse.Namespace) -> int:
    """Write the split and say what is in it."""
    parts = write_split(args.root, fraction=args.fraction, seed=args.seed)
    for name, part in parts.items():
        patients = f" of {part[CASE].nunique()} patients" if CASE in part else ""
        print(f"{name}.csv: {len(part)} slides{patients}, {part['wsi_label'].sum()} with tumour")
    if CASE not in parts["train"]:
        print("wsi_labels.csv has no column case_id, so that each slide was taken for a patient of its own.")
    return 0


def write_split(root: str | os.PathLike[str], *, fraction: float = 0.3, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Divide the slides of `wsi_labels.csv` into `train.csv` and `test.csv`; no patient is on both sides.

    Args:
        root: the data root.
        fraction, seed: see `split_by_patient`.

    Returns:
        The tables by name, `train` and `test`, in the order of `wsi_labels.csv`.

    Raises:
        ParameterError: `fraction` or `seed` cannot be used.
        DataError: no such table, too few patients, or a split with other slides is there; nothing is overwritten.
    """
    table = read_label_table(Path(root) / "wsi_labels.csv")
    cases = table[CASE] if CASE in table else table["wsi_name"]
    both = split_by_patient(table["wsi_label"].tolist(), cases.tolist(), fraction=fraction, seed=seed)
    parts = {name: table.iloc[sorted(rows)] for name, rows in zip(("train", "test"), both, strict=True)}
    texts = {Path(root) / f"{name}.csv": part.to_csv(index=False, lineterminator="\n") for name, part in parts.items()}
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise DataError(
                f"{path}: is there with other content. Nothing was written: who changes a test set after looking at it"
                " has none. Move both files away if you mean it."
            )
    for path, text in texts.items():
        with written_whole(path) as temporary:
            temporary.write_bytes(text.encode())
    return parts
