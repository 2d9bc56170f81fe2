"""Look through a data root and say what is there, what is missing and what does not fit, before anyone trains on it.

Features are scanned for NaN piece by piece and never held as a whole. Tiles of slides and masks are not decoded: a file
that is cut short is noticed, a damaged tile inside it is not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import tifffile
from tqdm.auto import tqdm

from mil_tutorial.bags.packed import PackedFeatures, packed_folder
from mil_tutorial.commands.record import GONE, changed_inputs, read_record
from mil_tutorial.data import DataRoot, open_data
from mil_tutorial.errors import DataError
from mil_tutorial.files import end_with_parent
from mil_tutorial.geometry import Geometry, nominal_magnification
from mil_tutorial.slides.annotations import read_asap_xml
from mil_tutorial.slides.reading import SLIDE_SUFFIXES, open_slide
from mil_tutorial.sources.camelyon16 import REMOVED, camelyon16_slides
from mil_tutorial.tables import read_label_table
from mil_tutorial.trident import (
    Patches,
    coords_digest,
    count_bad_features,
    features_header,
    match_rows,
    read_how,
    read_patch_labels,
    read_patches,
)


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        level: `error` (would spoil training) or `note`.
        kind: what it concerns, a row of the table, such as `patches`.
        slide: its name, or "" for the whole tree.
        what: names the file, what was found and the remedy.
    """

    level: str
    kind: str
    slide: str
    what: str


@dataclass(frozen=True)
class Report:
    """What `check_root` found: findings, and for each kind of file how many are there and for how many slides it is missing."""

    findings: list[Finding]
    there: dict[str, int]
    missing: dict[str, int]

    @property
    def spoiled(self) -> bool:
        """Whether anything would spoil training."""
        return any(f.level == "error" for f in self.findings)

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "spoiled": self.spoiled,
            "there": self.there,
            "missing": self.missing,
            "findings": [asdict(f) for f in self.findings],
        }


def _error(kind: str, slide: str, what: object) -> Finding:
    return Finding("error", kind, slide, str(what))


def _note(kind: str, slide: str, what: object) -> Finding:
    return Finding("note", kind, slide, str(what))


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Files of a folder by slide name; hidden ones are not whole."""
    found = folder.glob(f"[!.]*{ending}") if folder.is_dir() else ()
    return {p.name.removesuffix(ending): p for p in sorted(found)}


def _check_tables(data: DataRoot) -> tuple[dict[str, int], set[str], list[Finding]]:
    """Labels and splits: the labels by name, the slides that are used, and what is wrong."""
    found: list[Finding] = []
    tables = {}
    for name in ("wsi_labels", "train", "test"):
        path = data.root / f"{name}.csv"
        try:
            table = tables[name] = read_label_table(path)
        except DataError as error:
            found.append(_error("labels", "", error))
            continue
        raw = pd.read_csv(path, dtype=str)["wsi_name"]
        for slide in sorted(set(raw[raw.duplicated()])):
            found.append(
                _note("labels", slide, f"{path}: slide {slide} stands there twice, with one label. Delete a line.")
            )
        if name != "wsi_labels" and table["wsi_label"].nunique() < 2:
            only = f"only label {table['wsi_label'].iloc[0]}" if len(table) else "no slide"
            found.append(_error("labels", "", f"{path}: holds {only}. Training and scores need slides of both labels."))
    labels = dict(tables["wsi_labels"].itertuples(index=False)) if "wsi_labels" in tables else {}
    splits = {k: dict(tables[k].itertuples(index=False)) for k in ("train", "test") if k in tables}
    for name in sorted(set(splits.get("train", ())) & set(splits.get("test", ()))):
        found.append(
            _error(
                "labels", name, f"{data.root}: slide {name} is in train.csv and in test.csv. Keep it in one of them."
            )
        )
    for which, split in splits.items():
        for name, label in split.items():
            if name not in labels:
                found.append(
                    _error(
                        "labels", name, f"{data.root}: slide {name} is in {which}.csv, not in wsi_labels.csv. Add it."
                    )
                )
            elif labels[name] != label:
                found.append(
                    _error(
                        "labels",
                        name,
                        f"{data.root}: slide {name} has label {label} in {which}.csv and {labels[name]} in wsi_labels.csv. Correct one.",
                    )
                )
    used = set().union(*splits.values()) if splits else set(labels)
    for name in sorted(set(labels) - used):
        found.append(
            _note("labels", name, f"{data.root}: slide {name} has a label, but is in no split. It is not used.")
        )
    if not data.synthetic and len(set(labels) & set(camelyon16_slides()["wsi_name"])) >= 100:
        for name in sorted(set(labels) & set(REMOVED)):
            found.append(_note("labels", name, f"{data.root}: CAMELYON16's {name} {REMOVED[name]}. Leave it out."))
    return {**labels, **{n: y for s in splits.values() for n, y in s.items() if n not in labels}}, used, found


def _check_patches(path: Path, name: str, used: bool) -> tuple[Patches | None, list[Finding]]:
    kind = "patches"
    try:
        patches = read_patches(path)
    except DataError as error:
        return None, [_error(kind, name, error)]
    found, geometry, coords = [], patches.geometry, patches.coords
    if not len(coords):
        level = _error if used else _note
        found.append(
            level(kind, name, f"{path}: no patches, the slide has no tissue. Leave it out of train.csv and test.csv.")
        )
    elif (coords < 0).any() or (coords >= (geometry.width, geometry.height)).any():
        found.append(
            _error(
                kind,
                name,
                f"{path}: patches lie outside the slide of {geometry.width} x {geometry.height} px. Make them again.",
            )
        )
    expected = geometry.patch_size * geometry.level0_magnification / geometry.target_magnification
    if abs(geometry.patch_size_level0 - expected) > 1:
        found.append(
            _error(
                kind,
                name,
                f"{path}: patch_size_level0 is {geometry.patch_size_level0}, the magnifications say {expected:g}. Make them again.",
            )
        )
    if len(np.unique(coords, axis=0)) != len(coords):
        found.append(_error(kind, name, f"{path}: some patches are there twice. Make them again."))
    return patches, found


def _check_features(path: Path, encoder: str, name: str, patches: Patches) -> tuple[int, list[Finding]]:
    """Feature size D, and what is wrong with a feature file."""
    kind = f"features {encoder}"
    try:
        (n, dim), _, coords = features_header(path)
        match_rows(path, coords, n, patches)
        if bad := count_bad_features(path):
            return dim, [_error(kind, name, f"{path}: {bad} features are NaN or infinite. Make its features again.")]
    except DataError as error:
        return 0, [_error(kind, name, error)]
    return dim, []


def _check_labels(path: Path, name: str, label: int, patches: Patches) -> Iterator[Finding]:
    kind = "patch labels"
    try:
        labels = read_patch_labels(path, len(patches.coords))
        digest = read_how(path, ["coords_digest"]).get("coords_digest")
    except DataError as error:
        yield _error(kind, name, error)
        return
    if digest not in (None, coords_digest(patches.coords)):
        yield _error(kind, name, f"{path}: was made for other patches. Delete it and run `mil-tutorial labels` again.")
    positive = int((labels == 1).sum())
    if label == 1 and not positive:
        yield _note(kind, name, f"{path}: a tumour slide without a tumour patch; patch metrics cannot see its lesions.")
    if label == 0 and positive:
        yield _error(kind, name, f"{path}: a normal slide with {positive} tumour patches. Check its label.")


def _check_whole(path: Path) -> None:
    """A TIFF's tiles must lie inside the file.

    Raises:
        DataError: some lie beyond its end.
    """
    if path.suffix.lower() not in (".tif", ".tiff", ".svs"):
        return
    try:
        with tifffile.TiffFile(path) as tiff:
            end = max(max(map(sum, zip(p.dataoffsets, p.databytecounts, strict=True)), default=0) for p in tiff.pages)
    except Exception as error:  # tifffile reports damage in many ways
        raise DataError(f"{path}: its table of contents cannot be read ({error!s:.120}). Copy it again.") from error
    if end > path.stat().st_size:
        raise DataError(
            f"{path}: has {path.stat().st_size:,} bytes, its table of contents wants {end:,}. It is cut short. Copy it again."
        )


def _check_picture(
    path: Path, kind: str, name: str, geometry: Geometry | None, whole: bool = True
) -> Iterator[Finding]:
    """A slide or a mask: can it be opened, is it whole, does it have the size that the coordinates were made for?"""
    try:
        if whole:
            _check_whole(path)
        with open_slide(path) as slide:
            size, mpp = slide.dimensions, slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
    except DataError as error:
        yield _error(kind, name, error)
        return
    if geometry is None:
        return
    if size != (geometry.width, geometry.height):
        yield _error(
            kind,
            name,
            f"{path}: is {size[0]} x {size[1]} pixels, the coordinates were made for {geometry.width} x {geometry.height}. One of them belongs to another slide.",
        )
    if kind == "slides" and mpp is not None:
        try:
            magnification = nominal_magnification(float(mpp))
        except ValueError as error:
            yield _note(kind, name, f"{path}: {error}")
            return
        if magnification != geometry.level0_magnification:
            yield _error(
                kind,
                name,
                f"{path}: {float(mpp):g} µm per pixel is {magnification:g}x, its coordinates say {geometry.level0_magnification:g}x,"
                f" so that its patches of {geometry.patch_size_level0} px have the wrong size. Make them again with the right --mpp.",
            )


def _check_slide(
    name: str, label: int, used: bool, files: dict[str, Path], encoders: Iterable[str]
) -> tuple[dict[str, int], list[Finding]]:
    """Everything about one slide's files: feature size by encoder, and what is wrong."""
    found: list[Finding] = []
    dims: dict[str, int] = {}
    patches = None
    if "patches" in files:
        patches, more = _check_patches(files["patches"], name, used)
        found += more
    geometry = patches.geometry if patches else None
    for encoder in encoders:
        if patches and f"features {encoder}" in files:
            dims[encoder], more = _check_features(files[f"features {encoder}"], encoder, name, patches)
            found += more
    if patches and "patch labels" in files:
        found += _check_labels(files["patch labels"], name, label, patches)
    for kind in ("slides", "masks"):
        if kind in files:
            found += _check_picture(files[kind], kind, name, geometry)
    if "annotations" in files:
        try:
            annotation = read_asap_xml(files["annotations"])
            corners = np.concatenate([*annotation.tumor, np.empty((0, 2))])
            if geometry and len(corners) and (corners.min() < 0 or (corners > (geometry.width, geometry.height)).any()):
                found.append(
                    _note(
                        "annotations",
                        name,
                        f"{files['annotations']}: some corners lie outside the slide. Does it belong to it?",
                    )
                )
            if label == 1 and not annotation.tumor:
                found.append(
                    _note(
                        "annotations",
                        name,
                        f"{files['annotations']}: a tumour slide without a tumour polygon; other groups: {dict(annotation.ignored)}.",
                    )
                )
        except DataError as error:
            found.append(_error("annotations", name, error))
    return dims, found


def _list_files(data: DataRoot, encoders: Iterable[str]) -> tuple[dict[str, dict[str, Path]], list[Finding]]:
    """Files of each kind by slide name, and what is wrong with their names."""
    run, found = data.trident_dir, []
    slides: dict[str, Path] = {}
    for path in sorted((data.root / "images").glob("[!.]*")):
        if path.suffix.lower() in SLIDE_SUFFIXES:
            if path.stem in slides:
                found.append(
                    _error(
                        "slides", path.stem, f"{path}: and {slides[path.stem].name} have one name. Keep one of them."
                    )
                )
            slides[path.stem] = path
    files = {
        "slides": slides,
        "masks": _files(data.root / "masks", "_mask.tif"),
        "annotations": _files(data.root / "annotations", ".xml"),
        "patches": _files(run / "patches", "_patches.h5"),
        **{f"features {e}": _files(run / f"features_{e}", ".h5") for e in encoders},
        "patch labels": _files(run / "patch_labels", ".h5"),
    }
    for folder in [
        run / "patches",
        *run.glob("features_*"),
        run / "patch_labels",
        *(data.root / f for f in ("images", "masks")),
    ]:
        left = [p for p in folder.glob(".*") if p.is_file() and p.name.count(".") > 1] + list(folder.glob("*.lock"))
        if left:
            found.append(
                _note(
                    "left over",
                    "",
                    f"{folder}: {len(left)} files of a run that was stopped or is still going on, such as {left[0].name}. If none runs, delete them.",
                )
            )
    return files, found


def _run(jobs: list[tuple], workers: int, progress: bool) -> Iterator[tuple[dict[str, int], list[Finding]]]:
    """`_check_slide` of each job, in order; in processes if there is enough to do."""
    if workers > 1 and len(jobs) >= 32:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
            results = pool.map(_check_slide, *zip(*jobs, strict=True), chunksize=8)
            yield from tqdm(results, desc="Checking", unit="slide", total=len(jobs), disable=not progress)
    else:
        for job in tqdm(jobs, desc="Checking", unit="slide", disable=not progress):
            yield _check_slide(*job)


def check_root(
    path: str | os.PathLike | None = None, encoder: str | None = None, progress: bool = True, workers: int = 1
) -> Report:
    """Check a data root.

    Args:
        path: as `open_data`.
        encoder: whose features to check; all by default.
        workers: processes; a script that asks for more than one needs the usual `if __name__ == "__main__":`.

    Raises:
        DataError: the root itself cannot be opened, or has no such features.
    """
    data = open_data(path)
    encoders = [encoder] if encoder else data.encoders
    if not encoders:
        raise DataError(
            f"{data.trident_dir}: no folder features_<encoder>. Run TRIDENT or `mil-tutorial prepare` first."
        )
    if encoder and encoder not in data.encoders:
        raise DataError(
            f"{data.trident_dir}: no folder features_{encoder}, found {', '.join(data.encoders) or 'none'}."
        )
    labels, used, findings = _check_tables(data)
    files, more = _list_files(data, encoders)
    findings += more
    if data.synthetic:
        files["slides"] = {n: p for n, p in files["slides"].items() if n in labels}
    names = sorted(set(labels) | set(files["patches"]))
    dims: dict[str, dict[str, int]] = {e: {} for e in encoders}
    jobs = [
        (n, labels.get(n, -1), n in used, {kind: there[n] for kind, there in files.items() if n in there}, encoders)
        for n in names
    ]
    for name, (slide_dims, more) in zip(names, _run(jobs, workers, progress), strict=True):
        findings += more
        for e, dim in slide_dims.items():
            if dim:
                dims[e][name] = dim
    for e, sizes in dims.items():
        usual = statistics.mode(sizes.values()) if sizes else 0
        findings += [
            _error(
                f"features {e}",
                n,
                f"{files[f'features {e}'][n]}: {d} features for each patch, other slides have {usual}. Use one encoder.",
            )
            for n, d in sizes.items()
            if d != usual
        ]
    findings += _check_stores(data, encoders)
    findings += _check_records(data)
    missing = _find_missing(data, labels, used, files, findings)
    findings.sort(key=lambda f: (f.level, f.kind, f.slide))
    return Report(findings, {"labels": len(labels), **{k: len(v) for k, v in files.items()}}, missing)


def _check_stores(data: DataRoot, encoders: Iterable[str]) -> Iterator[Finding]:
    """Packed stores: whole, and of the files that are there. Their rows are compared with checksums when they are read."""
    for encoder in encoders:
        folder = packed_folder(data.trident_dir, encoder)
        if not folder.exists():
            continue
        try:
            store = PackedFeatures(folder)
        except DataError as error:
            yield _error("packed", "", error)
            continue
        if why := store.changed(list(store.slides)):
            yield _note("packed", "", f"{folder}: {why}. Run `mil-tutorial pack` again; until then it is not used.")


def _check_records(data: DataRoot) -> Iterator[Finding]:
    """Records of `mil-tutorial`: damaged ones, and inputs that are not what they were when the results were made."""
    for path in sorted({*data.trident_dir.glob("record-*.json"), *data.trident_dir.glob("patch_labels/record-*.json")}):
        try:
            record = read_record(path)
        except DataError as error:
            yield _note("records", "", error)
            continue
        for name, how in changed_inputs(record):
            if how == GONE:
                yield _note("records", "", f"{path}: its input {name} {how}. The results stay as they are.")
            else:
                remedy = f"Make the results of `mil-tutorial {record['command']}` again."
                yield _error("records", "", f"{path}: its input {name} {how}. {remedy}")


def _find_missing(
    data: DataRoot, labels: dict[str, int], used: set[str], files: dict[str, dict[str, Path]], findings: list[Finding]
) -> dict[str, int]:
    """How many slides lack a file of each kind; findings are added: what training needs is an error."""
    tumor = {n for n in used if labels.get(n) == 1}
    wanted = {k: used for k in files}
    if not data.synthetic:
        wanted |= {"masks": tumor, "annotations": tumor if files["annotations"] else set()}
    else:  # its pictures are drawn when they are asked for
        wanted |= {k: set() for k in ("slides", "masks", "annotations")}
    missing = {}
    for kind, there in files.items():
        lost = sorted(wanted[kind] - set(there))
        missing[kind] = len(lost)
        if lost and (kind == "patches" or kind.startswith("features")):
            form = "patches/{}_patches.h5" if kind == "patches" else f"{kind.replace(' ', '_', 1)}/{{}}.h5"
            findings += [
                _error(
                    kind,
                    n,
                    f"{data.trident_dir / form.format(n)}: is missing, and slide {n} is in a split. Prepare it, or take it out.",
                )
                for n in lost
            ]
        elif lost:
            findings.append(
                _note(
                    kind,
                    "",
                    f"{data.root}: no {kind} for {len(lost)} slides, such as {lost[0]}. Training works without, pictures and patch metrics do not.",
                )
            )
        for n in sorted(set(there) - set(labels)):
            findings.append(_note(kind, n, f"{there[n]}: slide {n} has no label. It is not used."))
    return missing


def format_report(report: Report, most: int = 30) -> str:
    """The report as a table in plain text: what is there, what is missing, what does not fit; then each finding."""
    errors = [f for f in report.findings if f.level == "error"]
    notes = [f for f in report.findings if f.level == "note"]
    kinds = list(report.there) + sorted({f.kind for f in report.findings} - set(report.there))
    width = max(map(len, kinds))
    lines = [f"{'':{width}}  there  missing  errors  notes"]
    for kind in kinds:
        counts = (
            report.there.get(kind, 0),
            report.missing.get(kind, 0),
            *(sum(f.kind == kind for f in g) for g in (errors, notes)),
        )
        lines.append(
            f"{kind:{width}}  {counts[0]:5}  {counts[1] or '-':>7}  {counts[2] or '-':>6}  {counts[3] or '-':>5}"
        )
    for heading, chosen in (("Would spoil training", errors), ("Notes", notes)):
        lines += ["", f"{heading}: {len(chosen)}"] + [f"  {f.what}" for f in chosen[:most]]
        if len(chosen) > most:
            lines.append(f"  … and {len(chosen) - most} more; --json shows all")
    return "\n".join(lines)


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("root", nargs="?", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to check; all by default")
    p.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands.check import check_root, format_report

    report = check_root(args.root, args.encoder, workers=os.cpu_count() or 1)
    print(json.dumps(report.as_dict(), indent=1) if args.json else format_report(report))
    return int(report.spoiled)
