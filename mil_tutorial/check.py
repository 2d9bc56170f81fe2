"""Look through a data root and say what is there, what is missing and what does not fit, before anyone trains on it.

No feature is loaded into memory as a whole: shapes come from the files' headers.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mil_tutorial import trident
from mil_tutorial.data import open_data
from mil_tutorial.files import DataError
from mil_tutorial.labels import read_patch_labels


@dataclass(frozen=True)
class Finding:
    """One thing found: `level` is `error` (would spoil training) or `note`; `what` names the file and the remedy."""

    level: str
    slide: str
    what: str


@dataclass(frozen=True)
class Report:
    """What `check_root` found: findings and counts of what is there."""

    findings: list[Finding]
    counts: dict[str, int]

    @property
    def spoiled(self) -> bool:
        """Whether anything would spoil training."""
        return any(f.level == "error" for f in self.findings)

    def as_dict(self) -> dict:
        """For JSON."""
        return {"spoiled": self.spoiled, "counts": self.counts, "findings": [asdict(f) for f in self.findings]}


def _check_slide(run: Path, encoder: str, name: str, label: int, dims: dict[str, int]) -> list[Finding]:
    """Everything about one slide's files; its feature size goes into `dims`."""
    found = []
    patches_file, features_file = run / "patches" / f"{name}_patches.h5", run / f"features_{encoder}" / f"{name}.h5"
    try:
        patches = trident.read_patches(patches_file)
    except DataError as error:
        return [Finding("error", name, str(error))]
    geometry, n = patches.geometry, len(patches.coords)
    if n == 0:
        found.append(
            Finding("note", name, f"{patches_file}: no patches, the slide has no tissue. Leave it out of training.")
        )
    elif (patches.coords < 0).any() or (patches.coords >= (geometry.width, geometry.height)).any():
        found.append(
            Finding(
                "error",
                name,
                f"{patches_file}: patches lie outside the slide of {geometry.width} x {geometry.height} px. Make them again.",
            )
        )
    expected = geometry.patch_size * geometry.level0_magnification / geometry.target_magnification
    if abs(geometry.patch_size_level0 - expected) > 1:
        found.append(
            Finding(
                "error",
                name,
                f"{patches_file}: patch_size_level0 is {geometry.patch_size_level0}, magnification says {expected:g}. Make them again.",
            )
        )
    if len(np.unique(patches.coords, axis=0)) != n:
        found.append(Finding("error", name, f"{patches_file}: some patches are there twice. Make them again."))
    try:
        with trident.open_h5(features_file) as file:
            features = file.get("features")
            if features is None or (features.ndim != 2 and features.size):
                raise DataError(f"{features_file}: no dataset 'features' of shape (n, D). Make the features again.")
            coords = file["coords"][:] if "coords" in file else None
            trident.match_rows(features_file, coords, features.shape[0] if features.size else 0, patches)
            if features.size:
                dims[name] = features.shape[1]
            for start in range(0, features.shape[0], 4096):
                if not np.isfinite(features[start : start + 4096]).all():
                    raise DataError(f"{features_file}: NaN or infinite features. Make the features again.")
    except DataError as error:
        found.append(Finding("error", name, str(error)))
    labels_file = run / "patch_labels" / f"{name}.h5"
    if labels_file.exists():
        try:
            labels = read_patch_labels(labels_file, n)
            if label == 1 and not (labels == 1).any():
                found.append(
                    Finding(
                        "note",
                        name,
                        f"{labels_file}: a tumour slide without a tumour patch; patch metrics cannot see its lesions.",
                    )
                )
            if label == 0 and (labels == 1).any():
                found.append(
                    Finding(
                        "error",
                        name,
                        f"{labels_file}: a normal slide with {int((labels == 1).sum())} tumour patches. Check its label.",
                    )
                )
        except DataError as error:
            found.append(Finding("error", name, str(error)))
    return found


def check_root(path: str | os.PathLike | None = None, encoder: str | None = None, progress: bool = True) -> Report:
    """Check a data root.

    Args:
        path: as `open_data`.
        encoder: whose features to check; the first found by default.

    Raises:
        DataError: the root itself cannot be opened.
    """
    data = open_data(path)
    table = data.labels.set_index("wsi_name")["wsi_label"]
    run = data.trident_dir
    if encoder is None and not data.encoders:
        raise DataError(f"{run}: no folder features_<encoder>. Run TRIDENT or `mil-tutorial prepare` first.")
    encoder = encoder or data.encoders[0]
    findings: list[Finding] = []
    splits = {}
    for which in ("train", "test"):
        try:
            splits[which] = set(data.split(which)["wsi_name"])
        except DataError as error:
            findings.append(Finding("error", "", str(error)))
    both = sorted(splits.get("train", set()) & splits.get("test", set()))
    findings += [
        Finding("error", name, f"{data.root}: slide {name} is in train.csv and in test.csv. Keep it in one.")
        for name in both
    ]
    used = set.union(*splits.values()) if splits else set()
    findings += [
        Finding("error", n, f"{data.root}: slide {n} is in a split, but not in wsi_labels.csv. Add it.")
        for n in sorted(used - set(table.index))
    ]
    there = {
        p.name.removesuffix("_patches.h5") for p in (run / "patches").glob("*_patches.h5") if not p.name.startswith(".")
    }
    findings += [
        Finding("note", n, f"{run / 'patches'}: slide {n} has patches but no label. It is not used.")
        for n in sorted(there - set(table.index))
    ]
    if used:
        idle = sorted(set(table.index) - used)
        findings += [
            Finding("note", n, f"{data.root}: slide {n} has a label, but is in no split. It is not used.") for n in idle
        ]
    names = sorted(set(table.index) & (used or set(table.index)))
    dims: dict[str, int] = {}
    for name in tqdm(names, desc="Checking", unit="slide", disable=not progress):
        findings += _check_slide(run, encoder, name, int(table[name]), dims)
    if dims:
        usual = statistics.mode(dims.values())
        findings += [
            Finding(
                "error",
                n,
                f"{run / f'features_{encoder}' / n}.h5: {d} features for each patch, other slides have {usual}. Use one encoder.",
            )
            for n, d in dims.items()
            if d != usual
        ]
    pictures = {p.stem for p in (data.root / "images").glob("[!.]*")} if not data.synthetic else set(names)
    blind = [n for n in names if n not in pictures]
    if blind:
        findings.append(
            Finding(
                "note",
                "",
                f"{data.root / 'images'}: {len(blind)} slides have no image, such as {blind[0]}; training works, pictures do not.",
            )
        )
    counts = {
        "labelled slides": len(table), "tumour slides": int(table.sum()), **{f"{k} slides": len(v) for k, v in splits.items()},
        "slides with patches": len(there),
        f"slides with {encoder} features": len(list((run / f"features_{encoder}").glob("[!.]*.h5"))),
        "slides with patch labels": len(list((run / "patch_labels").glob("[!.]*.h5"))),
    }  # fmt: skip
    return Report(findings, counts)


def format_report(report: Report, most: int = 30) -> str:
    """The report as a table in plain text."""
    lines = [f"{value:>6}  {what}" for what, value in report.counts.items()]
    for level, heading in (("error", "Would spoil training"), ("note", "Notes")):
        chosen = [f for f in report.findings if f.level == level]
        lines += ["", f"{heading}: {len(chosen)}"] + [f"  {f.what}" for f in chosen[:most]]
        if len(chosen) > most:
            lines.append(f"  … and {len(chosen) - most} more; --json shows all")
    return "\n".join(lines)
