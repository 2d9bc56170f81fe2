"""`mil-tutorial pack`: one memory-mapped store of a feature folder."""

from __future__ import annotations

import argparse

from mil_tutorial.bags.packed import pack
from mil_tutorial.commands.common import add_data_options, asked, open_root
from mil_tutorial.commands.record import Record


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_data_options(parser, encoder="whose features to pack")


def run(args: argparse.Namespace) -> int:
    """Pack, or take the store that is there."""
    data = open_root(args)
    encoder = args.encoder or data.encoder
    with Record(data.trident_dir, "pack", asked(args)):
        store = pack(data.trident_dir, encoder)
    print(f"{len(store.slides)} slides, {len(store.features)} patches of {store.dim} features in {store.folder}")
    return 0
