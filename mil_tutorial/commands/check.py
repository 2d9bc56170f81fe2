"""`mil-tutorial check`: what is in a data root, what is missing and what is wrong, before anyone trains on it."""

from __future__ import annotations

import argparse
import json
import os

from mil_tutorial.commands.checks_of_roots import (
    FilesByKind,
    Tables,
    check_folders,
    check_records,
    check_stores,
    check_tables,
    compare_dims,
    count_missing,
    list_files,
)
from mil_tutorial.commands.checks_of_slides import SlideFiles, check_slide
from mil_tutorial.commands.findings import PATCHES, SLIDES, Findings, Kind, Report, features_of, format_report
from mil_tutorial.commands.processes import process_map
from mil_tutorial.data import DataRoot, open_data
from mil_tutorial.errors import DataError

ENOUGH = 32  # slides from which on starting processes pays


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("root", nargs="?", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    parser.add_argument("--trident_run", metavar="NAME", help="TRIDENT run folder, where the root holds several")
    parser.add_argument("--encoder", help="whose features to check; all by default")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Check, print the report; 1 if something would spoil training."""
    report = check_root(args.root, run=args.trident_run, encoder=args.encoder)
    print(json.dumps(report.as_dict(), indent=1) if args.json else format_report(report))
    return int(report.spoiled)


def check_root(
    path: str | os.PathLike[str] | None = None,
    *,
    run: str | None = None,
    encoder: str | None = None,
    progress: bool = True,
    workers: int | None = None,
) -> Report:
    """Check a data root.

    Args:
        path, run: as `open_data`.
        encoder: whose features to check; all by default.
        progress: show a bar.
        workers: processes, one for each core by default; a script that takes more than one needs the usual
            `if __name__ == "__main__":`.

    Raises:
        ParameterError: `workers` is not a whole number of at least 1.
        DataError: the root itself cannot be opened, or has no such features.
    """
    data = open_data(path, run=run)
    encoders = _encoders(data, encoder)
    findings = Findings()
    tables = check_tables(data, findings)
    files = list_files(data, encoders, findings)
    if data.synthetic:  # slides that were drawn for other reasons are no part of the course
        files[SLIDES] = {slide: path for slide, path in files[SLIDES].items() if slide in tables.labels}
    dims: dict[Kind, dict[str, int]] = {features_of(e): {} for e in encoders}
    slides = _slides(tables, files)
    reports = process_map(
        check_slide, slides, what="Checking", workers=workers, chunk=8, enough=ENOUGH, progress=progress
    )
    for slide, found in zip(slides, reports, strict=True):
        findings.found += found.findings
        for kind, dim in found.dims.items():
            if dim:  # an empty slide may not say it
                dims[kind][slide.name] = dim
    compare_dims(files, dims, findings)
    check_folders(data, findings)
    check_stores(data, encoders, findings)
    check_records(data, findings)
    missing = count_missing(data, tables, files, findings)
    there = {"labels": len(tables.labels), **{kind.name: len(paths) for kind, paths in files.items()}}
    return Report(sorted(findings, key=lambda f: (f.level, f.kind, f.slide)), there, missing)


def _slides(tables: Tables, files: FilesByKind) -> list[SlideFiles]:
    """All slides that have a label or patches, with their files."""
    used = tables.used
    return [
        SlideFiles(n, tables.labels.get(n), n in used, {k: there[n] for k, there in files.items() if n in there})
        for n in sorted({*tables.labels, *files[PATCHES]})
    ]


def _encoders(data: DataRoot, encoder: str | None) -> list[str]:
    """The encoders whose features are checked.

    Raises:
        DataError: there are no features, or none of this encoder.
    """
    if not data.encoders:
        raise DataError(
            f"{data.trident_dir}: no folder features_<encoder>. Run TRIDENT or `mil-tutorial prepare` first."
        )
    if encoder and encoder not in data.encoders:
        raise DataError(f"{data.trident_dir}: no folder features_{encoder}, found {', '.join(data.encoders)}.")
    return [encoder] if encoder else data.encoders
