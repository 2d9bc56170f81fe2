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
from itertools import islice
from pathlib import Path

import numpy as np
import openslide
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError
from mil_tutorial.files import digest, written_whole
from mil_tutorial.geometry import Geometry
from mil_tutorial.slides.plots import encode_jpeg, outline_patches
from mil_tutorial.slides.reading import open_slide, read_overview, read_patch, slide_mpp
from mil_tutorial.slides.tissue import TISSUE_MPP, _tissue_outlines, segment_tissue, tissue_share
from mil_tutorial.trident import (
    Patches,
    features_header,
    match_rows,
    new_features,
    read_how,
    read_patches,
    run_folder,
    write_patches,
)

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


def _write_pictures(job_dir: Path, run: Path, slide, patches: Patches, tissue: np.ndarray) -> None:
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
    before = read_how(file, names)
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


def locate_patches(path: str | os.PathLike, job_dir: str | os.PathLike, options: PrepareOptions) -> Patches:
    """Find the patches of one slide and write coordinates, thumbnail and outlines; take the coordinates that are there.

    Raises:
        DataError: the slide cannot be read, lacks microns per pixel, or what is there was made otherwise.
    """
    path, job_dir = Path(path), Path(job_dir)
    run = run_folder(job_dir, options.mag, options.patch_size, options.overlap)
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
            patches = read_patches(target)
            if slide.dimensions != (patches.geometry.width, patches.geometry.height):
                raise DataError(
                    f"{target}: belongs to a slide of {patches.geometry.width} x {patches.geometry.height} pixels, {path} has"
                    f" {slide.dimensions[0]} x {slide.dimensions[1]}. Delete it and what was made from it."
                )
            return patches
        coords, geometry, _, tissue = find_patches(slide, path, options)
        patches = Patches(path.stem, coords, geometry)
        _write_pictures(job_dir, run, slide, patches, tissue)
    write_patches(target, coords, geometry, **how)
    return patches


def encode_patches(
    path: str | os.PathLike, patches: Patches, target: Path, encoder, dtype: str = "float32", device: str = "cpu",
    progress: bool = True,
) -> bool:  # fmt: skip
    """Write the features of a slide's patches, batch by batch; False if they are there and fit.

    Raises:
        DataError: the slide is damaged, or features that are there do not fit.
    """
    made_from = {"slide_digest": digest(path)}
    if target.exists():
        _refuse_changes(target, made_from, ["slide_digest"])
        shape, found, coords = features_header(target)
        match_rows(target, coords, shape[0], patches)
        if shape[0] and found != np.dtype(dtype):
            raise DataError(
                f"{target}: holds {found} features, --dtype says {dtype}. Choose another --job_dir, or delete the folder."
            )
        return False
    name = f"  {patches.name}"
    with (
        open_slide(path) as slide,
        new_features(target, patches, encoder.name, encoder.dim, dtype) as features,
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
    run = run_folder(job_dir, options.mag, options.patch_size, options.overlap)
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
