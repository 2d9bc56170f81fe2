"""From a slide to features on a CPU: tissue, grid, patches, features, in TRIDENT's layout.

The work on one slide is `prepare_slide`, a function of paths and options alone. `prepare` calls it for a folder.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import openslide
from tqdm.auto import tqdm

from mil_tutorial import trident
from mil_tutorial.engine import refuse_failures, run_tasks
from mil_tutorial.files import DataError, written_whole
from mil_tutorial.geometry import Geometry
from mil_tutorial.pictures import encode_jpeg, outline_patches
from mil_tutorial.record import digest
from mil_tutorial.slides import SLIDE_SUFFIXES, open_slide, read_overview, read_patch, slide_mpp

TISSUE_MPP = 8.0  # µm per pixel at which tissue is found
BATCH = 4  # patches at once on a CPU: larger batches leave the cache and the memory kept for them. A GPU takes 64 times as many
SEGMENTER = "otsu"
THUMBNAIL = 1000  # longer side of the pictures in pixels
HOW = (
    "segmenter",
    "min_tissue_proportion",
    "mpp",
    "slide_hash",
    "slide_digest",
)  # attributes that say how patches were chosen


@dataclass(frozen=True)
class PrepareOptions:
    """What `mil-tutorial prepare` is told; names are TRIDENT's.

    Attributes:
        mag: magnification of the patches.
        patch_size: side of a patch in pixels at `mag`.
        overlap: pixels that neighbours share at `mag`.
        patch_encoder: see `encoders.load_encoder`.
        min_tissue_proportion: least share of tissue in a patch; 0 keeps every patch that touches tissue.
        mpp: µm per pixel, for slides that do not say it.
        dtype: `float16` or `float32` features.
    """

    mag: float = 20
    patch_size: int = 512
    overlap: int = 0
    patch_encoder: str = "efficientnet_lite0"
    min_tissue_proportion: float = 0.0
    mpp: float | None = None
    dtype: str = "float32"

    def __post_init__(self):
        for name, good, expected in (
            ("mag", 0.1 <= self.mag <= 100, "a magnification such as 20"),
            ("patch_size", 16 <= self.patch_size <= 16384, "16 to 16384 pixels"),
            ("overlap", 0 <= self.overlap < self.patch_size, "at least 0 and less than the patch size"),
            ("min_tissue_proportion", 0 <= self.min_tissue_proportion <= 1, "a share from 0 to 1"),
            ("mpp", self.mpp is None or 0.05 <= self.mpp < 2.4, "µm per pixel such as 0.25"),
        ):
            if not good:
                raise DataError(f"--{name} {getattr(self, name)}: expected {expected}.")


def segment_tissue(overview: np.ndarray) -> np.ndarray:
    """Find tissue by Otsu's threshold on colour saturation: stained tissue is coloured, glass is grey.

    Args:
        overview: uint8 (h, w, 3) RGB at about 8 µm per pixel.

    Returns:
        uint8 (h, w), 1 where there is tissue. Specks are dropped and small holes are filled.
    """
    smooth = cv2.medianBlur(overview, 5)
    hsv = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)
    saturation = hsv[:, :, 1].copy()
    saturation[hsv[:, :, 2] < 60] = 0  # black: beyond the scanned area, or marker ink
    threshold, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU)
    lowest = max(threshold * 0.9, 12)  # Otsu alone loses pale tissue; 12: glass has a tint
    tissue = (saturation > lowest).astype(np.uint8)
    tissue = cv2.morphologyEx(tissue, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    contours, tree = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for i, contour in enumerate(contours):
        if cv2.contourArea(contour) < 50:  # 50 px are 0.0032 mm²: dust, or a gap in the tissue
            cv2.drawContours(tissue, contours, i, int(tree[0, i, 3] >= 0), cv2.FILLED)
    return tissue


def tissue_share(tissue: np.ndarray, coords: np.ndarray, side: int, downsample: tuple[float, float]) -> np.ndarray:
    """Share of tissue in each patch, float64 (n,).

    Args:
        tissue: (h, w) of 0 and 1.
        coords: (n, 2) x, y in level-0 pixels.
        side: side of a patch in level-0 pixels.
        downsample: level-0 pixels of one mask pixel, in x and y.
    """
    sums = cv2.integral(tissue)  # (h + 1, w + 1)
    factor = np.array(downsample)
    limit = np.array(tissue.shape[::-1])
    x0, y0 = np.clip(np.floor(coords / factor), 0, limit).astype(int).T
    x1, y1 = np.clip(np.ceil((coords + side) / factor), 0, limit).astype(int).T
    covered = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return covered / np.prod(np.maximum(side / factor, 1))


def find_patches(slide, path: Path, options: PrepareOptions) -> tuple[np.ndarray, Geometry, np.ndarray, np.ndarray]:
    """Tissue and grid of one slide.

    Returns:
        coords int64 (n, 2), geometry, overview uint8 (h, w, 3) and tissue uint8 (h, w); n is 0 on a slide without tissue.
    """
    mpp = slide_mpp(slide, path, options.mpp)
    width, height = slide.dimensions
    try:
        geometry = Geometry.for_slide(mpp=mpp, width=width, height=height, magnification=options.mag,
                                      patch_size=options.patch_size, overlap=options.overlap)  # fmt: skip
    except ValueError as error:
        raise DataError(f"{path}: {error} Ask for a lower --mag, or other --patch_size and --overlap.") from error
    overview = read_overview(slide, TISSUE_MPP / mpp, path)
    tissue = segment_tissue(overview)
    grid = geometry.grid()
    share = tissue_share(tissue, grid, geometry.patch_size_level0, (width / tissue.shape[1], height / tissue.shape[0]))
    keep = share >= options.min_tissue_proportion if options.min_tissue_proportion > 0 else share > 0
    return grid[keep], geometry, overview, tissue


def _batches(slide, path, coords, side, px, size, device="cpu") -> Iterator[np.ndarray]:
    """Pictures of the patches in batches, read ahead of the encoder if there are threads for it: uint8 (<= size, px, px, 3)."""
    import torch  # slow to import: not before there is work

    def read(start):
        return np.stack([read_patch(slide, x, y, side, px, path) for x, y in coords[start : start + size].tolist()])

    starts = iter(range(0, len(coords), size))
    readers = max(torch.get_num_threads() // 2, int(str(device) != "cpu"))  # a GPU never waits for reading
    if readers == 0:  # a worker with one thread keeps to one core: while it reads, others encode
        yield from map(read, starts)
        return
    with ThreadPoolExecutor(readers) as pool:
        ahead = deque()
        for start in islice(starts, readers + 1):
            ahead.append(pool.submit(read, start))
        while ahead:
            batch = ahead.popleft().result()
            if (start := next(starts, None)) is not None:
                ahead.append(pool.submit(read, start))
            yield batch


def _write_jpeg(path: Path, rgb: np.ndarray) -> None:
    with written_whole(path) as temporary:
        temporary.write_bytes(encode_jpeg(rgb))


def _tissue_outlines(tissue: np.ndarray, size: tuple[int, int]) -> list[list[np.ndarray]]:
    """Pieces of tissue, each as its outline and then its holes: closed rings, float64 (k, 2) in level-0 pixels."""
    contours, tree = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    factor = np.array(size) / tissue.shape[::-1]
    pieces = []
    for i, contour in enumerate(contours):
        if tree[0, i, 3] >= 0 or len(contour) < 3:
            continue
        rings = [contour] + [contours[j] for j in range(len(contours)) if tree[0, j, 3] == i and len(contours[j]) >= 3]
        pieces.append([np.vstack([r[:, 0], r[:1, 0]]) * factor for r in rings])
    return pieces


def _write_pictures(job_dir: Path, run: Path, slide, patches: trident.Patches, tissue: np.ndarray) -> None:
    """Thumbnail, tissue outlines, patches drawn on it, and the outlines as GeoJSON that QuPath reads, in level-0 pixels."""
    name, size = patches.name, slide.dimensions
    pieces = _tissue_outlines(tissue, size)
    rings = [ring for piece in pieces for ring in piece]
    thumbnail = read_overview(slide, max(1.0, max(size) / THUMBNAIL))
    side = patches.geometry.patch_size_level0
    _write_jpeg(job_dir / "thumbnails" / f"{name}.jpg", thumbnail)
    _write_jpeg(job_dir / "contours" / f"{name}.jpg", outline_patches(thumbnail, size, [], side, contours=rings))
    drawn = outline_patches(thumbnail, size, patches.coords, side, contours=rings)
    _write_jpeg(run / "visualization" / f"{name}.jpg", drawn)
    features = [
        {
            "type": "Feature",
            "properties": {
                "objectType": "annotation",
                "name": f"tissue {i}",
                "tissue_id": i,
                "classification": {"name": "Tissue", "color": [0, 158, 115]},
            },
            "geometry": {"type": "Polygon", "coordinates": [ring.round(1).tolist() for ring in piece]},
        }
        for i, piece in enumerate(pieces)
    ]
    with written_whole(job_dir / "contours_geojson" / f"{name}.geojson") as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _refuse_changes(file: Path, now: dict, names: Sequence[str]) -> None:
    """What is there must have been made from this slide with these options; TRIDENT's own files do not say."""
    before = trident.read_how(file, names)
    changed = [k for k in names if k in before and before[k] != now.get(k)]
    if {"slide_hash", "slide_digest"} & set(changed):
        raise DataError(
            f"{file}: was made from another slide of this name. Delete it and what was made from it, or choose another --job_dir."
        )
    if changed:
        raise DataError(
            f"{file}: was made with {changed[0]} {before[changed[0]]}, now it is {now.get(changed[0])}."
            " Choose another --job_dir, or delete the run folder."
        )


def locate_patches(path: str | os.PathLike, job_dir: str | os.PathLike, options: PrepareOptions) -> trident.Patches:
    """Find the patches of one slide and write coordinates, thumbnail and outlines; take the coordinates that are there.

    Raises:
        DataError: the slide cannot be read, lacks microns per pixel, or what is there was made otherwise.
    """
    path, job_dir = Path(path), Path(job_dir)
    run = trident.run_folder(job_dir, options.mag, options.patch_size, options.overlap)
    target = run / "patches" / f"{path.stem}_patches.h5"
    with open_slide(path) as slide:
        how = {
            "segmenter": SEGMENTER,
            "min_tissue_proportion": float(options.min_tissue_proportion),
            "mpp": slide_mpp(slide, path, options.mpp),
            "slide_hash": slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1),
            "slide_digest": digest(path),
        }
        if target.exists():
            _refuse_changes(target, how, HOW)
            patches = trident.read_patches(target)
            if slide.dimensions != (patches.geometry.width, patches.geometry.height):
                raise DataError(
                    f"{target}: belongs to a slide of {patches.geometry.width} x {patches.geometry.height} pixels, {path} has"
                    f" {slide.dimensions[0]} x {slide.dimensions[1]}. Delete it and what was made from it."
                )
            return patches
        coords, geometry, _, tissue = find_patches(slide, path, options)
        patches = trident.Patches(path.stem, coords, geometry)
        _write_pictures(job_dir, run, slide, patches, tissue)
    trident.write_patches(target, coords, geometry, **how)
    return patches


def encode_patches(
    path: str | os.PathLike, patches: trident.Patches, target: Path, encoder, dtype: str = "float32", device: str = "cpu",
    progress: bool = True,
) -> bool:  # fmt: skip
    """Write the features of a slide's patches, batch by batch; False if they are there and fit.

    Raises:
        DataError: the slide is damaged, or features that are there do not fit.
    """
    made_from = {"slide_digest": digest(path)}
    if target.exists():
        _refuse_changes(target, made_from, ["slide_digest"])
        shape, found, coords = trident.features_header(target)
        trident.match_rows(target, coords, shape[0], patches)
        if shape[0] and found != np.dtype(dtype):
            raise DataError(
                f"{target}: holds {found} features, --dtype says {dtype}. Choose another --job_dir, or delete the folder."
            )
        return False
    name = f"  {patches.name}"
    with (
        open_slide(path) as slide,
        trident.new_features(target, patches, encoder.name, encoder.dim, dtype) as features,
        tqdm(total=len(patches.coords), desc=name, unit="patch", leave=False, delay=2, disable=not progress) as bar,
    ):
        done = 0
        side, size = patches.geometry.patch_size_level0, BATCH if str(device) == "cpu" else 64 * BATCH
        for batch in _batches(slide, path, patches.coords, side, encoder.px, size, device):
            features[done : done + len(batch)] = encoder.encode(batch, device)
            done += len(batch)
            bar.update(len(batch))
        if digest(path) != made_from["slide_digest"]:
            raise DataError(f"{path}: was replaced while it was read. Run it again.")
        features.attrs.update(made_from)
    return True


def _features_file(path: Path, job_dir: str | os.PathLike, options: PrepareOptions, encoder) -> Path:
    run = trident.run_folder(job_dir, options.mag, options.patch_size, options.overlap)
    return run / f"features_{encoder.name}" / f"{path.stem}.h5"


def prepare_slide(
    path: str | os.PathLike, job_dir: str | os.PathLike, options: PrepareOptions, encoder, device: str = "cpu"
) -> tuple[int, bool]:
    """Prepare one slide: write thumbnail, contours, coordinates and features, and skip what is there already.

    Args:
        path: the slide.
        job_dir: TRIDENT's job folder.
        encoder: a `PatchEncoder`.
        device: `cpu` or `cuda`.

    Returns:
        Number of patches, and whether features were computed now.

    Raises:
        DataError: the slide cannot be read, lacks microns per pixel, or what is there already does not fit.
    """
    path = Path(path)
    patches = locate_patches(path, job_dir, options)
    target = _features_file(path, job_dir, options, encoder)
    return len(patches.coords), encode_patches(path, patches, target, encoder, options.dtype, device)


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
    from mil_tutorial.encoders import load_encoder, pick_device  # torch is slow to import: not before there is work

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
