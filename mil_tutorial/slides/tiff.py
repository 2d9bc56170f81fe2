"""Decode the tiles of a TIFF pyramid: several times faster than OpenSlide, which composes every pixel that it reads.

On disk only where both see the same pixels: plain tiled TIFF and Aperio; everything else goes through OpenSlide. Far
slides are read by their tiles alone.
"""

from __future__ import annotations

import mmap
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import openslide
import tifffile

VENDORS = ("generic-tiff", "aperio")

PHOTOMETRIC = {
    1: (tifffile.PHOTOMETRIC.MINISBLACK,),
    3: (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR),
}  # by samples per pixel

LOSSLESS = tuple(
    tifffile.COMPRESSION[name] for name in ("NONE", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS", "ZSTD", "LZMA")
)

LARGEST_TILE = 1 << 26  # pixels of a tile; scanners write some 2**20 at most


class Source(Protocol):
    """Where a file's bytes come from."""

    size: int

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes from start to before end of each range."""

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """These ranges are read soon, one by one: what is far comes near, at once."""


class MappedFile:
    """A file on disk, mapped into memory."""

    def __init__(self, mapped: mmap.mmap):
        self._mapped, self.size = mapped, len(mapped)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self._mapped[start:end] for start, end in ranges]

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """It is near already."""


class TiffLevel:
    """One level of a pyramid as tiles.

    Args:
        page: the level's page.
        source: the file that it is in.
        size: width and height, where the page is padded to whole tiles.

    Attributes:
        width, height: of the level in pixels.
        samples: 3 for colour, 1 for grey.
        tile: (width, height) of a tile.
        grid: tiles in a row and in a column.
        across: the first of them.
        offsets, sizes: int64 (tiles,), where their bytes are in the file; size 0 means that a tile was never written.
        file_size: bytes of the file.
        lossless: whether decoding gives back the pixels that were written.
    """

    def __init__(self, page: tifffile.TiffPage, source: Source, size: tuple[int, int] | None = None):
        self._page, self._source, self._tables = page, source, page.jpegtables
        self.width, self.height = size or (page.imagewidth, page.imagelength)
        self.samples, self.tile = page.samplesperpixel, (page.tilewidth, page.tilelength)
        self.grid = (-(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength))
        self.across = self.grid[0]
        self.offsets, self.sizes = (np.array(v, np.int64) for v in (page.dataoffsets, page.databytecounts))
        self.file_size = source.size
        self.lossless = page.compression in LOSSLESS

    def _ranges(self, numbers: np.ndarray) -> list[tuple[int, int]]:
        starts, sizes = self.offsets[numbers], self.sizes[numbers]
        return list(zip(starts.tolist(), np.minimum(starts + sizes, self.file_size).tolist(), strict=True))

    def codes(self, numbers: Sequence[int] | np.ndarray) -> list[bytes]:
        """Tiles as they are in the file; empty if they were never written."""
        return self._source.read(self._ranges(np.asarray(numbers, int)))

    def fetch(self, numbers: np.ndarray) -> None:
        """These tiles are decoded soon, in any order: where they are far, they come near, many at once."""
        self._source.fetch(self._ranges(numbers[self.sizes[numbers] > 0]))

    def decode(self, number: int) -> np.ndarray | None:
        """Tile `number`, uint8 (height, width) or (height, width, 3); None if it was never written.

        Raises:
            ValueError: the file is cut off before the tile's end. The codecs raise errors of their own.
        """
        return next(self.decode_all([number]))

    def decode_all(self, numbers: Sequence[int]) -> Iterator[np.ndarray | None]:
        """As `decode`, one after the other; what is read of them is read at once."""
        for number, code in zip(numbers, self.codes(numbers), strict=True):
            yield self._decode(number, code)

    def _decode(self, number: int, code: bytes) -> np.ndarray | None:
        size = self.sizes[number]
        if not size:
            return None
        if len(code) < size:
            raise ValueError(f"tile {number} is cut off")
        values = self._page.decode(code, number, jpegtables=self._tables, _fullsize=True)[0]
        if values is None:
            return None
        return values.reshape(self.tile[1], self.tile[0]) if self.samples == 1 else values[0]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A rectangle in pixels of the level, uint8 (height, width, 3); what is not there is white."""
        out = np.full((height, width, 3), 255, np.uint8)
        self.read_into(out, x, y)
        return out

    def read_into(self, out: np.ndarray, x: int, y: int, there: np.ndarray | None = None) -> None:
        """Write a rectangle in pixels of the level into `out` (height, width, 3); what is not there is left as it is.

        Args:
            out: uint8 (height, width, 3).
            x, y: of its corner in the level.
            there: uint8 (height, width), set to 255 where there are pixels.
        """
        height, width = out.shape[:2]
        tw, th = self.tile
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        if right <= max(0, x) or bottom <= max(0, y):  # beyond the level, though perhaps inside its last tile
            return
        places = [
            (row, column)
            for row in range(max(0, y) // th, -(-bottom // th))
            for column in range(max(0, x) // tw, -(-right // tw))
        ]
        for (row, column), values in zip(
            places, self.decode_all([r * self.across + c for r, c in places]), strict=True
        ):
            if values is None:
                continue
            x0, y0 = max(x, column * tw), max(y, row * th)
            x1, y1 = min(right, (column + 1) * tw), min(bottom, (row + 1) * th)
            part = values[y0 - row * th : y1 - row * th, x0 - column * tw : x1 - column * tw]
            out[y0 - y : y1 - y, x0 - x : x1 - x] = part if part.ndim == 3 else part[..., None]
            if there is not None:
                there[y0 - y : y1 - y, x0 - x : x1 - x] = 255


class SlideOfTiles(openslide.AbstractSlide):
    """A slide that can give its levels as tiles, whatever it is."""

    @abstractmethod
    def tiles(self, level: int, samples: int) -> TiffLevel | None:
        """A level; None if it has not as many samples."""


@contextmanager
def open_level(
    slide: openslide.AbstractSlide, path: str | os.PathLike, level: int, samples: int
) -> Iterator[TiffLevel | None]:
    """The tiles of a slide's or mask's level; None where OpenSlide must read it.

    Args:
        slide: the open file, which says what the levels are.
        path: of the same file.
        level: number of the level.
        samples: 3 for colour, 1 for grey.
    """
    if isinstance(slide, SlideOfTiles):
        yield slide.tiles(level, samples)
        return
    if slide.properties.get(openslide.PROPERTY_NAME_VENDOR) not in VENDORS or not Path(path).is_file():
        yield None
        return
    with tifffile.TiffFile(path) as tiff, open(path, "rb") as file:
        pages = (p for p in tiff.pages if isinstance(p, tifffile.TiffPage) and is_plain(p, samples))
        size = slide.level_dimensions[level]
        page = next((p for p in pages if (p.imagewidth, p.imagelength) == size), None)
        if page is None:
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield TiffLevel(page, MappedFile(mapped))


def is_plain(page: tifffile.TiffPage, samples: int) -> bool:
    """Whether a page is made of tiles of grey or colour that are decoded without knowing more of it."""
    return (
        page.is_tiled
        and page.dtype == np.uint8
        and page.samplesperpixel == samples
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.photometric in PHOTOMETRIC[samples]
        and page.tilewidth * page.tilelength <= LARGEST_TILE
        and len(page.dataoffsets) == -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    )
