"""From one slide to its features, in TRIDENT's layout.

`prepare_slide` is a function of paths and options alone; what is there already is compared and kept. The command
`mil-tutorial prepare` calls it for a folder.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openslide
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError, refuse_other
from mil_tutorial.hdf5 import DamagedFile
from mil_tutorial.remote import digest_of, place, stem
from mil_tutorial.slides.coordinates import REMEDY, locate_patches, refuse_other_how, tell_damage
from mil_tutorial.slides.far import fetch_patches
from mil_tutorial.slides.options import Note, PrepareOptions, require_mpp, warn
from mil_tutorial.slides.reading import open_slide, read_patch
from mil_tutorial.trident import Patches, compare_features, features_header, match_rows, new_features, run_folder

if TYPE_CHECKING:  # slow to import: not before there is work
    import torch

    from mil_tutorial.slides.encoders import PatchEncoder

BATCH = 4  # patches at once on a CPU: larger batches leave the cache and the memory kept for them

GPU_BATCH = 64 * BATCH

FETCHED = 16 * BATCH  # patches whose tiles come at once, where a slide is far


def patch_batches(
    slide: openslide.AbstractSlide, path: Path | str, patches: Patches, *, px: int, size: int, ahead: bool = False
) -> Iterator[np.ndarray]:
    """Images of the patches in batches, uint8 (<= size, px, px, 3).

    They are read ahead of the encoder if there are threads for it; with `ahead` always, so that a GPU never waits.
    """
    import torch

    coords, side = patches.coords, patches.geometry.patch_size_level0

    def read(start: int) -> np.ndarray:
        if start % max(size, FETCHED) == 0:
            fetch_patches(slide, coords[start : start + max(size, FETCHED)], side, px)
        return np.stack([read_patch(slide, x, y, side, px, path) for x, y in coords[start : start + size].tolist()])

    starts = iter(range(0, len(coords), size))
    readers = max(torch.get_num_threads() // 2, int(ahead))
    if readers == 0:  # a worker with one thread keeps to one core: while it reads, others encode
        yield from map(read, starts)
        return
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[Future] = deque(pool.submit(read, start) for start in islice(starts, readers + 1))
        while waiting:
            batch = waiting.popleft().result()
            if (start := next(starts, None)) is not None:
                waiting.append(pool.submit(read, start))
            yield batch


def encode_patches(
    path: str | os.PathLike[str],
    patches: Patches,
    target: str | os.PathLike[str],
    encoder: PatchEncoder,
    *,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    progress: bool = True,
    note: Callable[[Note], object] = warn,
) -> bool:
    """Write the features of a slide's patches, batch by batch.

    Args:
        path, patches: the slide and its patches.
        target: the feature file.
        encoder: a `PatchEncoder`.
        dtype, device, note: as `PrepareOptions` and `prepare_slide`.
        progress: show a bar.

    Returns:
        False if they are there and fit.

    Raises:
        DataError: the slide is damaged, or features that are there do not fit.
    """
    path, target, damage = place(path), Path(target), None
    made_from = {"slide_digest": digest_of(path)}
    if target.exists():
        try:
            _compare_features(target, patches, dtype, made_from)
            return False
        except DamagedFile as error:
            damage = error
    on_cpu = str(device) == "cpu"
    with (
        open_slide(path) as slide,
        new_features(target, patches, encoder.name, dim=encoder.dim, dtype=dtype) as features,
        tqdm(
            total=len(patches.coords),
            desc=f"  {patches.name}",
            unit="patch",
            leave=False,
            delay=2,
            disable=not progress,
        ) as bar,
    ):
        size, done = BATCH if on_cpu else GPU_BATCH, 0
        for batch in patch_batches(slide, path, patches, px=encoder.px, size=size, ahead=not on_cpu):
            features[done : done + len(batch)] = encoder.encode(batch, device)
            done += len(batch)
            bar.update(len(batch))
        if digest_of(path) != made_from["slide_digest"]:
            raise DataError(f"{path}: was replaced while it was read. Run it again.")
        features.attrs.update(made_from)
    tell_damage(target, damage, note)
    return True


def _compare_features(target: Path, patches: Patches, dtype: str, made_from: Mapping[str, object]) -> None:
    """What is there must be this slide's features, of this type, as they were written."""
    refuse_other_how(target, made_from)
    (n, _), known, coords = features_header(target)
    match_rows(target, coords, n, patches)
    if n:
        refuse_other(target, {"dtype": known.name}, {"dtype": dtype}, REMEDY)
    compare_features(target)


def features_file(
    path: str | os.PathLike[str], job_dir: str | os.PathLike[str], options: PrepareOptions, encoder: PatchEncoder
) -> Path:
    """Where the features of a slide go."""
    run = run_folder(job_dir, options.mag, options.patch_size, options.overlap)
    return run / f"features_{encoder.name}" / f"{stem(path)}.h5"


def prepare_slide(
    path: str | os.PathLike[str],
    job_dir: str | os.PathLike[str],
    options: PrepareOptions,
    encoder: PatchEncoder,
    *,
    device: str | torch.device = "cpu",
    mpp: float | None = None,
    note: Callable[[Note], object] = warn,
) -> tuple[int, bool]:
    """Prepare one slide: write thumbnail, contours, coordinates and features; what is there and whole is kept.

    Args:
        path: the slide.
        job_dir: TRIDENT's job folder.
        options: magnification, patches, tissue, type of the features.
        encoder: a `PatchEncoder`.
        device: `cpu` or `cuda`.
        mpp: µm per pixel of this slide at level 0, in place of what its file says.
        note: is told what stops nothing, such as a damaged file that has been made again; by default a warning.

    Returns:
        Number of patches, and whether features were computed now.

    Raises:
        DataError: the slide cannot be read, its µm per pixel are not known, or what is there already does not fit.
    """
    if mpp is not None:
        require_mpp(mpp)
    patches = locate_patches(path, job_dir, options, mpp=mpp, note=note)
    target = features_file(path, job_dir, options, encoder)
    return len(patches.coords), encode_patches(
        path, patches, target, encoder, dtype=options.dtype, device=device, note=note
    )
