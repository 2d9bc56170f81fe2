"""What `mil-tutorial check` found: findings, each of one kind and level, and the report that counts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mil_tutorial.data import DataRoot


@dataclass(frozen=True)
class Kind:
    """A row of the report's table; most are files, one a slide.

    Attributes:
        name: in the table and in the JSON.
        folder: where the files are, "" if there are none of this kind.
        ending: of their names; before it comes the slide's name.
        in_run: the folder is in the TRIDENT run, not in the root.
        encoder: whose features they are, "" if they are none.
        needed: training needs one of each slide.
    """

    name: str
    folder: str = ""
    ending: str = ""
    in_run: bool = False
    encoder: str = ""
    needed: bool = False

    def place(self, data: DataRoot) -> Path:
        """The folder of the files."""
        return (data.trident_dir if self.in_run else data.root) / self.folder

    def path(self, data: DataRoot, slide: str) -> Path:
        """The file of a slide."""
        return self.place(data) / f"{slide}{self.ending}"


LABELS, RUNS, LEFT_OVER = Kind("labels"), Kind("runs"), Kind("left over")
PACKED, RECORDS = Kind("packed"), Kind("records")
SLIDES = Kind("slides", "images")  # with one of several endings
MASKS = Kind("masks", "masks", "_mask.tif")
ANNOTATIONS = Kind("annotations", "annotations", ".xml")
PATCHES = Kind("patches", "patches", "_patches.h5", in_run=True, needed=True)
PATCH_LABELS = Kind("patch labels", "patch_labels", ".h5", in_run=True)


def features_of(encoder: str) -> Kind:
    """The kind of an encoder's feature files."""
    return Kind(f"features {encoder}", f"features_{encoder}", ".h5", in_run=True, encoder=encoder, needed=True)


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        level: `error` (it would spoil training) or `note`.
        kind: what it concerns, a row of the table, such as `patches`.
        slide: its name, or "" for the whole root.
        what: names the file, what was found and what to do.
    """

    level: str
    kind: str
    slide: str
    what: str


@dataclass
class Findings:
    """Collects findings."""

    found: list[Finding] = field(default_factory=list)

    def error(self, kind: Kind, slide: str, what: object) -> None:
        """Something that would spoil training."""
        self.found.append(Finding("error", kind.name, slide, str(what)))

    def note(self, kind: Kind, slide: str, what: object) -> None:
        """Something worth knowing."""
        self.found.append(Finding("note", kind.name, slide, str(what)))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)


@dataclass(frozen=True)
class Report:
    """What is in a data root: findings, and by kind how many files there are and for how many slides they lack."""

    findings: list[Finding]
    there: Mapping[str, int]
    missing: Mapping[str, int]

    @property
    def errors(self) -> list[Finding]:
        """What would spoil training."""
        return [f for f in self.findings if f.level == "error"]

    @property
    def notes(self) -> list[Finding]:
        """What is worth knowing."""
        return [f for f in self.findings if f.level == "note"]

    @property
    def spoiled(self) -> bool:
        """Whether anything would spoil training."""
        return bool(self.errors)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "spoiled": self.spoiled,
            "there": dict(self.there),
            "missing": dict(self.missing),
            "findings": [asdict(f) for f in self.findings],
        }


def format_report(report: Report, *, most: int = 30) -> str:
    """The report as plain text: a table of what is there, what is missing and what is wrong; then each finding.

    Args:
        report: of `check_root`.
        most: findings of each level that are shown.
    """
    kinds = list(report.there) + sorted({f.kind for f in report.findings} - set(report.there))
    width = max(map(len, kinds))
    lines = [f"{'':{width}}  there  missing  errors  notes"]
    for kind in kinds:
        there, missing = report.there.get(kind, 0), report.missing.get(kind, 0)
        errors, notes = (sum(f.kind == kind for f in group) for group in (report.errors, report.notes))
        lines.append(f"{kind:{width}}  {there:5}  {missing or '-':>7}  {errors or '-':>6}  {notes or '-':>5}")
    for heading, chosen in (("Would spoil training", report.errors), ("Notes", report.notes)):
        lines += ["", f"{heading}: {len(chosen)}"] + [f"  {f.what}" for f in chosen[:most]]
        if len(chosen) > most:
            lines.append(f"  … and {len(chosen) - most} more; --json shows all")
    return "\n".join(lines)
