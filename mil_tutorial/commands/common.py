"""What several commands share: where the data are, what goes into a record, and how notes are told."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from tqdm.auto import tqdm

from mil_tutorial.data import DataRoot, open_data
from mil_tutorial.slides.options import Note

SCHEDULER = "address or scheduler file of a Dask cluster; without it the work is done here"


def add_data_options(parser: argparse.ArgumentParser, *, encoder: str | None = "whose features to use") -> None:
    """`--data` and `--trident_run`, and `--encoder` with this help."""
    parser.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    parser.add_argument("--trident_run", metavar="NAME", help="TRIDENT run folder, where the root holds several")
    if encoder:
        parser.add_argument("--encoder", help=f"{encoder}; the first found by default")


def open_root(args: argparse.Namespace) -> DataRoot:
    """The data root that `--data` and `--trident_run` name."""
    return open_data(args.data, run=args.trident_run)


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, for the record."""
    return {k: v for k, v in vars(args).items() if k not in ("run", "command")}


class Notes:
    """Prints notes as they come; of one kind only the first, and at the end how many more there were."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def __call__(self, note: Note) -> None:
        """Tell a note, or count it."""
        if not note.kind or note.kind not in self.kinds:
            tqdm.write(note.text)
        self.kinds[note.kind] += 1

    def end(self) -> None:
        """Say how many more there were."""
        for kind, n in self.kinds.items():
            if kind and n > 1:
                tqdm.write(f"Slides that {kind}: {n} in all.")
