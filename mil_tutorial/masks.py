"""Count the tumour pixels of patches in a mask: equal to reading every level-0 pixel, without reading most of them.

A mask is a TIFF of compressed tiles. Nearly all of them are one value throughout, and those have equal bytes. So each
distinct tile is decoded once, and only tiles that an outline passes through cost work. The coarse levels of the pyramid
are not used: whoever made them may have dropped single pixels.
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import tifffile

from mil_tutorial.files import DataError
from mil_tutorial.slides import open_slide

LOSSLESS = ("NONE", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS", "ZSTD", "LZMA")
CHUNK = 1_000_000  # pairs of patch and tile at once
ONE_VALUE = 4096  # bytes; a compressed tile of one value is smaller than this


def count_pixels(mask_path: str | os.PathLike, coords: np.ndarray, side: int, value: int) -> np.ndarray:
    """Pixels of `value` in each patch, int64 (n,).

    Args:
        mask_path: a tiled TIFF, one grey value for each class.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels; what lies beyond the mask counts nothing.
        side: side of a patch in level-0 pixels.
        value: the grey value to count.

    Raises:
        DataError: no such mask, or it is damaged.
    """
    path = Path(mask_path)
    coords = np.asarray(coords, np.int64).reshape(-1, 2)
    counts = np.zeros(len(coords), np.int64)
    with open_slide(path) as mask:
        low = np.clip(coords, 0, mask.dimensions)
        high = np.clip(coords + side, 0, mask.dimensions)
        inside = np.flatnonzero((high > low).all(1))
        if not len(inside):
            return counts
        try:
            with tifffile.TiffFile(path) as tiff, open(path, "rb") as file:
                page = tiff.pages[0]
                if _tiles_can_be_compared(page, mask.dimensions):
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                        counts[inside] = _count_by_tiles(page, content, low[inside], high[inside], value)
                    return counts
        except (
            Exception
        ) as error:  # tifffile and its codecs report damage in many ways; each means this file is not whole
            raise DataError(f"{path}: cannot be read ({error!s:.160}). The mask is damaged. Copy it again.") from error
        for i in inside:
            (x, y), size = low[i].tolist(), (high[i] - low[i]).tolist()
            counts[i] = np.count_nonzero(read_mask(mask, x, y, *size, path) == value)
    return counts


def read_mask(
    mask: openslide.OpenSlide, x: int, y: int, width: int, height: int, path: str | os.PathLike
) -> np.ndarray:
    """The mask's own grey values in a rectangle of level-0 pixels, uint8 (height, width); 0 beyond the mask."""
    try:
        return np.asarray(mask.read_region((x, y), 0, (width, height)))[:, :, 0]
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path}: cannot be read at x={x}, y={y} ({error}). The mask is damaged. Copy it again."
        ) from error


def _tiles_can_be_compared(page: tifffile.TiffPage, size: tuple[int, int]) -> bool:
    """Whether level 0 is lossless tiles of one grey byte a pixel, so that tifffile sees what OpenSlide sees."""
    return (
        page.is_tiled
        and (page.imagewidth, page.imagelength) == size
        and page.dtype == np.uint8
        and page.samplesperpixel == 1
        and page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        and page.compression.name in LOSSLESS
        and page.tilewidth * page.tilelength <= 2**26
    )


def _count_by_tiles(page, content: mmap.mmap, low: np.ndarray, high: np.ndarray, value: int) -> np.ndarray:
    """`count_pixels` for rectangles [low, high), int64 (n, 2) each, that lie inside the mask and are not empty."""
    tile = np.array([page.tilewidth, page.tilelength])
    first, last = low // tile, (high - 1) // tile
    across = -(-page.imagewidth // page.tilewidth)
    span = (last - first).max(0) + 1
    counts = np.zeros(len(low), np.int64)
    rows = max(1, CHUNK // int(span.prod()))
    offsets, sizes = page.dataoffsets, page.databytecounts
    known: dict[bytes, int | None] = {}  # bytes of a small tile -> its one value, or None if it has several

    def decode(number: int) -> np.ndarray:
        data = content[offsets[number] : offsets[number] + sizes[number]]
        if len(data) < sizes[number]:
            raise ValueError(f"tile {number} is cut off")
        return page.decode(data, number, jpegtables=None, _fullsize=True)[0].reshape(page.tilelength, page.tilewidth)

    def one_value(number: int) -> int | None:
        """The value of a tile that has only one; None if it has several or must be looked at."""
        if sizes[number] == 0:
            return 0  # never written
        if sizes[number] > ONE_VALUE:
            return None
        data = content[offsets[number] : offsets[number] + sizes[number]]
        if data not in known:
            values = decode(number)
            known[data] = int(values.flat[0]) if (values == values.flat[0]).all() else None
        return known[data]

    def count(job: tuple[int, np.ndarray]) -> list[int]:
        number, boxes = job
        hit = decode(number) == value
        return [np.count_nonzero(hit[y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes.tolist()]

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
            number = place[:, 1] * across + place[:, 0]
            distinct, group = np.unique(number, return_inverse=True)
            values = [one_value(k) for k in distinct.tolist()]
            is_value = np.array([v == value for v in values])
            mixed = np.array([v is None for v in values])
            areas = (box_high - box_low).prod(1)
            np.add.at(counts, patch, np.where(is_value[group], areas, 0))
            order = np.flatnonzero(mixed[group])
            order = order[np.argsort(group[order], kind="stable")]
            boxes = np.concatenate([box_low, box_high], 1)[order]
            ends = np.flatnonzero(np.diff(group[order], append=-1)) + 1
            jobs = zip(number[order[ends - 1]].tolist(), np.split(boxes, ends[:-1]), strict=True) if len(order) else ()
            found = [c for result in pool.map(count, jobs) for c in result]
            np.add.at(counts, patch[order], np.array(found, np.int64))
    return counts
