"""Features that others have made and shared, one file a slide, into TRIDENT's layout.

Read are CLAM's folders (`h5_files/<slide>.h5`, `pt_files/<slide>.pt`, coordinates also in `patches/<slide>.h5`) and
`<slide>.npy` with `<slide>_coords.npy`. Coordinates are corners x, y in level-0 pixels, as CLAM writes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.files import digest
from mil_tutorial.hdf5 import DamagedFile
from mil_tutorial.slides.coordinates import tell_damage
from mil_tutorial.slides.options import Note, warn
from mil_tutorial.slides.reading import SLIDE_SUFFIXES
from mil_tutorial.sources.files import first_with, read_values
from mil_tutorial.sources.places import COORDS, ImportOptions, SharedSlide, find_corners, find_geometry
from mil_tutorial.trident import (
    Patches,
    compare_features,
    features_header,
    match_rows,
    new_features,
    read_how,
    read_patches,
    run_folder,
    write_patches,
)

REMEDY = "Nothing was overwritten. Choose another root, or delete it and what was made from it."


@dataclass(frozen=True)
class Imported:
    """One imported slide: its run folder, number of patches, feature size, and whether it was written now."""

    run: Path
    patches: int
    dim: int
    new: bool


def find_shared(
    folder: str | os.PathLike[str],
    *,
    coords: str | os.PathLike[str] | None = None,
    slides: str | os.PathLike[str] | None = None,
) -> list[SharedSlide]:
    """The slides of a shared folder, by name.

    Args:
        folder: holds `h5_files` or `pt_files`, or the files themselves: .h5, .pt or .npy.
        coords: folder of coordinates, where they are not beside the features.
        slides: folder of the slides, which know their size and magnification.

    Raises:
        DataError: no such folder, or no features in it.
    """
    folder = Path(folder)
    for place in (folder, coords, slides):
        if place is not None and not Path(place).is_dir():
            raise DataError(f"{place}: there is no such folder. Check the path.")
    by_name: dict[str, list[Path]] = {}
    for inside, ending in (("h5_files", ".h5"), (".", ".h5"), ("pt_files", ".pt"), (".", ".pt"), (".", ".npy")):
        for path in sorted((folder / inside).glob(f"[!.]*{ending}")):
            if not path.stem.endswith((COORDS, "_patches")):
                by_name.setdefault(path.stem, []).append(path)
    if not by_name:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{folder}: no features here, found {there}. Expected CLAM's folders h5_files or pt_files, or files"
            " <slide>.h5, <slide>.pt or <slide>.npy."
        )
    beside = [Path(coords)] if coords else [folder, folder / "h5_files", folder / "patches", folder.parent / "patches"]
    found = []
    for name, files in sorted(by_name.items()):
        candidates = [place / f"{name}{end}" for place in beside for end in (f"{COORDS}.npy", ".h5", "_patches.h5")]
        candidates += [Path(coords) / f"{name}.npy"] if coords else []
        slide = None
        if slides is not None:  # where there is none, `import_slide` says so
            slide = slide_file(slides, name) or Path(slides) / name
        found.append(SharedSlide(name, tuple(files), tuple(p for p in candidates if p.is_file()), slide))
    return found


def slide_file(folder: str | os.PathLike[str], name: str) -> Path | None:
    """The slide of this name in a folder, None if there is none."""
    paths = (Path(folder) / f"{name}{ending}" for ending in SLIDE_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def import_slide(
    shared: SharedSlide,
    job_dir: str | os.PathLike[str],
    options: ImportOptions,
    *,
    like: Imported | None = None,
    note: Callable[[Note], object] = warn,
) -> Imported:
    """Write one slide's patches and features as TRIDENT does; what is there and the same is kept.

    Args:
        shared: the slide, from `find_shared`.
        job_dir: TRIDENT's job folder to write to, such as `<root>/trident_processed`.
        options: see `ImportOptions`.
        like: another slide of the set, whose run folder and feature size this one must share.
        note: is told what stops nothing, such as a size that is a guess; by default a warning.

    Raises:
        DataError: coordinates or geometry are missing, the features are not finite floats, a row for each patch, or
            other files are there already. The message names the file.
    """
    path = first_with(shared.features, "features")
    if path is None:
        raise DataError(f"{shared.features[0]}: has no dataset 'features', and there is no {shared.name}.pt or .npy.")
    source, corners, says = find_corners(shared, path)
    geometry, guessed = find_geometry(shared, source, corners, says, options)
    run = run_folder(job_dir, geometry.target_magnification, geometry.patch_size, geometry.overlap)
    if like is not None and like.run != run:
        raise DataError(f"{source}: its patches belong to {run.name}, others' to {like.run.name}. Import them apart.")
    patches, how = Patches(shared.name, corners, geometry), {"source": path.name, "source_digest": digest(path)}
    target, damage = run / f"features_{options.encoder}" / f"{shared.name}.h5", None
    if target.exists():
        try:
            dim = _known_dim(target, patches, how)
            return Imported(run, len(corners), _same_dim(path, dim, like), _put_patches(run, patches, guessed, note))
        except DamagedFile as error:
            damage = error
    features = read_values(path)
    if len(features) != len(corners):
        raise DataError(f"{path}: {len(features)} rows of features, but {len(corners)} coordinates in {source}.")
    dim = _same_dim(path, features.shape[1], like)
    _put_patches(run, patches, guessed, note)
    with new_features(target, patches, options.encoder, dim=dim, dtype=features.dtype) as dataset:
        dataset[:] = features
        dataset.attrs.update(how)
    tell_damage(target, damage, note)
    return Imported(run, len(corners), dim, True)


def _same_dim(path: Path, dim: int, like: Imported | None) -> int:
    if like is not None and like.dim != dim:
        raise DataError(f"{path}: {dim} features for each patch, others have {like.dim}. Use one encoder for all.")
    return dim


def _known_dim(target: Path, patches: Patches, how: Mapping[str, str]) -> int:
    """Feature size of a file that is there and was made from the same: it stays."""
    (n, dim), _, coords = features_header(target)
    if read_how(target, how).get("source_digest") != how["source_digest"]:
        raise DataError(f"{target}: is there, made from something else than {how['source']}. {REMEDY}")
    match_rows(target, coords, n, patches)
    compare_features(target)
    return dim


def _put_patches(run: Path, patches: Patches, guessed: bool, note: Callable[[Note], object]) -> bool:
    """Write the patches, unless the same are there; whether they were written. A size that was a guess is corrected."""
    target, geometry, damage = run / "patches" / f"{patches.name}_patches.h5", patches.geometry, None
    if target.exists():
        try:
            there, guess = read_patches(target), bool(read_how(target, ["size_guessed"]))
            size = {"width": there.geometry.width, "height": there.geometry.height}
            expected = replace(geometry, **size) if guessed or guess else geometry
            ours, theirs = (c[np.lexsort(c.T)] for c in (patches.coords, there.coords))
            if there.geometry != expected or not np.array_equal(ours, theirs):
                raise DataError(f"{target}: is there, of other patches or another geometry. {REMEDY}")
            if guess and not guessed:
                write_patches(target, there.coords, geometry)
            return guess and not guessed
        except DamagedFile as error:
            damage = error
    if guessed:
        text = f"{target}: the slide's size is not known; {geometry.width} x {geometry.height} px is where patches end."
        note(
            Note(
                f"{text} Import again with the folder of slides to have it right.",
                "have a guessed size",
            )
        )
    write_patches(target, patches.coords, geometry, size_guessed=guessed or None)
    tell_damage(target, damage, note)
    return True
