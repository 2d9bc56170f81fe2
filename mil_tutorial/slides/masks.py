"""Count the tumour pixels of patches in a mask: equal to reading every level-0 pixel, without reading most of them.

A mask is a TIFF of compressed tiles. Nearly all of them are one value throughout, and those have equal bytes. So each
distinct tile is decoded once, and only tiles that an outline passes through cost work. The coarse levels of the pyramid
are not used: whoever made them may have dropped single pixels.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide

from mil_tutorial.errors import DataError, require_integer
from mil_tutorial.geometry import Geometry, as_coords, as_side
from mil_tutorial.remote import place
from mil_tutorial.slides.reading import open_slide
from mil_tutorial.slides.tiff import TiffLevel, open_level

CHUNK = 1_000_000  # pairs of patch and tile at once

FACTORS = (1, 2, 4, 8)  # a mask's pixel in level-0 pixels of its slide

ONE_VALUE = 4096  # bytes; a compressed tile of one value is smaller than this


def count_pixels(mask_path: str | os.PathLike, coords: np.ndarray, side: int, value: int) -> np.ndarray:
    """Pixels of `value` in each patch, int64 (n,).

    Args:
        mask_path: a tiled TIFF, one grey value for each class.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels; what is beyond the mask counts nothing.
        side: side of a patch in level-0 pixels.
        value: the grey value to count, 0 to 255.

    Raises:
        ParameterError: coordinates, side or value are not such numbers.
        DataError: no such mask, or it is damaged.
    """
    coords, side = as_coords(coords), as_side(side, parameter="side")
    require_integer("value", value, low=0, high=255)
    path = place(mask_path)
    counts = np.zeros(len(coords), np.int64)
    with open_slide(path) as mask:
        low = np.clip(coords, 0, mask.dimensions)
        high = np.clip(coords + side, 0, mask.dimensions)
        inside = np.flatnonzero((high > low).all(1))
        if not len(inside):
            return counts
        try:
            with open_level(mask, path, 0, samples=1) as level:
                if level is not None and level.lossless:
                    counts[inside] = _count_by_tiles(level, low[inside], high[inside], value)
                    return counts
        except (DataError, MemoryError):
            raise
        except Exception as error:  # tifffile's codecs report damage in many ways; each means this file is not whole
            raise DataError(f"{path}: cannot be read ({error!s:.160}). The mask is damaged. Copy it again.") from error
        for i in inside:
            (x, y), (width, height) = low[i].tolist(), (high[i] - low[i]).tolist()
            counts[i] = np.count_nonzero(read_mask(mask, x, y, width, height, path) == value)
    return counts


def read_mask(
    mask: openslide.AbstractSlide, x: int, y: int, width: int, height: int, path: str | os.PathLike
) -> np.ndarray:
    """The mask's own grey values in a rectangle of level-0 pixels, uint8 (height, width); 0 beyond the mask.

    Raises:
        DataError: it is damaged there; the message names `path`.
    """
    try:
        return np.asarray(mask.read_region((x, y), 0, (width, height)))[:, :, 0]
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: cannot be read at x={x}, y={y} ({error}). The mask is damaged. Copy it again."
        ) from error


def check_mask_size(mask_path: str | os.PathLike, geometry: Geometry) -> int:
    """A mask must have its slide's size, or that divided by 2, 4 or 8; it may be padded to whole tiles.

    Returns:
        How many level-0 pixels of the slide one pixel of the mask is wide.

    Raises:
        DataError: it has another size, or cannot be opened.
    """
    with open_slide(mask_path) as mask:
        return factor_of(mask, (geometry.width, geometry.height), mask_path)


def factor_of(mask: openslide.AbstractSlide, size: tuple[int, int], path: str | os.PathLike) -> int:
    """`check_mask_size` of an open mask; `size` is the slide's width and height."""
    for factor in FACTORS:
        if _is_size(mask, 0, size, factor):
            return factor
    width, height = mask.dimensions
    raise DataError(
        f"{path}: is {width} x {height} pixels, its slide is {size[0]} x {size[1]}."
        " The mask of another slide or resolution gives wrong labels. Take the right one."
    )


def level_factors(mask: openslide.AbstractSlide) -> list[float]:
    """Level-0 pixels of the mask that one pixel of each level is wide.

    Where a level is padded to whole tiles, OpenSlide divides the padded sizes, and its factor is too small.
    """
    factors = []
    for level, given in enumerate(mask.level_downsamples):
        powers = sorted((2**n for n in range(16)), key=lambda power: power != 2**level)  # a small level may fit several
        factors.append(float(next((p for p in powers if _is_size(mask, level, mask.dimensions, p)), given)))
    return factors


def _is_size(mask: openslide.AbstractSlide, level: int, size: tuple[int, int], factor: int) -> bool:
    """Whether a level of a mask has a size divided by a factor, rounded down or up, or up to whole tiles."""
    for side, own, kind in zip(size, mask.level_dimensions[level], ("width", "height"), strict=True):
        low, high = side // factor, -(-side // factor)
        tile = int(mask.properties.get(f"openslide.level[{level}].tile-{kind}", 1))
        if own not in (low, high, -(-high // tile) * tile):
            return False
    return True


def _single_values(level: TiffLevel, tiles: np.ndarray) -> np.ndarray:
    """The one value of each tile, int64 (k,); -1 for tiles of several values. Tiles of equal bytes are decoded once."""
    offsets, sizes = level.offsets[tiles], level.sizes[tiles]
    single = np.full(len(tiles), -1)
    single[sizes == 0] = 0  # never written
    small, how_many = np.unique(sizes[(sizes > 0) & (sizes <= ONE_VALUE)], return_counts=True)
    for size in small[how_many >= 8]:  # a size that is rare is no plain tile's: it is decoded anyway
        left = np.flatnonzero((sizes == size) & (offsets + size <= level.file_size))
        for part in np.array_split(left, -(-len(left) * size // (8 * CHUNK)) or 1):
            bytes_of = np.frombuffer(b"".join(level.codes(tiles[part])), np.uint8).reshape(len(part), size)
            for _ in range(8):
                if not len(part):
                    break
                same = (bytes_of == bytes_of[0]).all(1)
                values = level.decode(int(tiles[part[0]]))
                if values is not None and (values == values.flat[0]).all():
                    single[part[same]] = values.flat[0]
                part, bytes_of = part[~same], bytes_of[~same]
    return single


def _count_by_tiles(level: TiffLevel, low: np.ndarray, high: np.ndarray, value: int) -> np.ndarray:
    """`count_pixels` for rectangles [low, high), int64 (n, 2) each, that lie inside the mask and are not empty."""
    tile = np.array(level.tile)
    first, last = low // tile, (high - 1) // tile
    span = (last - first).max(0) + 1
    counts = np.zeros(len(low), np.int64)
    rows = max(1, CHUNK // int(span.prod()))

    def count(job: tuple[int, np.ndarray]) -> list[int]:
        number, boxes = job
        hit = np.asarray(level.decode(number)) == value
        return [int(np.count_nonzero(hit[y0:y1, x0:x1])) for x0, y0, x1, y1 in boxes.tolist()]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(low), rows):
            part = slice(start, start + rows)
            steps = np.stack(np.meshgrid(*(np.arange(k) for k in span)), -1).reshape(-1, 2)  # (k, 2)
            place = first[part, None] + steps  # (p, k, 2) column and row of each tile that a patch may touch
            patch, which = np.nonzero((place <= last[part, None]).all(2))
            place = place[patch, which]
            patch += start
            corner = place * tile
            box_low, box_high = np.maximum(low[patch] - corner, 0), np.minimum(high[patch] - corner, tile)
            number = place[:, 1] * level.across + place[:, 0]
            distinct, group = np.unique(number, return_inverse=True)
            level.fetch(distinct[level.sizes[distinct] <= ONE_VALUE])
            single = _single_values(level, distinct)
            is_value, mixed = single == value, single < 0
            areas = (box_high - box_low).prod(1)
            np.add.at(counts, patch, np.where(is_value[group], areas, 0))
            order = np.flatnonzero(mixed[group])
            order = order[np.argsort(group[order], kind="stable")]
            boxes = np.concatenate([box_low, box_high], 1)[order]
            ends = np.flatnonzero(np.diff(group[order], append=-1)) + 1
            level.fetch(distinct[mixed])
            jobs = zip(number[order[ends - 1]].tolist(), np.split(boxes, ends[:-1]), strict=True) if len(order) else ()
            counted = [c for result in pool.map(count, jobs) for c in result]
            np.add.at(counts, patch[order], np.array(counted, np.int64))
    return counts
