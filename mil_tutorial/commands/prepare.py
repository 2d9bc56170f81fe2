"""From a slide to features on a CPU: tissue, grid, patches, features, in TRIDENT's layout.

The work on one slide is `prepare_slide`, a function of paths and options alone. `prepare` calls it for a folder.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from tqdm.auto import tqdm

from mil_tutorial.commands.common import SCHEDULER, _options
from mil_tutorial.commands.engine import refuse_failures, run_tasks
from mil_tutorial.errors import DataError
from mil_tutorial.slides.prepare import PrepareOptions, _features_file, encode_patches, locate_patches, prepare_slide
from mil_tutorial.slides.reading import SLIDE_SUFFIXES


def find_slides(wsi_dir: str | os.PathLike) -> list[Path]:
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
    stems = [p.stem for p in slides]
    twice = sorted({s for s in stems if stems.count(s) > 1})
    if twice:
        raise DataError(
            f"{folder}: several slides are called {', '.join(twice)}. Their results would overwrite each other. Rename them."
        )
    return slides


def prepare(
    wsi_dir: str | os.PathLike,
    job_dir: str | os.PathLike,
    options: PrepareOptions = PrepareOptions(),
    progress: bool = True,
    scheduler: str | None = None,
) -> dict[str, int]:
    """Prepare all slides of a folder.

    A slide that fails does not stop the others; all failures are reported at the end.

    Args:
        wsi_dir, job_dir: folder of the slides, TRIDENT's job folder.
        options: see `PrepareOptions`.
        progress: show a bar.
        scheduler: of Dask, see `engine.run_tasks`; None works here and finds the tissue of the next slide meanwhile.

    Returns:
        Number of patches of each slide.

    Raises:
        DataError: no slides, or some slides failed (the message names each).
    """
    slides = find_slides(wsi_dir)
    if scheduler is not None:
        tasks = {p.stem: (str(p.resolve()), str(Path(job_dir).resolve()), options) for p in slides}
        counts, errors = run_tasks(prepare_on_worker, tasks, scheduler, "Preparing", progress=progress)
        return _report(slides, counts, errors)
    encoder, device = _encoder(options.patch_encoder)
    counts, errors = {}, {}
    # While one slide is encoded, the tissue of the next is found.
    with ThreadPoolExecutor(1) as pool, tqdm(slides, desc="Preparing", unit="slide", disable=not progress) as bar:
        ahead = pool.submit(locate_patches, slides[0], job_dir, options)
        for i, path in enumerate(bar):
            bar.set_postfix_str(path.stem)
            current = ahead
            if i + 1 < len(slides):
                ahead = pool.submit(locate_patches, slides[i + 1], job_dir, options)
            try:
                patches = current.result()
                target = _features_file(path, job_dir, options, encoder)
                encode_patches(path, patches, target, encoder, options.dtype, device, progress)
            except DataError as error:
                errors[path.stem] = str(error)
                continue
            counts[path.stem] = len(patches.coords)
    return _report(slides, counts, errors)


@lru_cache(1)
def _encoder(name: str):
    """The encoder and its device, loaded once in a process."""
    from mil_tutorial.devices import pick_device
    from mil_tutorial.slides.encoders import load_encoder

    device = pick_device()
    return load_encoder(name, device), device


def prepare_on_worker(path: str, job_dir: str, options: PrepareOptions) -> int:
    """`prepare_slide` with the process's own encoder: a task of `engine.run_tasks`. Returns the number of patches."""
    encoder, device = _encoder(options.patch_encoder)
    return prepare_slide(path, job_dir, options, encoder, device)[0]


def _report(slides: list[Path], counts: dict[str, int], errors: dict[str, str]) -> dict[str, int]:
    """The counts, or a `DataError` that names every slide that failed or is empty."""
    empty = {
        path.stem: f"{path}: no tissue found. It is written as an empty slide; leave it out of train.csv and test.csv."
        for path in slides if counts.get(path.stem) == 0
    }  # fmt: skip
    failures = [what[path.stem] for path in slides for what in (errors, empty) if path.stem in what]
    refuse_failures(failures, len(counts), len(slides))
    return counts


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--wsi_dir", required=True, help="folder of slides")
    p.add_argument("--job_dir", required=True, help="TRIDENT job folder to write")
    p.add_argument("--mag", type=float, default=20, help="magnification of the patches")
    p.add_argument("--patch_size", type=int, default=512, help="side of a patch in pixels at --mag")
    p.add_argument("--overlap", type=int, default=0, help="pixels that neighbours share at --mag")
    p.add_argument("--patch_encoder", default="efficientnet_lite0", help="efficientnet_lite0, or timm:<model>")
    p.add_argument("--segmenter", choices=["otsu"], default="otsu", help="how tissue is found")
    p.add_argument(
        "--min_tissue_proportion", type=float, default=0.0, help="least share of tissue; 0 keeps what touches tissue"
    )
    p.add_argument("--mpp", type=float, help="µm per pixel at level 0, for slides that do not say it")
    p.add_argument("--dtype", choices=["float16", "float32"], default="float32", help="type of the features")
    p.add_argument("--scheduler", help=SCHEDULER)


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands.prepare import find_slides, prepare
    from mil_tutorial.commands.record import Record
    from mil_tutorial.slides.prepare import PrepareOptions
    from mil_tutorial.trident import run_folder

    options = PrepareOptions(
        mag=args.mag, patch_size=args.patch_size, overlap=args.overlap, patch_encoder=args.patch_encoder,
        min_tissue_proportion=args.min_tissue_proportion, mpp=args.mpp, dtype=args.dtype,
    )  # fmt: skip
    run = run_folder(args.job_dir, args.mag, args.patch_size, args.overlap)
    with Record(run, "prepare", _options(args), find_slides(args.wsi_dir)):
        counts = prepare(args.wsi_dir, args.job_dir, options, scheduler=args.scheduler)
    print(f"{len(counts)} slides, {sum(counts.values())} patches; TRIDENT's layout in {Path(args.job_dir).resolve()}")
    return 0
