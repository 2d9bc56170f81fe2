"""The patches and features of one slide file, made as those of the training slides were, or found in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mil_tutorial.asking.trained import TrainedModel
from mil_tutorial.devices import pick_device
from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.remote import place, stem
from mil_tutorial.slides.coordinates import locate_patches
from mil_tutorial.slides.encoders import PatchEncoder, load_encoder
from mil_tutorial.slides.options import Note, PrepareOptions
from mil_tutorial.slides.prepare import encode_patches, features_file
from mil_tutorial.slides.reading import open_slide, stated_mpp
from mil_tutorial.trident import Patches, match_rows, read_features, read_patches, run_folder


@dataclass(frozen=True)
class SlideFeatures:
    """One slide as a model takes it.

    Attributes:
        slide: its path or address.
        patches: its patches.
        X: float32 (n, D) features.
        mpp: µm per pixel at level 0, None if nothing says it.
        encoder: name of the features.
    """

    slide: Path | str
    patches: Patches
    X: np.ndarray
    mpp: float | None
    encoder: str


def prepare_options(models: Sequence[TrainedModel]) -> PrepareOptions:
    """How the training slides were prepared, as the checkpoints say it, so that this slide is prepared alike.

    Raises:
        DataError: they want different features or patches, so that one slide cannot be put to all of them.
    """
    wanted: list[dict[str, Any]] = []
    for model in models:
        known = {} if model.known is None else {**model.known.patches, "dtype": model.known.dtype}
        names = {f.name for f in fields(PrepareOptions)}
        wanted.append({"encoder": model.encoder, **{k: v for k, v in known.items() if k in names}})
    for other in wanted[1:]:
        for key in sorted(set(other) & set(wanted[0])):
            if other[key] != wanted[0][key]:
                raise DataError(
                    f"the checkpoints want different {key}: {wanted[0][key]} and {other[key]}."
                    " Ask them one after the other."
                )
    return PrepareOptions(**{k: v for k, v in wanted[0].items() if k != "encoder"})


def check_slide(slide: str | os.PathLike[str]) -> Path | str:
    """The slide's path or address; what is no file is told apart from what is not there.

    Raises:
        DataError: it is a folder, or an empty file.
    """
    path = place(slide)
    if isinstance(path, Path) and path.is_dir():
        raise DataError(f"{path}: is a folder, expected a slide file. Name the slides in it one by one.")
    if isinstance(path, Path) and path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: is empty: 0 bytes. Copy the slide again.")
    return path


def make_features(
    slide: Path | str,
    job_dir: Path,
    encoder: str,
    options: PrepareOptions,
    *,
    mpp: float | None,
    device: str | torch.device | None,
    note: Callable[[Note], object],
    progress: bool,
) -> SlideFeatures:
    """Find the tissue, cut patches and encode them; what is in `job_dir` already and fits is taken.

    Raises:
        DataError: the slide cannot be read or has no tissue, or the encoder cannot be run here.
    """
    chosen = pick_device(device)
    network = _encoder(encoder, str(chosen))  # first: that it cannot be had need not wait for the tissue
    patches = locate_patches(slide, job_dir, options, mpp=mpp, note=note)
    if not len(patches.coords):
        raise DataError(
            f"{slide}: no tissue found, so there is nothing to ask about. Check that it is a stained slide."
        )
    target = features_file(slide, job_dir, options, network)
    encode_patches(slide, patches, target, network, dtype=options.dtype, device=chosen, progress=progress, note=note)
    X, _ = read_features(target, coords=False)
    with open_slide(slide) as opened:
        size = mpp or stated_mpp(opened)
    return SlideFeatures(slide, patches, X.astype(np.float32, copy=False), size, encoder)


@lru_cache(1)
def _encoder(name: str, device: str) -> PatchEncoder:
    """The encoder, loaded once for all slides. Its folder's name has no colon; timm's own name has."""
    try:
        return load_encoder(name.replace("timm_", "timm:", 1) if name.startswith("timm_") else name, device=device)
    except ParameterError as error:
        raise DataError(
            f"the checkpoint takes features of {name}, which cannot be computed here. Make them with TRIDENT and name"
            " its run folder in features."
        ) from error


def find_features(
    slide: Path | str, folder: str | os.PathLike[str], encoder: str, options: PrepareOptions, *, mpp: float | None
) -> SlideFeatures:
    """The features that TRIDENT or `mil-tutorial prepare` wrote for a slide.

    Args:
        slide: the slide.
        folder: TRIDENT's run folder, its job folder, or the folder `features_<encoder>`.
        encoder: whose features.
        options: name the run in a job folder.
        mpp: µm per pixel, in place of what the slide says.

    Raises:
        DataError: none are there, or they belong to another slide.
    """
    run = _run_of(Path(folder), encoder, options)
    name = stem(slide)
    file = run / f"features_{encoder}" / f"{name}.h5"
    if not file.is_file():
        raise DataError(f"{file}: there are no features of this slide. Make them, or leave features out.")
    patches = read_patches(run / "patches" / f"{name}_patches.h5")
    X, coords = read_features(file)
    order = match_rows(file, coords, len(X), patches)
    if not len(X):
        raise DataError(f"{file}: holds no patch, so there is nothing to ask about. Check the slide's tissue.")
    with open_slide(slide) as opened:
        grid, size = patches.geometry, opened.dimensions
        if size != (grid.width, grid.height):
            raise DataError(
                f"{file}: belongs to a slide of {grid.width} x {grid.height} pixels, {slide} has {size[0]} x {size[1]}."
                " Make the features again."
            )
        used = mpp or stated_mpp(opened)
    return SlideFeatures(slide, patches, (X if order is None else X[order]).astype(np.float32), used, encoder)


def _run_of(folder: Path, encoder: str, options: PrepareOptions) -> Path:
    """The run folder that holds features of this encoder."""
    usual = run_folder(folder, options.mag, options.patch_size, options.overlap)
    runs = [folder.parent] if folder.name == f"features_{encoder}" else [folder, usual]
    for run in runs:
        if (run / f"features_{encoder}").is_dir():
            return run
    others = sorted(p.name for p in folder.glob("features_*")) if folder.is_dir() else []
    found = f"there are {', '.join(others)}" if others else "there are no features"
    raise DataError(
        f"{folder}: {found}, the checkpoint takes those of {encoder}. Name TRIDENT's run folder that holds"
        f" features_{encoder}, or a checkpoint of these features."
    )
