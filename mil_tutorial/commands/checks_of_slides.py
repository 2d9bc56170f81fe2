"""What may be wrong with the files of one slide. Features are read piece by piece and never held as a whole.

Tiles of slides and masks are not decoded: a file that is cut short is noticed, a damaged tile inside it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openslide
import tifffile

from mil_tutorial.commands.findings import (
    ANNOTATIONS,
    MASKS,
    PATCH_LABELS,
    PATCHES,
    SLIDES,
    Findings,
    Kind,
)
from mil_tutorial.errors import DataError
from mil_tutorial.geometry import Geometry, nominal_magnification
from mil_tutorial.slides.annotations import read_asap_xml
from mil_tutorial.slides.reading import open_slide
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

TIFF_SUFFIXES = (".tif", ".tiff", ".svs")


@dataclass(frozen=True)
class SlideFiles:
    """A slide and its files.

    Attributes:
        name: of the slide.
        label: 1 tumour, 0 normal, None if it has none.
        used: whether it is in a split.
        files: those that are there, by kind.
    """

    name: str
    label: int | None
    used: bool
    files: Mapping[Kind, Path]


@dataclass
class SlideReport:
    """What was found in a slide's files.

    Attributes:
        findings: what is wrong.
        dims: feature size D by kind, where the features can be read.
    """

    findings: Findings = field(default_factory=Findings)
    dims: dict[Kind, int] = field(default_factory=dict)


def check_slide(slide: SlideFiles) -> SlideReport:
    """Check everything about one slide's files."""
    check = _SlideCheck(slide)
    for kind in sorted(slide.files, key=lambda k: k != PATCHES):  # the others are compared with the patches
        try:
            check.kind(kind, slide.files[kind])
        except DataError as error:
            check.report.findings.error(kind, slide.name, error)
    return check.report


class _SlideCheck:
    """The check of one slide: its patches, once they are read, and what was found so far."""

    def __init__(self, slide: SlideFiles):
        self.slide, self.report = slide, SlideReport()
        self.patches: Patches | None = None

    @property
    def geometry(self) -> Geometry | None:
        return self.patches.geometry if self.patches else None

    def error(self, kind: Kind, what: str) -> None:
        self.report.findings.error(kind, self.slide.name, f"{self.slide.files[kind]}: {what}")

    def note(self, kind: Kind, what: str) -> None:
        self.report.findings.note(kind, self.slide.name, f"{self.slide.files[kind]}: {what}")

    def kind(self, kind: Kind, path: Path) -> None:
        """Check one file; where the patches cannot be read, nothing is compared with them.

        Raises:
            DataError: it cannot be read.
        """
        if kind == PATCHES:
            self.patches = read_patches(path)
            self.check_patches(self.patches)
        elif kind.encoder and self.patches:
            self.check_features(kind, path, self.patches)
        elif kind == PATCH_LABELS and self.patches:
            self.check_labels(path, self.patches)
        elif kind in (SLIDES, MASKS):
            self.check_image(kind, path, self.geometry)
        elif kind == ANNOTATIONS:
            self.check_annotation(path, self.geometry)

    def check_patches(self, patches: Patches) -> None:
        geometry, coords = patches.geometry, patches.coords
        if not len(coords):
            tell = self.error if self.slide.used else self.note
            tell(PATCHES, "no patches, the slide has no tissue. Leave it out of train.csv and test.csv.")
        elif (coords < 0).any() or (coords >= (geometry.width, geometry.height)).any():
            size = f"{geometry.width} x {geometry.height} px"
            self.error(PATCHES, f"patches are outside the slide of {size}. Make them again.")
        side = geometry.patch_size_level0
        expected = geometry.patch_size * geometry.level0_magnification / geometry.target_magnification
        if abs(side - expected) > 1:
            says = f"patch_size_level0 is {side}, the magnifications say {expected:g}"
            self.error(PATCHES, f"{says}. Make the patches again.")
        if len(np.unique(coords, axis=0)) != len(coords):
            self.error(PATCHES, "some patches are there twice. Make them again.")

    def check_features(self, kind: Kind, path: Path, patches: Patches) -> None:
        (n, dim), _, coords = features_header(path)
        match_rows(path, coords, n, patches)
        self.report.dims[kind] = dim
        if bad := count_bad_features(path):
            self.error(kind, f"{bad} features are NaN or infinite. Make its features again.")

    def check_labels(self, path: Path, patches: Patches) -> None:
        labels = read_patch_labels(path, len(patches.coords))
        digest = read_how(path, ["coords_digest"]).get("coords_digest")
        if digest not in (None, coords_digest(patches.coords)):
            self.error(PATCH_LABELS, "was made for other patches. Delete it and run `mil-tutorial labels` again.")
        positive = int((labels == 1).sum())
        if self.slide.label == 1 and not positive:
            lost = "patch metrics cannot see its lesions"
            self.note(PATCH_LABELS, f"the slide is a tumour slide, but no patch is labelled tumour; {lost}.")
        if self.slide.label == 0 and positive:
            self.error(PATCH_LABELS, f"a normal slide with {positive} tumour patches. Check its label.")

    def check_image(self, kind: Kind, path: Path, geometry: Geometry | None) -> None:
        """A slide or a mask must open, be whole and have the size that the coordinates were made for."""
        _refuse_cut_short(path)
        with open_slide(path) as slide:
            (width, height), mpp = slide.dimensions, slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
        if geometry is None:
            return
        if (width, height) != (geometry.width, geometry.height):
            made_for = f"the coordinates were made for {geometry.width} x {geometry.height}"
            is_of = "One of them belongs to another slide."
            self.error(kind, f"is {width} x {height} pixels, {made_for}. {is_of}")
        if kind == SLIDES and mpp is not None:
            self.check_magnification(mpp, geometry)

    def check_magnification(self, mpp: str, geometry: Geometry) -> None:
        """The pixel size that the slide states must be that of its coordinates."""
        try:
            magnification = nominal_magnification(float(mpp))
        except ValueError as error:
            self.note(SLIDES, str(error))
            return
        if magnification != geometry.level0_magnification:
            is_at = f"{float(mpp):g} µm per pixel is {magnification:g}x"
            says = f"its coordinates say {geometry.level0_magnification:g}x"
            so = f"its patches of {geometry.patch_size_level0} px have the wrong size"
            self.error(SLIDES, f"{is_at}, {says}: {so}. Make them again with the right pixel size (--mpp).")

    def check_annotation(self, path: Path, geometry: Geometry | None) -> None:
        annotation = read_asap_xml(path)
        corners = np.concatenate([*annotation.tumor, np.empty((0, 2))])
        if geometry and ((corners < 0) | (corners > (geometry.width, geometry.height))).any():
            self.note(ANNOTATIONS, "some corners are outside the slide. Does the file belong to it?")
        if self.slide.label == 1 and not annotation.tumor:
            others = ", ".join(f"{n} x {what}" for what, n in annotation.ignored.items()) or "nothing else"
            self.note(ANNOTATIONS, f"a tumour slide without a tumour polygon; the file holds {others}.")


def _refuse_cut_short(path: Path) -> None:
    """A TIFF's tiles must be inside the file.

    Raises:
        DataError: some are beyond its end.
    """
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return
    try:
        with tifffile.TiffFile(path) as tiff:
            ends = (map(sum, zip(p.dataoffsets, p.databytecounts, strict=True)) for p in tiff.pages)
            end = max(max(page, default=0) for page in ends)
    except Exception as error:  # tifffile reports damage in many ways
        raise DataError(f"{path}: its table of contents cannot be read ({error!s:.120}). Copy it again.") from error
    size = path.stat().st_size
    if end > size:
        raise DataError(
            f"{path}: has {size:,} bytes, its table of contents expects {end:,}. It is cut short. Copy it again."
        )
