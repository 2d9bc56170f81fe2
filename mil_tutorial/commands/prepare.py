"""Prepare a folder of slides, here or on a cluster; the work on one slide is `slides.prepare`."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from mil_tutorial.commands.common import SCHEDULER, Notes, asked
from mil_tutorial.commands.engine import refuse_failures, run_tasks
from mil_tutorial.commands.record import Record
from mil_tutorial.errors import DataError, Found, ParameterError
from mil_tutorial.slides.coordinates import SEGMENTER, locate_patches
from mil_tutorial.slides.options import Note, PrepareOptions
from mil_tutorial.slides.prepare import encode_patches, features_file, prepare_slide
from mil_tutorial.slides.reading import SLIDE_SUFFIXES
from mil_tutorial.tables import read_mpp_table
from mil_tutorial.trident import run_folder

if TYPE_CHECKING:  # slow to import: not before there is work
    import torch

    from mil_tutorial.slides.encoders import PatchEncoder


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    usual = PrepareOptions()
    p.add_argument("--wsi_dir", required=True, help="folder of slides")
    p.add_argument("--job_dir", required=True, help="TRIDENT job folder to write")
    p.add_argument("--mag", type=float, default=usual.mag, help="magnification of the patches")
    p.add_argument("--patch_size", type=int, default=usual.patch_size, help="side of a patch in pixels at --mag")
    p.add_argument("--overlap", type=int, default=usual.overlap, help="pixels that neighbours share at --mag")
    p.add_argument("--patch_encoder", default=usual.patch_encoder, help="efficientnet_lite0, or timm:<model>")
    p.add_argument("--segmenter", choices=[SEGMENTER], default=SEGMENTER, help="how tissue is found")
    p.add_argument(
        "--min_tissue_proportion",
        type=float,
        default=usual.min_tissue_proportion,
        help="least fraction of tissue in a patch; 0 keeps what touches tissue",
    )
    p.add_argument(
        "--remove_penmarks",
        action=argparse.BooleanOptionalAction,
        default=usual.remove_penmarks,
        help="green, blue, red and black pen is no tissue",
    )
    p.add_argument("--show_tissue", action="store_true", help="also draw what is tissue, pen and hole on each slide")
    p.add_argument("--mpp", type=float, help="µm per pixel at level 0, only for slides that do not say it")
    p.add_argument(
        "--mpp_csv",
        metavar="FILE",
        help="CSV with columns wsi, mpp: µm per pixel of single slides, in place of what they say",
    )
    p.add_argument("--dtype", choices=["float16", "float32"], default=usual.dtype, help="type of the features")
    p.add_argument("--scheduler", help=SCHEDULER)


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    chosen = PrepareOptions(
        mag=args.mag,
        patch_size=args.patch_size,
        overlap=args.overlap,
        patch_encoder=args.patch_encoder,
        min_tissue_proportion=args.min_tissue_proportion,
        remove_penmarks=args.remove_penmarks,
        show_tissue=args.show_tissue,
        mpp=args.mpp,
        dtype=args.dtype,
    )
    folder = run_folder(args.job_dir, args.mag, args.patch_size, args.overlap)
    inputs = [*find_slides(args.wsi_dir), *([args.mpp_csv] if args.mpp_csv else [])]
    with Record(folder, "prepare", asked(args), inputs):
        counts = prepare(args.wsi_dir, args.job_dir, chosen, mpp_csv=args.mpp_csv, scheduler=args.scheduler)
    print(f"{len(counts)} slides, {sum(counts.values())} patches; TRIDENT's layout in {Path(args.job_dir).resolve()}")
    return 0


def prepare(
    wsi_dir: str | os.PathLike[str],
    job_dir: str | os.PathLike[str],
    options: PrepareOptions = PrepareOptions(),
    *,
    mpp_csv: str | os.PathLike[str] | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Prepare all slides of a folder.

    A slide that fails does not stop the others; all failures are reported at the end. What is there and whole is kept;
    a file that was damaged after it was written is made again, and a line says so.

    Args:
        wsi_dir, job_dir: folder of the slides, TRIDENT's job folder.
        options: see `PrepareOptions`.
        mpp_csv: CSV with columns wsi, mpp: µm per pixel of single slides, in place of what they say.
        scheduler: of Dask, see `engine.run_tasks`; None works here and finds the tissue of the next slide meanwhile.
        progress: show a bar.

    Returns:
        Number of patches of each slide.

    Raises:
        DataError: no slides, an unusable `mpp_csv`, or some slides failed (the message names each).
    """
    slides = find_slides(wsi_dir)
    mpp = {} if mpp_csv is None else _read_mpp(mpp_csv, slides)
    tell = Notes()
    if scheduler is None:
        counts, errors = _prepare_here(slides, Path(job_dir), options, mpp, tell, progress)
    else:
        counts, errors = _prepare_there(slides, Path(job_dir), options, mpp, tell, scheduler, progress)
    tell.end()
    refuse_failures(_failures(slides, counts, errors), len(counts), len(slides))
    return counts


def find_slides(wsi_dir: str | os.PathLike[str]) -> list[Path]:
    """All slides of a folder, sorted by name.

    Raises:
        DataError: no such folder, no slide in it, or two slides of one name.
    """
    folder = Path(wsi_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder. Give the folder of your slides with --wsi_dir.")
    slides = sorted(p for p in folder.iterdir() if p.suffix.lower() in SLIDE_SUFFIXES and not p.name.startswith("."))
    if not slides:
        raise DataError(
            f"{folder}: no slides here. Expected files ending in {', '.join(SLIDE_SUFFIXES)}. Check --wsi_dir."
        )
    twice = sorted(name for name, n in Counter(p.stem for p in slides).items() if n > 1)
    if twice:
        raise DataError(
            f"{folder}: several slides have the name {', '.join(twice)}. Their results would overwrite each other."
            " Rename them."
        )
    return slides


def _read_mpp(path: str | os.PathLike[str], slides: Sequence[Path]) -> dict[str, float]:
    mpp, names = read_mpp_table(path), {p.stem for p in slides}
    unknown = [name for name in mpp if name not in names]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"{path}: names {', '.join(unknown[:5])}{more}, but {slides[0].parent} has no such slides."
            " Correct the names or delete the lines."
        )
    return mpp


def _prepare_here(
    slides: Sequence[Path],
    job_dir: Path,
    options: PrepareOptions,
    mpp: Mapping[str, float],
    tell: Callable[[Note], None],
    progress: bool,
) -> tuple[dict[str, int], dict[str, str]]:
    """One slide after the other; while one is encoded, the tissue of the next is found."""
    encoder, device = shared_encoder(options.patch_encoder)
    counts, errors = {}, {}
    with ThreadPoolExecutor(1) as pool, tqdm(slides, desc="Preparing", unit="slide", disable=not progress) as bar:

        def locate(path: Path) -> Callable:
            return pool.submit(locate_patches, path, job_dir, options, mpp=mpp.get(path.stem), note=tell).result

        ahead = locate(slides[0])
        for path, following in zip(bar, [*slides[1:], None], strict=True):
            bar.set_postfix_str(path.stem)
            located = ahead
            if following is not None:
                ahead = locate(following)
            try:
                patches = located()
                target = features_file(path, job_dir, options, encoder)
                encode_patches(
                    path,
                    patches,
                    target,
                    encoder,
                    dtype=options.dtype,
                    device=device,
                    progress=progress,
                    note=tell,
                )
                counts[path.stem] = len(patches.coords)
            except DataError as error:
                errors[path.stem] = str(error)
    return counts, errors


def _prepare_there(
    slides: Sequence[Path],
    job_dir: Path,
    options: PrepareOptions,
    mpp: Mapping[str, float],
    tell: Callable[[Note], None],
    scheduler: str,
    progress: bool,
) -> tuple[dict[str, int], dict[str, str]]:
    """On the workers of a cluster."""
    folder = str(job_dir.resolve())
    tasks = {p.stem: (str(p.resolve()), folder, options, mpp.get(p.stem)) for p in slides}
    results, errors = run_tasks(
        prepare_on_worker, tasks, scheduler=scheduler, what="Preparing", unit="slide", progress=progress
    )
    for _, notes in results.values():
        for note in notes:
            tell(note)
    return {name: n for name, (n, _) in results.items()}, errors


def prepare_on_worker(
    path: str, job_dir: str, options: PrepareOptions, mpp: float | None = None
) -> tuple[int, list[Note]]:
    """A task of `engine.run_tasks`: `prepare_slide` with the process's own encoder. Number of patches, and notes."""
    encoder, device = shared_encoder(options.patch_encoder)
    notes: list[Note] = []
    try:
        n, _ = prepare_slide(path, job_dir, options, encoder, device=device, mpp=mpp, note=notes.append)
    except DataError as error:  # it is all that travels: what was made again must not be lost with it
        raise DataError(" ".join([str(error), *(note.text for note in notes if not note.kind)])) from error
    return n, notes


@lru_cache(1)
def shared_encoder(name: str) -> tuple[PatchEncoder, torch.device]:
    """The encoder and its device, loaded once in a process."""
    from mil_tutorial.devices import pick_device
    from mil_tutorial.slides.encoders import load_encoder

    device = pick_device()
    try:
        return load_encoder(name, device=device), device
    except ParameterError as error:
        raise ParameterError("patch_encoder", Found(error.found), error.expected) from error


def _failures(slides: Sequence[Path], counts: Mapping[str, int], errors: Mapping[str, str]) -> list[str]:
    """A line for each way to fail, slides without tissue among them; it names the slides that failed in this way."""
    ways: dict[str, list[tuple[str, Path]]] = {}
    for path in slides:
        text = errors.get(path.stem, "")
        if counts.get(path.stem) == 0:
            text = f"{path}: no tissue found. It is written as an empty slide; leave it out of train.csv and test.csv."
        start = next((f"{p}: " for p in (path, path.resolve()) if text.startswith(f"{p}: ")), "")
        if text:
            ways.setdefault(text.removeprefix(start), []).append((start, path))
    lines = []
    for sentence, ((start, _), *others) in ways.items():
        same = f" The same holds for {', '.join(path.name for _, path in others)}." if others else ""
        lines.append(f"{start}{sentence}{same}")
    return lines
