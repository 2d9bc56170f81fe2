"""CAMELYON16 as it is: splits, labels, lesion sizes, errata and partly annotated slides, as a table.

Source: the data set's README and reference standard (CC0), https://camelyon17.grand-challenge.org/Data/ and
B. Ehteshami Bejnordi et al., JAMA 2017, doi:10.1001/jama.2017.14585. Lesion sizes are published for the test slides only.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.sources.camelyon16 import camelyon16_slides


def write_tables(root: str | os.PathLike, test: str = "official") -> list[Path]:
    """Write `wsi_labels.csv`, `train.csv` and `test.csv` of CAMELYON16 into a data root.

    Raises:
        DataError: one of them is there already with other content; nothing is overwritten.
    """
    table = camelyon16_slides(test)
    columns = ["wsi_name", "wsi_label"]
    parts = {"wsi_labels": table, "train": table[table["split"] == "train"], "test": table[table["split"] == "test"]}
    texts = {Path(root) / f"{k}.csv": v[columns].to_csv(index=False, lineterminator="\n") for k, v in parts.items()}
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise DataError(
                f"{path}: is there with other content. Nothing was written. Move it away, or choose another folder."
            )
    for path, text in texts.items():
        with written_whole(path) as temporary:
            temporary.write_bytes(text.encode())
    return list(texts)


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("root", help="data root with the folders images and masks")
    p.add_argument("--test", choices=["official", "tutorial"], default="official",
                   help="129 test slides, or the 128 of the torchmil tutorial")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands.camelyon16 import write_tables

    for path in write_tables(args.root, args.test):
        print(path)
    return 0
