"""`mil-tutorial import`: features that others share into a data root; the work on one slide is `sources.shared`."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from mil_tutorial.commands.common import Notes, asked
from mil_tutorial.commands.engine import refuse_failures
from mil_tutorial.commands.record import Record
from mil_tutorial.errors import DataError
from mil_tutorial.files import written_whole
from mil_tutorial.sources.places import ImportOptions, SharedSlide
from mil_tutorial.sources.shared import Imported, find_shared, import_slide, slide_file
from mil_tutorial.tables import read_label_table


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("folder", help="folder with h5_files or pt_files of CLAM, or with <slide>.h5, .pt or .npy")
    p.add_argument("root", help="data root to write to; what is there stays")
    p.add_argument("--encoder", required=True, help="name of the encoder that made the features, such as uni")
    p.add_argument("--coords", metavar="FOLDER", help="coordinates <slide>.h5 or .npy, where they are elsewhere")
    p.add_argument("--patch_size_level0", type=int, help="side of a patch in level-0 pixels, if no file says it")
    p.add_argument("--magnification", type=float, help="magnification of the patches, if no file says it, such as 20")
    p.add_argument("--level0_magnification", type=float, help="magnification of the slides, such as 40, or else --mpp")
    p.add_argument("--mpp", type=float, help="µm per pixel of the slides at level 0, in place of their magnification")
    p.add_argument("--overlap", type=int, default=0, help="pixels that neighbours share at --magnification")
    p.add_argument(
        "--slides", metavar="FOLDER", help="slides, which know their size and magnification; ROOT/images by default"
    )
    p.add_argument("--labels", metavar="CSV", help="columns wsi_name, wsi_label; written to the root as wsi_labels.csv")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    chosen = ImportOptions(
        encoder=args.encoder,
        magnification=args.magnification,
        level0_magnification=args.level0_magnification,
        mpp=args.mpp,
        patch_size_level0=args.patch_size_level0,
        overlap=args.overlap,
    )
    done = import_folder(
        args.folder, args.root, chosen, coords=args.coords, slides=args.slides, labels=args.labels, record=asked(args)
    )
    patches, new, run_dir = sum(s.patches for s in done), sum(s.new for s in done), done[0].run.resolve()
    print(f"{len(done)} slides, {new} of them new, {patches} patches of {done[0].dim} features, in {run_dir}")
    return 0


def import_folder(
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    options: ImportOptions,
    *,
    coords: str | os.PathLike[str] | None = None,
    slides: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    record: dict | None = None,
    progress: bool = True,
) -> list[Imported]:
    """Import all slides of a shared folder. A slide that fails does not stop the others; the end names each.

    Args:
        folder, coords, slides: see `find_shared`; without `slides`, those in the root's `images` are asked.
        root: data root to write to.
        options: see `ImportOptions`.
        labels: CSV of the slides' labels, copied to the root.
        record: what was asked for, for the record beside the results.
        progress: show a bar.

    Raises:
        DataError: no features, labels that do not fit, or some slides failed.
    """
    found, root = find_shared(folder, coords=coords, slides=slides), Path(root)
    if slides is None:
        found = [replace(shared, slide=slide_file(root / "images", shared.name)) for shared in found]
    if labels is not None:
        _put_labels(Path(labels), root, found)
    tell = Notes()
    done: list[Imported] = []
    failures: dict[str, list[str]] = {}  # what is wrong, without the file's name: the names of the files
    kept = Record(root / "trident_processed", "import", record or {}, [f for s in found for f in s.features + s.coords])
    for shared in tqdm(found, desc="Importing", unit="slide", disable=not progress):
        try:
            like = done[0] if done else None
            done.append(import_slide(shared, root / "trident_processed", options, like=like, note=tell))
        except DataError as error:
            path, _, what = str(error).partition(": ")
            failures.setdefault(what, []).append(path)
    tell.end()
    refuse_failures([_line(what, paths) for what, paths in failures.items()], len(done), len(found))
    kept.refuse_changes()
    kept.write()
    return done


def _line(what: str, paths: list[str]) -> str:
    """One failure that one or more slides share."""
    others = ", ".join(Path(path).name for path in paths[1:6]) + (f" and {len(paths) - 6} more" if paths[6:] else "")
    return f"{paths[0]}: {what}" + (f" The same holds for {others}." if others else "")


def _put_labels(labels: Path, root: Path, found: list[SharedSlide]) -> None:
    """Compare the labels with the slides, and write them to the root unless the same are there."""
    table = read_label_table(labels)
    known = set(table["wsi_name"])
    strangers = [shared.name for shared in found if shared.name not in known]
    if strangers:
        more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        raise DataError(
            f"{labels}: no label for {', '.join(strangers[:5])}{more}, whose features are shared; it names {len(known)}"
            f" slides, such as {min(known, default='none')}. The names must be the same. Nothing was written."
        )
    target = root / "wsi_labels.csv"
    if target.exists():
        there = read_label_table(target)
        if set(there.itertuples(index=False, name=None)) != set(table.itertuples(index=False, name=None)):
            raise DataError(f"{target}: is there with other labels. Move it away, or leave labels out.")
        return
    with written_whole(target) as temporary:
        pd.DataFrame(table).to_csv(temporary, index=False, lineterminator="\n")
