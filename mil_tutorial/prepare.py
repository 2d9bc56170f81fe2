"""From a slide to features on a CPU: tissue, grid, patches, features, in TRIDENT's layout.

The work on one slide is `prepare_slide`, a function of paths and options alone. `prepare` calls it for a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from mil_tutorial import trident
from mil_tutorial.files import DataError, written_whole
from mil_tutorial.geometry import Geometry
from mil_tutorial.slides import SLIDE_SUFFIXES, open_slide, read_overview, read_patch, slide_mpp

TISSUE_MPP = 8.0  # µm per pixel at which tissue is found
BATCH = 8  # patches at once: on a CPU larger batches leave the cache and are slower


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


def _batches(slide, path, coords, side, px) -> Iterator[np.ndarray]:
    """Pictures of the patches in batches, read one batch ahead of the encoder: uint8 (<= BATCH, px, px, 3)."""

    def read(start):
        return np.stack([read_patch(slide, x, y, side, px, path) for x, y in coords[start : start + BATCH].tolist()])

    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for start in range(0, len(coords), BATCH):
            current = ahead or pool.submit(read, start)
            ahead = pool.submit(read, start + BATCH) if start + BATCH < len(coords) else None
            yield current.result()


def _write_pictures(job_dir: Path, name: str, overview: np.ndarray, tissue: np.ndarray, size: tuple[int, int]) -> None:
    """Thumbnail, contours drawn on it, and contours as GeoJSON in level-0 pixels."""
    scale = min(1.0, 1000 / max(overview.shape[:2]))
    contours, tree = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    drawn = cv2.drawContours(overview.copy(), contours, -1, (0, 160, 0), 3)
    for folder, picture in (("thumbnails", overview), ("contours", drawn)):
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        ok, code = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        with written_whole(job_dir / folder / f"{name}.jpg") as temporary:
            temporary.write_bytes(code.tobytes())
    factor = np.array(size) / tissue.shape[::-1]
    features = []
    for i, contour in enumerate(contours):
        if tree[0, i, 3] >= 0 or len(contour) < 3:
            continue
        rings = [contour] + [contours[j] for j in range(len(contours)) if tree[0, j, 3] == i and len(contours[j]) >= 3]
        closed = [np.vstack([r[:, 0], r[:1, 0]]) * factor for r in rings]
        features.append({
            "type": "Feature",
            "properties": {"tissue_id": len(features)},
            "geometry": {"type": "Polygon", "coordinates": [r.round(1).tolist() for r in closed]},
        })  # fmt: skip
    with written_whole(job_dir / "contours_geojson" / f"{name}.geojson") as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def prepare_slide(
    path: str | os.PathLike, job_dir: str | os.PathLike, options: PrepareOptions, encoder, device: str = "cpu"
) -> tuple[int, bool]:
    """Prepare one slide: write thumbnail, contours, coordinates and features, and skip what is there already.

    Args:
        path: the slide.
        job_dir: TRIDENT's job folder.
        encoder: a `PatchEncoder`.

    Returns:
        Number of patches, and whether anything was done.

    Raises:
        DataError: the slide cannot be read, lacks microns per pixel, or what is there already does not fit.
    """
    path, job_dir = Path(path), Path(job_dir)
    run = trident.run_folder(job_dir, options.mag, options.patch_size, options.overlap)
    patches_file = run / "patches" / f"{path.stem}_patches.h5"
    features_file = run / f"features_{encoder.name}" / f"{path.stem}.h5"
    if features_file.exists() and patches_file.exists():
        features, coords = trident.read_features(features_file)
        patches = trident.read_patches(patches_file)
        trident.match_rows(features_file, coords, len(features), patches)
        return len(patches.coords), False
    with open_slide(path) as slide:
        if patches_file.exists():
            patches = trident.read_patches(patches_file)
        else:
            coords, geometry, overview, tissue = find_patches(slide, path, options)
            _write_pictures(job_dir, path.stem, overview, tissue, slide.dimensions)
            trident.write_patches(patches_file, coords, geometry)
            patches = trident.Patches(path.stem, coords, geometry)
        features = np.zeros((len(patches.coords), encoder.dim), options.dtype)
        done = 0
        for batch in _batches(slide, path, patches.coords, patches.geometry.patch_size_level0, encoder.px):
            features[done : done + len(batch)] = encoder.encode(batch, device)
            done += len(batch)
    trident.write_features(features_file, features, patches, encoder.name)
    return len(patches.coords), True


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
) -> dict[str, int]:
    """Prepare all slides of a folder.

    A slide that fails does not stop the others; all failures are reported at the end.

    Returns:
        Number of patches of each slide.

    Raises:
        DataError: no slides, or some slides failed (the message names each).
    """
    slides = find_slides(wsi_dir)
    from mil_tutorial.encoders import load_encoder  # torch is slow to import: not before there is work for it

    encoder = load_encoder(options.patch_encoder)
    counts, failures = {}, []
    with tqdm(slides, desc="Preparing", unit="slide", disable=not progress) as bar:
        for path in bar:
            bar.set_postfix_str(path.stem)
            try:
                counts[path.stem], _ = prepare_slide(path, job_dir, options, encoder)
            except DataError as error:
                failures.append(str(error))
                continue
            if not counts[path.stem]:
                failures.append(
                    f"{path}: no tissue found. It is written as an empty slide; leave it out of train.csv and test.csv."
                )
    if failures:
        done = f"{len(counts)} of {len(slides)} slides are done and stay as they are."
        raise DataError("\n".join([*failures, done]))
    return counts
