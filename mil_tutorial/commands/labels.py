"""`mil-tutorial labels`: the patch labels of a folder of slides, from tumour masks or annotations."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from mil_tutorial.commands.common import SCHEDULER, asked
from mil_tutorial.commands.engine import refuse_failures, run_tasks
from mil_tutorial.commands.record import Record
from mil_tutorial.errors import DataError, require
from mil_tutorial.slides.labels import LabelRule, check_sources, label_slide
from mil_tutorial.sources.camelyon16 import partly_annotated
from mil_tutorial.tables import read_label_table
from mil_tutorial.trident import PatchLabels


def label_folder(
    csv_path: str | os.PathLike,
    coords_dir: str | os.PathLike,
    save_dir: str | os.PathLike,
    *,
    masks_dir: str | os.PathLike | None = None,
    annotations_dir: str | os.PathLike | None = None,
    rule: LabelRule = LabelRule(),
    partly_annotated: Collection[str] = (),
    patch_size: int | None = None,
    progress: bool = True,
    scheduler: str | None = None,
) -> dict[str, PatchLabels]:
    """Label every slide that has coordinates; files that are there stay. A slide that fails does not stop the others.

    Args:
        csv_path: the slides' labels.
        coords_dir, save_dir, masks_dir, annotations_dir, rule, patch_size: see `label_slide`.
        partly_annotated: names of slides whose lesions are not all outlined; see `camelyon16.partly_annotated`.
        progress: whether to show a bar.
        scheduler: of Dask, see `engine.run_tasks`; None works here.

    Returns:
        The labels of the slides done now.

    Raises:
        ParameterError: not one source of labels, or a partly annotated slide that the label file does not have.
        DataError: no coordinates, slides unknown to the label file, or some slides failed (the message names each).
    """
    check_sources(masks_dir, annotations_dir)
    table = read_label_table(csv_path).set_index("wsi_name")["wsi_label"]
    names = _named(Path(coords_dir), set(table.index), csv_path)
    strangers = sorted(set(partly_annotated) - set(table.index))
    require(not strangers, "partly_annotated", strangers, f"names of slides in {csv_path}")
    folders = {
        "masks_dir": masks_dir,
        "annotations_dir": annotations_dir,
        "coords_dir": coords_dir,
        "save_dir": save_dir,
    }
    places = {k: None if v is None else str(Path(v).resolve()) for k, v in folders.items()}
    tasks = {}
    for name in names:
        own = replace(rule, partly_annotated=rule.partly_annotated or name in partly_annotated)
        tasks[name] = ({"name": name, "wsi_label": int(table[name]), "rule": own, "patch_size": patch_size, **places},)
    results, errors = run_tasks(_label_one, tasks, scheduler=scheduler, what="Labelling", progress=progress)
    done = {name: labels for name, labels in results.items() if labels is not None}
    for name, labels in done.items():
        if labels.threshold < rule.threshold:
            tumor = int((labels.label == 1).sum())
            print(
                f"{name}: no patch is more than {rule.threshold:.0%} tumour; threshold halved to"
                f" {labels.threshold:.2%}, {tumor} tumour patches."
            )
    refuse_failures([*errors.values()], len(results), len(names))
    return done


def _named(coords_dir: Path, known: Collection[str], csv_path: str | os.PathLike) -> list[str]:
    """The slides that have coordinates; each must be `known` to the label file."""
    files = (p.name for p in coords_dir.glob("*_patches.h5") if not p.name.startswith("."))
    names = sorted(name.removesuffix("_patches.h5") for name in files)
    if not names:
        raise DataError(
            f"{coords_dir}: no coordinates here. Expected files <slide>_patches.h5, as TRIDENT writes them."
            " Check coords_dir."
        )
    unknown = [n for n in names if n not in known]
    if unknown:
        raise DataError(
            f"{csv_path}: no label for {', '.join(unknown[:5])}{' and more' if len(unknown) > 5 else ''}, whose"
            f" coordinates are in {coords_dir}. Add the lines."
        )
    return names


def _label_one(arguments: dict[str, Any]) -> PatchLabels | None:
    """`label_slide` for an engine that passes arguments by position."""
    return label_slide(**arguments)


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--csv_path", required=True, help="CSV with columns wsi_name, wsi_label")
    p.add_argument("--masks_dir", help="folder of <slide>_mask.tif; this or --annotations_dir")
    p.add_argument("--annotations_dir", help="folder of <slide>.xml from ASAP, in place of masks")
    p.add_argument("--coords_dir", required=True, help="folder of <slide>_patches.h5")
    p.add_argument("--save_dir", required=True, help="folder to write <slide>.h5 to")
    p.add_argument(
        "--patch_size", type=int, help="side of a patch in level-0 pixels; by default the coordinate file says it"
    )
    p.add_argument(
        "--patch_level", type=int, default=0, help="level that the coordinates refer to; TRIDENT's refer to 0"
    )
    p.add_argument("--tumor_value", type=int, default=LabelRule.tumor_value, help="the masks' value for tumour")
    p.add_argument(
        "--partly_annotated",
        nargs="+",
        metavar="SLIDE",
        help="slides whose lesions are not all outlined: patches outside are unknown, -1; `camelyon16` names those of"
        " the real CAMELYON16",
    )
    p.add_argument(
        "--threshold", type=float, default=LabelRule.threshold, help="a patch is tumour above this fraction of tumour"
    )
    p.add_argument(
        "--halve",
        action=argparse.BooleanOptionalAction,
        default=LabelRule.halve,
        help="on a tumour slide, halve the threshold until some patch is tumour, as the original tutorial does",
    )
    p.add_argument("--scheduler", help=SCHEDULER)


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    expected = "0: coordinates are level-0 pixels, so masks are counted at level 0; leave it out"
    require(args.patch_level == 0, "patch_level", args.patch_level, expected)
    rule = LabelRule(tumor_value=args.tumor_value, threshold=args.threshold, halve=args.halve)
    partly = set(args.partly_annotated or [])
    if "camelyon16" in partly:
        names = set(read_label_table(args.csv_path)["wsi_name"])
        partly = (partly - {"camelyon16"}) | (partly_annotated() & names)
    check_sources(args.masks_dir, args.annotations_dir)
    pattern = "*_mask.tif" if args.masks_dir else "*.xml"
    sources = sorted(Path(args.masks_dir or args.annotations_dir).glob(pattern))
    with Record(args.save_dir, "labels", asked(args), [args.csv_path, *sources]):
        done = label_folder(
            args.csv_path,
            args.coords_dir,
            args.save_dir,
            masks_dir=args.masks_dir,
            annotations_dir=args.annotations_dir,
            rule=rule,
            partly_annotated=partly,
            patch_size=args.patch_size,
            scheduler=args.scheduler,
        )
    tumor = sum(int((labels.label == 1).sum()) for labels in done.values())
    print(f"{len(done)} slides labelled now, {tumor} tumour patches; files in {Path(args.save_dir).resolve()}")
    return 0
