"""`mil-tutorial fixture`: draw the synthetic slides, or show that the shipped features come out of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mil_tutorial.errors import DataError
from mil_tutorial.fixture.plan import ROSTER, plan_slide
from mil_tutorial.fixture.tree import copy_shipped, fixture_root


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("slides", nargs="*", help="names of slides to draw, such as tumor_001")
    parser.add_argument("--all", action="store_true", help="draw all slides of the course")
    parser.add_argument(
        "--verify", action="store_true", help="show that the shipped features come out of the slides again"
    )
    parser.add_argument("--out", help="data root to draw into; by default the course's own, in the cache folder")
    parser.add_argument("--workers", type=int, help="processes; by default one for each core")
    parser.add_argument("--build", action="store_true", help="for maintainers: make the shipped files again")


def run(args: argparse.Namespace) -> int:
    """Draw, verify or build; without any of them, say where the fixture is."""
    from mil_tutorial.commands import drawing

    for name in args.slides:
        try:
            plan_slide(name)
        except ValueError as error:
            raise DataError(str(error)) from error
    if args.build:
        drawing.build(workers=args.workers)
        return 0
    root = Path(args.out).resolve() if args.out else fixture_root()
    names = args.slides or ROSTER
    if args.all or args.slides:
        drawing.render_slides(root, names, workers=args.workers)
        print(f"{len(names)} synthetic slides with masks are in {root}")
    if args.verify:
        differences = drawing.verify(root, names, workers=args.workers)
        print(
            f"{len(differences)} slides: coordinates and labels equal the shipped ones,"
            f" features differ by at most {max(differences.values()):.4f}"
        )
    if not (args.all or args.slides or args.verify):
        copy_shipped(root)
        print(
            f"The fixture's data root is {root}\n{len(ROSTER)} synthetic slides, drawn on demand; --all draws them now."
        )
    return 0
