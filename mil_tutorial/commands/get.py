"""`mil-tutorial get`: fetch the real CAMELYON16, or some of it, into a data root."""

from __future__ import annotations

import argparse
from pathlib import Path

from mil_tutorial.data import default_root
from mil_tutorial.errors import require
from mil_tutorial.sources.choice import LABELS_FROM, Wanted
from mil_tutorial.sources.fetch import fetch_camelyon16, fetch_whole, require_slides
from mil_tutorial.sources.plan import SLIDES
from mil_tutorial.sources.sets import SETS


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("dataset", choices=["camelyon16"], help="what to fetch")
    p.add_argument("root", nargs="?", help="data root to make or complete; by default the course's own, in the cache")
    sets = "; ".join(f"{s.name}: {s.encoder}" for s in SETS.values())
    p.add_argument("--features", choices=list(SETS), default="vits", help=f"whose published features. {sets}")
    choice = p.add_mutually_exclusive_group()
    choice.add_argument(
        "--slides",
        type=int,
        metavar="N",
        help=f"choose so many, spread over split, label, lesion size and centre; {SLIDES} by default (some 1.1 GB, and"
        " the masks of the tumour slides)",
    )
    choice.add_argument("--names", nargs="+", metavar="NAME", help="these slides, such as tumor_091")
    choice.add_argument("--all", action="store_true", help="all slides")
    p.add_argument("--labels", choices=LABELS_FROM, default="masks", help="what patch labels are made from")
    p.add_argument(
        "--whole",
        nargs="+",
        metavar="NAME",
        help="also download these slides' own files (1.8 GB on average); alone, nothing else is fetched",
    )
    p.add_argument(
        "--probe",
        action="store_true",
        help="ask every address for one byte and one header, say what is as expected, and fetch nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    if args.probe:
        from mil_tutorial.sources.probe import probe

        text, good = probe()
        print(text)
        return int(not good)
    root = (Path(args.root).expanduser() if args.root else default_root()).resolve()
    chosen = args.slides is not None or args.names or args.all
    require(args.slides is None or args.slides >= 1, "slides", args.slides, "a whole number of at least 1")
    require_slides(args.whole or [], parameter="whole")
    if chosen or not args.whole:
        wanted = Wanted(args.features, args.slides, args.names, args.all, args.labels)
        plan = fetch_camelyon16(root, wanted)
        print(f"\n{len(plan.names)} slides are in {plan.root}\nUse them with MIL_TUTORIAL_DATA={plan.root}")
    for path in fetch_whole(root, "images", args.whole or []):
        print(path)
    return 0
