"""What may be wrong with a data root beside its slides' files: tables, names, stores, records, missing files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mil_tutorial.bags.packed import PackedFeatures, packed_folder
from mil_tutorial.commands.findings import (
    ANNOTATIONS,
    LABELS,
    LEFT_OVER,
    MASKS,
    PACKED,
    PATCH_LABELS,
    PATCHES,
    RECORDS,
    RUNS,
    SLIDES,
    Findings,
    Kind,
    features_of,
)
from mil_tutorial.commands.record import changed_inputs, read_record
from mil_tutorial.data import DataRoot
from mil_tutorial.errors import DataError
from mil_tutorial.slides.reading import SLIDE_SUFFIXES
from mil_tutorial.sources.camelyon16 import REMOVED, camelyon16_slides
from mil_tutorial.tables import CASE, read_label_table

FilesByKind = Mapping[Kind, Mapping[str, Path]]


@dataclass(frozen=True)
class Tables:
    """The slides that the tables name.

    Attributes:
        labels: 1 tumour, 0 normal, by slide name; `wsi_labels.csv` first, then the splits.
        splits: the labels of `train` and `test` by name, of those that can be read.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        """The slides of the splits; all with a label, where no split can be read."""
        return set().union(*self.splits.values()) if self.splits else set(self.labels)


def check_tables(data: DataRoot, findings: Findings) -> Tables:
    """Read labels and splits, and say what is wrong with them."""
    tables = {name: _read_table(data, name, findings) for name in ("wsi_labels", "train", "test")}
    labels = tables["wsi_labels"] or {}
    splits = {name: table for name in ("train", "test") if (table := tables[name]) is not None}
    both = set(splits.get("train", ())) & set(splits.get("test", ()))
    for slide in sorted(both):
        findings.error(
            LABELS, slide, f"{data.root}: slide {slide} is in train.csv and in test.csv. Keep it in one of them."
        )
    _compare_patients(data, splits, findings)
    for which, split in splits.items():
        _compare_labels(data, which, split, labels, findings)
    for slide in sorted(set(labels) - set().union(*splits.values()) if splits else ()):
        findings.note(LABELS, slide, f"{data.root}: slide {slide} has a label, but is in no split. It is not used.")
    if not data.synthetic and len(set(labels) & set(camelyon16_slides()["wsi_name"])) >= 100:
        for slide in sorted(set(labels) & set(REMOVED)):
            findings.note(LABELS, slide, f"{data.root}: CAMELYON16's {slide} {REMOVED[slide]}. Leave it out.")
    return Tables({**splits.get("train", {}), **splits.get("test", {}), **labels}, splits)


def _compare_patients(data: DataRoot, splits: Mapping[str, Mapping[str, int]], findings: Findings) -> None:
    """No patient may be on both sides of the split."""
    try:
        table = read_label_table(data.root / "wsi_labels.csv")
    except DataError:
        return  # told already
    if CASE not in table:
        return
    case = dict(zip(table["wsi_name"], table[CASE], strict=True))
    sides = [{case[slide]: slide for slide in splits.get(which, ()) if slide in case} for which in ("train", "test")]
    for patient in sorted(sides[0].keys() & sides[1].keys()):
        found = f"patient {patient} has slides on both sides of the split, such as"
        slides = f"{sides[0][patient]} in train.csv and {sides[1][patient]} in test.csv"
        remedy = "The test would measure memory. Run `mil-tutorial split`."
        findings.error(LABELS, sides[1][patient], f"{data.root}: {found} {slides}. {remedy}")


def _read_table(data: DataRoot, name: str, findings: Findings) -> dict[str, int] | None:
    """The labels of one table by slide name; None if it cannot be read."""
    path = data.root / f"{name}.csv"
    try:
        table = read_label_table(path)
    except DataError as error:
        findings.error(LABELS, "", error)
        return None
    names = pd.read_csv(path, dtype=str)["wsi_name"]
    for slide in sorted(set(names[names.duplicated()])):
        findings.note(LABELS, slide, f"{path}: slide {slide} is listed twice, with one label. Delete a line.")
    if name != "wsi_labels" and table["wsi_label"].nunique() < 2:
        only = f"only label {table['wsi_label'].iloc[0]}" if len(table) else "no slide"
        findings.error(LABELS, "", f"{path}: holds {only}. Training and metrics need slides of both labels.")
    return dict(zip(table["wsi_name"].tolist(), table["wsi_label"].tolist(), strict=True))


def _compare_labels(
    data: DataRoot, which: str, split: Mapping[str, int], labels: Mapping[str, int], findings: Findings
) -> None:
    for slide, label in split.items():
        where = f"{data.root}: slide {slide}"
        if slide not in labels:
            findings.error(LABELS, slide, f"{where} is in {which}.csv, not in wsi_labels.csv. Add it.")
        elif labels[slide] != label:
            other = f"label {label} in {which}.csv and {labels[slide]} in wsi_labels.csv"
            findings.error(LABELS, slide, f"{where} has {other}. Correct one.")


def list_files(data: DataRoot, encoders: Iterable[str], findings: Findings) -> dict[Kind, dict[str, Path]]:
    """The files of each kind by slide name, and what is wrong with their names."""
    kinds = [SLIDES, MASKS, ANNOTATIONS, PATCHES, *map(features_of, encoders), PATCH_LABELS]
    files: dict[Kind, dict[str, Path]] = {kind: {} for kind in kinds}
    for kind in kinds:
        folder = kind.place(data)
        for path in sorted(folder.glob(f"[!.]*{kind.ending}") if folder.is_dir() else ()):  # hidden ones are not whole
            if kind != SLIDES:
                files[kind][path.name.removesuffix(kind.ending)] = path
            elif path.suffix.lower() in SLIDE_SUFFIXES:
                if other := files[kind].get(path.stem):
                    findings.error(kind, path.stem, f"{path}: has the name of {other.name}. Keep one of them.")
                files[kind][path.stem] = path
    return files


def check_folders(data: DataRoot, findings: Findings) -> None:
    """Several TRIDENT runs, and files of runs that were stopped."""
    run = data.trident_dir
    runs = sorted(p.name for p in run.parent.glob("*px_overlap") if p.is_dir())
    if len(runs) > 1:
        others = f"{len(runs)} TRIDENT runs, {', '.join(runs)}"
        findings.note(RUNS, "", f"{run.parent}: {others}. {run.name} is checked; --trident_run chooses another.")
    in_run = (run / "patches", run / "patch_labels", *sorted(run.glob("features_*")))
    for folder in (*in_run, data.root / "images", data.root / "masks"):
        left = [p for p in folder.glob(".*") if p.is_file() and p.name.count(".") > 1] + list(folder.glob("*.lock"))
        if left:
            of_a_run = f"{len(left)} files of a run that was stopped or is still going on, such as {left[0].name}"
            findings.note(LEFT_OVER, "", f"{folder}: {of_a_run}. If no run is going on, delete them.")


def compare_dims(files: FilesByKind, dims: Mapping[Kind, Mapping[str, int]], findings: Findings) -> None:
    """Features of one encoder have one size; `dims` are the sizes by slide name."""
    for kind, sizes in dims.items():
        usual = statistics.mode(sizes.values()) if sizes else 0
        for slide, dim in sizes.items():
            if dim != usual:
                differ = f"{dim} features for each patch, other slides have {usual}"
                findings.error(kind, slide, f"{files[kind][slide]}: {differ}. Use one encoder.")


def check_stores(data: DataRoot, encoders: Iterable[str], findings: Findings) -> None:
    """Packed stores must be whole, and of the files that are there. Their rows are compared when they are read."""
    for encoder in encoders:
        folder = packed_folder(data.trident_dir, encoder)
        if not folder.exists():
            continue
        try:
            store = PackedFeatures(folder)
        except DataError as error:
            findings.error(PACKED, "", error)
            continue
        if why := store.changed(list(store.slides)):
            findings.note(PACKED, "", f"{folder}: {why}. Run `mil-tutorial pack` again; until then it is not used.")


def check_records(data: DataRoot, findings: Findings) -> None:
    """Records of `mil-tutorial`: damaged ones, and inputs that are not what they were when the results were made."""
    run = data.trident_dir
    for path in sorted({*run.glob("record-*.json"), *run.glob("patch_labels/record-*.json")}):
        try:
            record = read_record(path)
        except DataError as error:
            findings.note(RECORDS, "", error)
            continue
        for change in changed_inputs(record):
            if change.gone:
                findings.note(RECORDS, "", f"{path}: its input {change}. The results stay as they are.")
            else:
                again = f"Make the results of `mil-tutorial {record['command']}` again."
                findings.error(RECORDS, "", f"{path}: its input {change}. {again}")


def count_missing(data: DataRoot, tables: Tables, files: FilesByKind, findings: Findings) -> dict[str, int]:
    """For how many slides the files of each kind are missing. What training needs is an error."""
    used = tables.used
    tumor = {slide for slide in used if tables.labels.get(slide) == 1}
    wanted = {kind: used for kind in files}
    if data.synthetic:  # its images are drawn when they are asked for
        wanted |= {SLIDES: set(), MASKS: set(), ANNOTATIONS: set()}
    else:
        wanted |= {MASKS: tumor, ANNOTATIONS: tumor if files[ANNOTATIONS] else set()}
    missing = {}
    for kind, there in files.items():
        lost = sorted(wanted[kind] - set(there))
        missing[kind.name] = len(lost)
        if kind.needed:
            for slide in lost:
                in_split = f"is missing, and slide {slide} is in a split"
                findings.error(kind, slide, f"{kind.path(data, slide)}: {in_split}. Prepare it, or take it out.")
        elif lost:
            some = f"no {kind.name} for {len(lost)} slides, such as {lost[0]}"
            findings.note(
                kind, "", f"{data.root}: {some}. Training works without them, images and patch metrics do not."
            )
        for slide in sorted(set(there) - set(tables.labels)):
            findings.note(kind, slide, f"{there[slide]}: slide {slide} has no label. It is not used.")
    return missing
