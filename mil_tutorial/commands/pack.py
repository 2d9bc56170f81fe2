"""The command `mil-tutorial`: each step of the course from the command line."""

from __future__ import annotations

import argparse

from mil_tutorial.commands.common import _encoder_and_data, _options


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to pack; the first found by default")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.bags.packed import pack
    from mil_tutorial.commands.record import Record

    data, encoder = _encoder_and_data(args)
    with Record(data.trident_dir, "pack", _options(args)):
        store = pack(data.trident_dir, encoder)
    print(f"{len(store.slides)} slides, {len(store.features)} patches of {store.dim} features in {store.folder}")
    return 0
