"""The first half of preparing a slide: its tissue, the grid on it, and the file of the patches' corners."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openslide

from mil_tutorial.errors import DataError, refuse_other
from mil_tutorial.geometry import Geometry, is_objective_mpp, nominal_magnification
from mil_tutorial.hdf5 import DamagedFile
from mil_tutorial.remote import digest_of, place, stem
from mil_tutorial.slides.options import Note, PrepareOptions, warn
from mil_tutorial.slides.reading import open_slide, read_overview, slide_mpp, stated_mpp
from mil_tutorial.slides.thumbnails import write_thumbnails
from mil_tutorial.slides.tissue import TISSUE_MPP, segment_tissue, tissue_fraction
from mil_tutorial.trident import Patches, read_how, read_patches, run_folder, write_patches

SEGMENTER = "otsu"

SAME_MPP = 0.02  # relative difference up to which two values of µm per pixel are the same

REMEDY = "Choose another job_dir, or delete the run folder."


def resolve_mpp(
    slide: openslide.AbstractSlide,
    path: Path | str,
    options: PrepareOptions,
    *,
    mpp: float | None,
    note: Callable[[Note], object],
) -> float:
    """µm per pixel at level 0: `mpp` of this slide, else what its file says, else `options.mpp`.

    Raises:
        DataError: none of them says it, or no objective has such pixels.
    """
    stated = stated_mpp(slide)
    value = slide_mpp(slide, path, options.mpp) if mpp is None else float(mpp)
    if not is_objective_mpp(value):
        raise DataError(
            f"{path}: its pixels are {value:g} µm wide, which no objective gives (0.05 to 2.4 µm)."
            " If it is an overview or a label image, move it elsewhere; if it is a slide, give the right mpp for it."
        )
    other = mpp or options.mpp
    if stated and other and abs(stated / other - 1) > SAME_MPP:
        if mpp is None:
            text = (
                f"{path}: says {stated:g} µm per pixel, which is used; mpp {other:g} is for slides that do not say it."
            )
            note(Note(text, "say their own µm per pixel, which is used"))
        else:
            text = f"{path}: says {stated:g} µm per pixel; the {other:g} given for this slide is used."
            note(Note(text, "say another value than the one given for them, which is used"))
    return value


def find_patches(
    slide: openslide.AbstractSlide, path: Path | str, options: PrepareOptions, *, mpp: float
) -> tuple[Patches, np.ndarray]:
    """Tissue and grid of one slide of `mpp` µm per pixel.

    Returns:
        The patches, none on a slide without tissue, and the tissue mask uint8 (h, w).

    Raises:
        DataError: the slide has less magnification than asked for, or is damaged.
    """
    (width, height), level0 = slide.dimensions, nominal_magnification(mpp)
    if options.mag > level0:
        raise DataError(
            f"{path}: the slide is {level0:g}x ({mpp:g} µm per pixel), patches at {options.mag:g}x were asked for."
            f" Ask for a mag of at most {level0:g}."
        )
    geometry = Geometry.for_slide(
        mpp=mpp,
        width=width,
        height=height,
        magnification=options.mag,
        patch_size=options.patch_size,
        overlap=options.overlap,
    )
    tissue = segment_tissue(read_overview(slide, TISSUE_MPP / mpp, path))
    grid, least = geometry.grid(), options.min_tissue_proportion
    factor = (width / tissue.shape[1], height / tissue.shape[0])
    fraction = tissue_fraction(tissue, grid, geometry.patch_size_level0, factor)
    keep = fraction >= least if least > 0 else fraction > 0
    return Patches(stem(path), grid[keep], geometry), tissue


def made_how(
    slide: openslide.AbstractSlide, path: Path | str, options: PrepareOptions, *, mpp: float
) -> dict[str, object]:
    """What a coordinate file remembers beside its grid: written with it, and compared when it is there already."""
    how = {
        "segmenter": SEGMENTER,
        "min_tissue_proportion": float(options.min_tissue_proportion),
        "mpp": mpp,
        "slide_hash": slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1),
        "slide_digest": digest_of(path),
    }
    return {key: value for key, value in how.items() if value is not None}  # a far slide has no hash of OpenSlide's


def refuse_other_how(target: Path, how: Mapping[str, object]) -> None:
    """What is there must have been made from this slide in this way; TRIDENT's own files do not say."""
    before = read_how(target, how)
    if any(before[k] != how[k] for k in ("slide_hash", "slide_digest") if k in how and k in before):
        raise DataError(
            f"{target}: was made from another slide of this name. Delete it and what was made from it,"
            " or choose another job_dir."
        )
    refuse_other(target, before, how, REMEDY)


def tell_damage(target: Path, damage: DamagedFile | None, note: Callable[[Note], object]) -> None:
    """Say that a damaged file has been made again; without damage, nothing."""
    if damage is not None:
        note(Note(f"{target}: was damaged ({damage.__cause__!s:.120}) and has been made again."))


def locate_patches(
    path: str | os.PathLike[str],
    job_dir: str | os.PathLike[str],
    options: PrepareOptions,
    *,
    mpp: float | None = None,
    note: Callable[[Note], object] = warn,
) -> Patches:
    """Find the patches of one slide and write coordinates, thumbnail and outlines; take the coordinates that are there.

    Args:
        path, job_dir, options, mpp, note: as `prepare_slide`.

    Raises:
        DataError: the slide cannot be read, its µm per pixel are not known, or what is there was made otherwise.
    """
    path, job_dir, damage = place(path), Path(job_dir), None
    run = run_folder(job_dir, options.mag, options.patch_size, options.overlap)
    target = run / "patches" / f"{stem(path)}_patches.h5"
    with open_slide(path) as slide:
        used = resolve_mpp(slide, path, options, mpp=mpp, note=note)
        how = made_how(slide, path, options, mpp=used)
        if target.exists():
            try:
                return _known_patches(target, path, slide.dimensions, how)
            except DamagedFile as error:
                damage = error
        patches, tissue = find_patches(slide, path, options, mpp=used)
        write_thumbnails(slide, patches, tissue, job_dir=job_dir, run=run)
    write_patches(target, patches.coords, patches.geometry, **how)
    tell_damage(target, damage, note)
    return patches


def _known_patches(target: Path, path: Path | str, size: tuple[int, int], how: Mapping[str, object]) -> Patches:
    refuse_other_how(target, how)
    patches = read_patches(target)
    if size != (patches.geometry.width, patches.geometry.height):
        raise DataError(
            f"{target}: belongs to a slide of {patches.geometry.width} x {patches.geometry.height} pixels, {path} has"
            f" {size[0]} x {size[1]}. Delete it and what was made from it."
        )
    return patches
