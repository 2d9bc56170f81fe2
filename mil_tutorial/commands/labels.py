"""Patch labels from what a pathologist drew: the share of tumour pixels in each patch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from pathlib import Path

from mil_tutorial.commands.common import SCHEDULER, _options
from mil_tutorial.commands.engine import refuse_failures, run_tasks
from mil_tutorial.errors import DataError
from mil_tutorial.slides.labels import label_slide
from mil_tutorial.tables import read_label_table
from mil_tutorial.trident import PatchLabels


def label_folder(
    csv_path: str | os.PathLike,
    masks_dir: str | os.PathLike | None,
    coords_dir: str | os.PathLike,
    save_dir: str | os.PathLike,
    patch_size: int | None = None,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = True,
    progress: bool = True,
    annotations_dir: str | os.PathLike | None = None,
    partly_annotated: Collection[str] = (),
    scheduler: str | None = None,
) -> dict[str, PatchLabels]:
    """Label every slide that has coordinates; files that are there already stay. A slide that fails does not stop the others.

    Args:
        csv_path: the slides' labels.
        partly_annotated: names of slides whose annotation is not complete; see `camelyon16.camelyon16_slides`.
        masks_dir, coords_dir, save_dir, patch_size, tumor_value, threshold, halve, annotations_dir: see `label_slide`.
        scheduler: of Dask, see `engine.run_tasks`; None works here.

    Returns:
        The labels of the slides done now.

    Raises:
        DataError: no coordinates, slides unknown to the label file, or some slides failed (the message names each).
    """
    if not 0 <= threshold < 1:
        raise DataError(f"--threshold {threshold}: expected a share from 0 to less than 1.")
    if (masks_dir is None) == (annotations_dir is None):
        raise DataError("expected either --masks_dir or --annotations_dir: labels come from one of them.")
    coords_dir = Path(coords_dir)
    names = sorted(
        p.name.removesuffix("_patches.h5") for p in coords_dir.glob("*_patches.h5") if not p.name.startswith(".")
    )
    if not names:
        raise DataError(
            f"{coords_dir}: no coordinates here. Expected files <slide>_patches.h5, as TRIDENT writes them. Check --coords_dir."
        )
    table = read_label_table(csv_path).set_index("wsi_name")["wsi_label"]
    unknown = [n for n in names if n not in table.index]
    if unknown:
        raise DataError(
            f"{csv_path}: no label for {', '.join(unknown[:5])}{' and more' if len(unknown) > 5 else ''}, whose coordinates lie in {coords_dir}. Add the lines."
        )

    def place(folder):
        return None if folder is None else str(Path(folder).resolve())

    tasks = {
        name: (name, int(table[name]), place(masks_dir), place(coords_dir), place(save_dir), tumor_value, threshold, halve, patch_size,
               place(annotations_dir), name in partly_annotated)
        for name in names
    }  # fmt: skip
    results, errors = run_tasks(label_slide, tasks, scheduler, "Labelling", progress=progress)
    done = {name: labels for name, labels in results.items() if labels is not None}
    for name, labels in done.items():
        if labels.threshold < threshold:
            print(
                f"{name}: no patch is more than {threshold:.0%} tumour; threshold halved to {labels.threshold:.2%},"
                f" {int((labels.label == 1).sum())} tumour patches."
            )
    refuse_failures([*errors.values()], len(results), len(names))
    return done


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
    p.add_argument("--tumor_value", type=int, default=2, help="the masks' value for tumour")
    p.add_argument("--partly_annotated", nargs="+", metavar="SLIDE", help="slides whose lesions are not all outlined: patches outside"
                   " are unknown, -1; `camelyon16` names those of the real CAMELYON16")  # fmt: skip
    p.add_argument("--threshold", type=float, default=0.5, help="a patch is tumour above this share")
    p.add_argument("--halve", action=argparse.BooleanOptionalAction, default=True,
                   help="on a tumour slide, halve the threshold until some patch is tumour, as the original tutorial does")  # fmt: skip
    p.add_argument("--scheduler", help=SCHEDULER)


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands.labels import label_folder
    from mil_tutorial.commands.record import Record

    if args.patch_level != 0:
        raise DataError(
            f"--patch_level {args.patch_level}: coordinates are level-0 pixels, so masks are counted at level 0. Leave the option out."
        )
    partly = args.partly_annotated or []
    if "camelyon16" in partly:
        from mil_tutorial.sources.camelyon16 import partly_annotated

        partly = partly_annotated() | set(partly)
    sources = sorted(
        Path(args.masks_dir or args.annotations_dir or ".").glob("*_mask.tif" if args.masks_dir else "*.xml")
    )
    with Record(args.save_dir, "labels", _options(args), [args.csv_path, *sources]):
        done = label_folder(
            args.csv_path, args.masks_dir, args.coords_dir, args.save_dir, args.patch_size, args.tumor_value, args.threshold,
            args.halve, annotations_dir=args.annotations_dir, partly_annotated=partly, scheduler=args.scheduler,
        )  # fmt: skip
    tumor = sum(int((labels.label == 1).sum()) for labels in done.values())
    print(f"{len(done)} slides labelled now, {tumor} tumour patches; files in {Path(args.save_dir).resolve()}")
    return 0
