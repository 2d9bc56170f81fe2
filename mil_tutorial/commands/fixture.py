"""The command `mil-tutorial`: each step of the course from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from mil_tutorial.errors import DataError


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("slides", nargs="*", help="names of slides to draw, such as tumor_001")
    p.add_argument("--all", action="store_true", help="draw all slides of the course")
    p.add_argument("--verify", action="store_true", help="show that the shipped features come out of the slides again")
    p.add_argument("--out", help="data root to draw into; by default the course's own, in the cache folder")
    p.add_argument("--workers", type=int, help="processes; by default one for each core")
    p.add_argument("--build", action="store_true", help="maintainers: make the shipped files anew")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands import drawing
    from mil_tutorial.fixture.plan import ROSTER, plan_slide
    from mil_tutorial.fixture.tree import copy_shipped, fixture_root

    if args.build:
        drawing.build(workers=args.workers)
        return 0
    root = Path(args.out).resolve() if args.out else fixture_root()
    names = args.slides or ROSTER
    for name in names:
        try:
            plan_slide(name)
        except ValueError as error:
            raise DataError(str(error)) from error
    if args.all or args.slides:
        drawing.render_slides(root, names, args.workers)
        print(f"{len(names)} synthetic slides with masks lie in {root}")
    if args.verify:
        differences = drawing.verify(root, names, args.workers)
        print(
            f"{len(differences)} slides: coordinates and labels equal the shipped ones, features differ by at most {max(differences.values()):.4f}"
        )
    if not (args.all or args.slides or args.verify):
        copy_shipped(root)
        print(
            f"The fixture's data root is {root}\n{len(ROSTER)} synthetic slides, drawn on demand; --all draws them now."
        )
    return 0
