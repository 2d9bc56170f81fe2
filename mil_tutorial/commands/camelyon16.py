"""`mil-tutorial camelyon16`: the label files of the real CAMELYON16 for a data root."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.sources.camelyon16 import camelyon16_slides


def write_tables(root: str | os.PathLike, *, test: str = "official") -> list[Path]:
    """Write `wsi_labels.csv`, `train.csv` and `test.csv` of CAMELYON16 into a data root.

    Args:
        root: an existing folder.
        test: `official` or `tutorial`, see `camelyon16_slides`.

    Returns:
        Their paths.

    Raises:
        DataError: no such folder, or one of the files is there with other content; nothing is overwritten.
    """
    root = Path(root)
    table = camelyon16_slides(test)
    if not root.is_dir():
        raise DataError(
            f"{root}: there is no such folder. Expected the data root, with the folders images and masks."
            " Correct the path, or make the folder first."
        )
    columns = ["wsi_name", "wsi_label"]
    parts = {"wsi_labels": table, "train": table[table["split"] == "train"], "test": table[table["split"] == "test"]}
    texts = {root / f"{k}.csv": v[columns].to_csv(index=False, lineterminator="\n") for k, v in parts.items()}
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
    p.add_argument(
        "--test",
        choices=["official", "tutorial"],
        default="official",
        help="129 test slides, or the 128 of the torchmil tutorial",
    )


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    for path in write_tables(args.root, test=args.test):
        print(path)
    return 0
