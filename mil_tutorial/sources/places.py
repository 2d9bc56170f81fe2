"""What is known of shared patches: which files are a slide's, where its patches lie, how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil_tutorial.errors import DataError, Found, require, require_integer, require_number
from mil_tutorial.geometry import Geometry, grid_step, is_objective_mpp, nominal_magnification
from mil_tutorial.slides.options import require_mpp
from mil_tutorial.slides.reading import open_slide, stated_mpp
from mil_tutorial.sources.files import first_with, read_attributes, read_corners

COORDS = "_coords"  # ends the name of a file of coordinates beside the features


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What is known of shared features beside their files; what the files say themselves need not be given.

    Attributes:
        encoder: name of the encoder; its features go to the folder `features_<encoder>`.
        magnification: of the patches as the encoder saw them, such as 20.
        level0_magnification: of the slides at level 0; or
        mpp: µm per pixel of the slides at level 0, of which it follows.
        patch_size_level0: side of a patch in level-0 pixels.
        overlap: pixels that neighbours share, at `magnification`.
    """

    encoder: str
    magnification: float | None = None
    level0_magnification: float | None = None
    mpp: float | None = None
    patch_size_level0: int | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        plain = isinstance(self.encoder, str) and self.encoder.strip() != "" and not {"/", "\\"} & set(self.encoder)
        require(plain, "encoder", self.encoder, "a name that can be part of a folder's, such as uni")
        for name in ("magnification", "level0_magnification"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), low=0.1, high=100)
        if self.mpp is not None:
            require_mpp(self.mpp)
            found = Found(f"{self.mpp:g}, which is {self.level0:g}x, and another level0_magnification")
            require(self.level0_magnification in (None, self.level0), "mpp", found, "one of the two")
        if self.patch_size_level0 is not None:
            require_integer("patch_size_level0", self.patch_size_level0, low=1)
        require_integer("overlap", self.overlap, low=0)

    @property
    def level0(self) -> float | None:
        """Magnification of level 0, if it was given."""
        return self.level0_magnification if self.mpp is None else nominal_magnification(self.mpp)


@dataclass(frozen=True)
class SharedSlide:
    """The files of one slide.

    Attributes:
        name: of the slide.
        features, coords: files that may hold them, best first.
        slide: the slide itself, if its folder was given.
    """

    name: str
    features: tuple[Path, ...]
    coords: tuple[Path, ...]
    slide: Path | None = None


def find_corners(shared: SharedSlide, features: Path) -> tuple[Path, np.ndarray, dict[str, Any]]:
    """The file of a slide's coordinates, the coordinates, and what this and the feature file say of them."""
    beside = first_with(shared.coords, "coords")
    source = features if features.suffix == ".h5" and first_with([features], "coords") else beside
    if source is None:
        raise DataError(
            f"{features}: no coordinates for slide {shared.name}: none inside, no {shared.name}{COORDS}.npy beside it,"
            f" no patches/{shared.name}.h5. Give their folder as coords; without them no patch has a place."
        )
    says: dict[str, Any] = {}
    for path in dict.fromkeys([source, *shared.coords, features]):  # what the first one says counts
        says = read_attributes(path) | says
    corners = read_corners(source)
    if not len(corners) or corners.min() < 0:
        what = "has no patches" if not len(corners) else "has coordinates below 0"
        raise DataError(f"{source}: {what}. Leave slide {shared.name} out.")
    return source, corners, says


def find_geometry(
    shared: SharedSlide, source: Path, corners: np.ndarray, says: Mapping[str, Any], options: ImportOptions
) -> tuple[Geometry, bool]:
    """The patches' geometry, and whether the slide's size is a guess from the outermost corners."""
    size, level0 = _slide_facts(shared, source, says, options)
    side, down = _side(source, says, options), _downsample(says)
    target = options.magnification or says.get("target_magnification", level0 / down if down else None)
    if target is None:
        raise DataError(f"{source}: does not say at which magnification patches were seen. Give magnification.")
    px = round(side * float(target) / level0)
    if not px or abs(px * level0 / float(target) - side) > 1:
        raise DataError(
            f"{source}: {side} level-0 pixels at {level0:g}x are {side * float(target) / level0:g} pixels at"
            f" {float(target):g}x, expected a whole number. Correct the magnifications or patch_size_level0."
        )
    guessed = size is None
    width, height = (corners.max(0) + side).tolist() if size is None else size
    if (corners >= (width, height)).any():
        raise DataError(
            f"{source}: patches lie outside the slide of {width} x {height} pixels. Expected corners in level-0 pixels"
            f" of {shared.name}."
        )
    geometry = Geometry(px, options.overlap, float(target), level0, width, height, side)
    step = grid_step(corners, side)
    if len(corners) > 20 and abs(step - geometry.step_level0) > 1:
        share = round((side - step) * float(target) / level0)
        raise DataError(f"{source}: patches lie {step} level-0 pixels apart. Give overlap {share}.")
    return geometry, guessed


def _downsample(says: Mapping[str, Any]) -> float | None:
    """Level-0 pixels of a pixel of the level that CLAM's patches were read from, if the file says it."""
    if "downsample" in says:
        return float(np.ravel(says["downsample"])[0])
    return 1.0 if says.get("patch_level") == 0 else None


def _side(source: Path, says: Mapping[str, Any], options: ImportOptions) -> int:
    """Side of a patch in level-0 pixels."""
    down, given = _downsample(says), options.patch_size_level0
    side = says.get("patch_size_level0", says["patch_size"] * down if down and "patch_size" in says else given)
    if side is None:
        raise DataError(f"{source}: does not say how large a patch is. Give patch_size_level0, in level-0 pixels.")
    side = round(float(side))
    if given not in (None, side):
        raise DataError(f"{source}: says {side} level-0 pixels for a patch, but patch_size_level0 {given} was given.")
    return side


def _slide_facts(
    shared: SharedSlide, source: Path, says: Mapping[str, Any], options: ImportOptions
) -> tuple[tuple[int, int] | None, float]:
    """Width and height at level 0, None if nobody knows, and the magnification there."""
    size, level0 = None, options.level0 or says.get("level0_magnification")
    if "level0_width" in says and "level0_height" in says:
        size = int(says["level0_width"]), int(says["level0_height"])
    elif "level_dim" in says and _downsample(says) == 1:
        size = int(says["level_dim"][0]), int(says["level_dim"][1])
    if shared.slide is not None:
        with open_slide(shared.slide) as slide:
            size, mpp = slide.dimensions, stated_mpp(slide)
        stated = nominal_magnification(mpp) if mpp and is_objective_mpp(mpp) else None
        if stated and level0 and stated != level0:
            raise DataError(f"{shared.slide}: is {stated:g}x ({mpp:g} µm per pixel), level0_magnification {level0:g}.")
        level0 = level0 or stated
    if level0 is None:
        raise DataError(
            f"{source}: does not say the slide's magnification. Give level0_magnification or mpp, or the folder of"
            " slides."
        )
    return size, float(level0)
