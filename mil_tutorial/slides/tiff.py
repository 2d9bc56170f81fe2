"""Decode the tiles of a TIFF pyramid: several times faster than OpenSlide, which composes every pixel that it reads.

Only where both see the same pixels: plain tiled TIFF and Aperio. Everything else goes through OpenSlide.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


class TiffLevel:
    """One level of a pyramid as tiles.

    Attributes:
        width, height: of the level in pixels.
        tile: (width, height) of a tile.
        across: tiles in a row.
        offsets, sizes: int64 (tiles,), where their bytes are in `content`; size 0 means that a tile was never written.
        content: uint8, the file's bytes, mapped into memory; empty once the level is closed.
        lossless: whether decoding gives back the pixels that were written.
    """

    def __init__(self, page: tifffile.TiffPage, content: np.ndarray):
        self._page, self.content = page, content
        self.width, self.height = page.imagewidth, page.imagelength
        self.tile = (page.tilewidth, page.tilelength)
        self.across = -(-self.width // page.tilewidth)
        self.offsets, self.sizes = (np.array(v, np.int64) for v in (page.dataoffsets, page.databytecounts))
        self.lossless = page.compression in LOSSLESS

    def decode(self, number: int) -> np.ndarray | None:
        """Tile `number`, uint8 (height, width) or (height, width, 3); None if it was never written.

        Raises:
            ValueError: the file is cut off before the tile's end. The codecs raise errors of their own.
        """
        size = self.sizes[number]
        if not size:
            return None
        data = self.content[self.offsets[number] : self.offsets[number] + size].tobytes()
        if len(data) < size:
            raise ValueError(f"tile {number} is cut off")
        values = self._page.decode(data, number, jpegtables=self._page.jpegtables, _fullsize=True)[0]
        if values is None:
            return None
        return values.reshape(self.tile[1], self.tile[0]) if self._page.samplesperpixel == 1 else values[0]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A rectangle in pixels of the level, uint8 (height, width, 3); what is not there is white."""
        out = np.full((height, width, 3), 255, np.uint8)
        tw, th = self.tile
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        for row in range(max(0, y) // th, -(-bottom // th)):
            for column in range(max(0, x) // tw, -(-right // tw)):
                values = self.decode(row * self.across + column)
                if values is None:
                    continue
                x0, y0 = max(x, column * tw), max(y, row * th)
                x1, y1 = min(right, (column + 1) * tw), min(bottom, (row + 1) * th)
                part = values[y0 - row * th : y1 - row * th, x0 - column * tw : x1 - column * tw]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out


@contextmanager
def open_level(slide: openslide.OpenSlide, path: str | Path, level: int, samples: int) -> Iterator[TiffLevel | None]:
    """The tiles of a slide's or mask's level; None where OpenSlide must read it.

    Args:
        slide: the file, opened with OpenSlide, which says what the levels are.
        path: of the same file.
        level: number of the level.
        samples: 3 for colour, 1 for grey.
    """
    if slide.properties.get(openslide.PROPERTY_NAME_VENDOR) not in VENDORS or not Path(path).is_file():
        yield None
        return
    with tifffile.TiffFile(path) as tiff, open(path, "rb") as file:
        pages = (p for p in tiff.pages if isinstance(p, tifffile.TiffPage) and _is_plain(p, samples))
        size = slide.level_dimensions[level]
        page = next((p for p in pages if (p.imagewidth, p.imagelength) == size), None)
        if page is None:
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            tiles = TiffLevel(page, np.frombuffer(mapped, np.uint8))
            try:
                yield tiles
            finally:
                tiles.content = np.empty(0, np.uint8)  # lets go of the map before it is closed


def _is_plain(page: tifffile.TiffPage, samples: int) -> bool:
    return (
        page.is_tiled
        and page.dtype == np.uint8
        and page.samplesperpixel == samples
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.photometric in PHOTOMETRIC[samples]
        and page.tilewidth * page.tilelength <= LARGEST_TILE
        and len(page.dataoffsets) == -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    )
