"""A slide on a web server, read tile by tile: only what is needed, in parallel, and each tile once.

Tiled pyramidal TIFF only: Philips (as CAMELYON16's slides), Aperio, and plain ones such as ASAP's masks. The bytes are
kept in a cache on disk (see `remote.cache`), so that a second look needs no network.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, cast

import cv2
import numpy as np
import openslide
import tifffile
from PIL import Image

from mil_tutorial.errors import DataError, Found, require
from mil_tutorial.remote import KeptFile
from mil_tutorial.slides.philips import is_philips, level_spacings
from mil_tutorial.slides.tiff import LARGEST_TILE, SlideOfTiles, TiffLevel, is_plain

DECODED = 64 << 20  # bytes of decoded tiles that a slide keeps in memory

LARGEST_LEVEL = 8192  # pixels of the longer side of a slide's last level: where there is no pyramid, all would be read

TILE_HEADER = 1 << 16  # bytes that a tile's code may have beside its pixels

PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # µm in the units of TIFF's resolution: inch, cm


class DecodedTiles:
    """The tiles of a slide that were decoded last, by offset; at most DECODED bytes."""

    def __init__(self) -> None:
        self._tiles: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, offset: int) -> np.ndarray | None:
        """A tile, if it is still there."""
        with self._lock:
            if offset in self._tiles:
                self._tiles.move_to_end(offset)
            return self._tiles.get(offset)

    def put(self, offset: int, tile: np.ndarray) -> None:
        """Remember a tile."""
        with self._lock:
            if offset not in self._tiles:
                self._held += tile.nbytes
                self._tiles[offset] = tile
            while self._held > DECODED:
                self._held -= self._tiles.popitem(last=False)[1].nbytes


class FarLevel(TiffLevel):
    """A level that remembers the tiles that were decoded last."""

    def __init__(self, page: tifffile.TiffPage, source: KeptFile, size: tuple[int, int], decoded: DecodedTiles):
        super().__init__(page, source, size)
        self._decoded = decoded
        most = 2 * self.tile[0] * self.tile[1] * self.samples + TILE_HEADER
        if self.sizes.max(initial=0) > most:  # who believes it reads the whole file for one tile
            raise ValueError(f"a tile of {self.sizes.max()} bytes, expected at most {most}")

    def decode_all(self, numbers: Sequence[int]) -> Iterator[np.ndarray | None]:
        known = {n: self._decoded.get(int(self.offsets[n])) for n in numbers if self.sizes[n]}
        missing = [n for n, values in known.items() if values is None]
        fresh = super().decode_all(missing)
        for number in numbers:
            values = known.get(number)
            if values is None and number in known:
                values = next(fresh)
                if values is not None:
                    self._decoded.put(int(self.offsets[number]), values)
            yield values


class FarSlide(SlideOfTiles):
    """A slide on a web server, with the interface of `openslide.OpenSlide`; several threads may share it.

    Args:
        url: its address.

    Raises:
        DataError: no such file, no network, a server that sends files whole only, or no tiled pyramidal TIFF.
    """

    def __init__(self, url: str):
        super().__init__()
        self._filename, self._file = url, KeptFile(url)
        try:
            self._tiff = tifffile.TiffFile(cast(IO[bytes], self._file.file()), name=url)
            self._levels = self._open_levels()
        except DataError:
            self._file.close()
            raise
        except Exception as error:  # tifffile reports what is no TIFF, and damage, in many ways
            self._file.close()
            raise self._not_readable(f"{error!s:.120}") from error
        self._properties = MappingProxyType(self._read_properties())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._filename!r})"

    def _not_readable(self, why: str) -> DataError:
        return DataError(
            f"{self._filename}: is no tiled pyramidal TIFF that can be read from afar ({why})."
            " Download the file and open it from disk."
        )

    def _open_levels(self) -> list[FarLevel]:
        tiff = self._tiff
        pages = [p for p in tiff.pages if isinstance(p, tifffile.TiffPage)]
        first = pages[0]
        if tiff.is_ndpi or tiff.is_bif or tiff.is_scn:
            raise self._not_readable("it is of a maker whose slides only OpenSlide understands")
        if not first.is_tiled:
            raise self._not_readable("it has no tiles")
        samples = first.samplesperpixel
        if samples not in (1, 3) or not is_plain(first, samples):
            if first.tilewidth * first.tilelength > LARGEST_TILE:
                why = f"its tiles have {first.tilewidth} x {first.tilelength} pixels"
            else:
                why = f"{samples} x {first.dtype} per pixel, {first.photometric!s:.20}, {first.compression!s:.20}"
            raise self._not_readable(why)
        self._vendor = "generic-tiff"
        if is_philips(first):
            self._vendor = "philips"
        elif first.description.startswith("Aperio"):
            self._vendor = "aperio"
        levels = [p for p in pages if p is first or (is_plain(p, samples) and self._is_level(p))]
        levels.sort(key=lambda p: -p.imagewidth)
        sizes = self._sizes(levels)
        if samples == 3 and max(sizes[-1]) > LARGEST_LEVEL:
            raise self._not_readable(f"its smallest level has {sizes[-1][0]} x {sizes[-1][1]} pixels")
        decoded = DecodedTiles()
        return [FarLevel(page, self._file, size, decoded) for page, size in zip(levels, sizes, strict=True)]

    def _is_level(self, page: tifffile.TiffPage) -> bool:
        """Label and macro picture are none."""
        if self._vendor == "aperio":
            return True
        return bool(page.subfiletype & 1) and not page.description.lower().startswith(("macro", "label"))

    def _sizes(self, levels: list[tifffile.TiffPage]) -> list[tuple[int, int]]:
        """Width and height of each level; Philips pads them, and says the truth in XML."""
        stored = [(p.imagewidth, p.imagelength) for p in levels]
        if self._vendor != "philips":
            self._downsamples = [(stored[0][0] / w + stored[0][1] / h) / 2 for w, h in stored]
            return stored
        self._spacings = level_spacings(self._filename, levels[0].description, len(levels))
        factors = [round(float(np.mean(np.divide(s, self._spacings[0])))) for s in self._spacings]
        self._downsamples = [float(f) for f in factors]
        return [(stored[0][0] // f, stored[0][1] // f) for f in factors]

    def _read_properties(self) -> dict[str, str]:
        found = {
            openslide.PROPERTY_NAME_VENDOR: self._vendor,
            "openslide.level-count": str(len(self._levels)),
        }
        for k, (level, factor) in enumerate(zip(self._levels, self._downsamples, strict=True)):
            found[f"openslide.level[{k}].downsample"] = f"{factor:.17g}"
            sides = {"width": level.width, "height": level.height}
            sides |= {"tile-width": level.tile[0], "tile-height": level.tile[1]}
            found |= {f"openslide.level[{k}].{name}": str(side) for name, side in sides.items()}
        for name, mpp in zip((openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y), self._mpp(), strict=True):
            if mpp:
                found[name] = f"{mpp:.17g}"
        return found

    def _mpp(self) -> tuple[float, float]:
        """µm per pixel of level 0, across and down; 0 where the file does not say it."""
        page = self._tiff.pages.first
        if self._vendor == "philips":
            down, across = self._spacings[0]
            return across * 1000, down * 1000
        if self._vendor == "aperio":
            fields = dict(part.split("=", 1) for part in page.description.split("|") if "=" in part)
            value = next((v for k, v in fields.items() if k.strip() == "MPP"), "0")
            return float(value), float(value)
        unit = PER_UNIT.get(int(page.tags.valueof("ResolutionUnit", 1)), 0.0)
        pixels = [page.tags.valueof(name, (0, 1)) for name in ("XResolution", "YResolution")]
        across, down = (unit * bottom / top if top else 0.0 for top, bottom in pixels)
        return across, down

    def fetch(self, level: int, coords: np.ndarray, side_level0: int) -> None:
        """Squares of a level that are read soon, one by one: their tiles come at once."""
        tiles, factor = self._levels[level], self._downsamples[level]
        low, high = np.floor(coords / factor), np.ceil((coords + side_level0) / factor)
        first, last = (low // tiles.tile).astype(int), ((high - 1) // tiles.tile).astype(int)
        steps = np.indices((last - first).max(0, initial=0) + 1).reshape(2, -1).T
        place = first[:, None] + steps
        good = (place <= last[:, None]) & (place >= 0) & (place < tiles.grid)
        place = place[good.all(2)]
        tiles.fetch(np.unique(place[:, 1] * tiles.across + place[:, 0]))

    @classmethod
    def detect_format(cls, filename: str | bytes | os.PathLike) -> str | None:
        """The maker's name."""
        with cls(os.fsdecode(filename)) as slide:
            return slide.properties[openslide.PROPERTY_NAME_VENDOR]

    def close(self) -> None:
        """Close it, and write down in the cache what was used."""
        self._tiff.close()
        self._file.close()

    @property
    def level_count(self) -> int:
        return len(self._levels)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        return tuple((level.width, level.height) for level in self._levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return tuple(self._downsamples)

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """None of them is read."""
        return MappingProxyType({})

    def set_cache(self, cache: openslide.OpenSlideCache) -> None:
        """It has a cache of its own."""

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The smallest level that is made smaller by at most `downsample`."""
        return max([0, *(k for k, factor in enumerate(self._downsamples) if factor <= downsample)])

    def tiles(self, level: int, samples: int) -> TiffLevel | None:
        return self._levels[level] if self._levels[level].samples == samples else None

    def digest(self) -> str:
        """As `files.digest` of the same file on disk."""
        return self._file.digest()

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """A rectangle of a level as RGBA; what is not there is transparent, and white (in a mask 0).

        Args:
            location: x, y of its corner in level-0 pixels.
            level: number of the level.
            size: width and height in pixels of the level.

        Raises:
            ParameterError: no such level, or a negative size.
            DataError: the tiles cannot be read.
        """
        require(0 <= level < len(self._levels), "level", level, f"0 to {len(self._levels) - 1}")
        width, height = size
        require(min(width, height) >= 0, "size", Found(f"{width} x {height}"), "pixels, 0 or more")
        tiles, factor = self._levels[level], self._downsamples[level]
        x, y = (value / factor if value >= 0 else -(-value // factor) for value in location)  # as OpenSlide
        # A corner between two pixels: as OpenSlide does it, colours are interpolated; the values of a mask must not be.
        between = tiles.samples == 3 and (x % 1, y % 1) != (0, 0) and min(width, height) > 0
        left, top = (int(side // 1 if between else round(side)) for side in (x, y))
        rgba = np.zeros((height + between, width + between, 4), np.uint8)
        rgba[..., :3] = 255 if tiles.samples == 3 else 0
        try:
            tiles.read_into(rgba[..., :3], left, top, rgba[..., 3])
        except (DataError, MemoryError):
            raise
        except Exception as error:  # the codecs report damage in many ways
            raise DataError(
                f"{self._filename}: cannot be read at x={location[0]}, y={location[1]}, level {level}"
                f" ({error!s:.120}). The file there is damaged. Take another copy."
            ) from error
        if not between:
            return Image.fromarray(rgba)
        shift = np.array([[1, 0, x - left], [0, 1, y - top]], float)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return Image.fromarray(np.asarray(cv2.warpAffine(rgba, shift, (width, height), flags=how), np.uint8))


def fetch_patches(slide: openslide.AbstractSlide, coords: np.ndarray, side_level0: int, px: float) -> None:
    """Patches that are read soon, one by one, by `read_patch`: of a far slide, their tiles come at once.

    Args:
        slide: an open slide; for one on disk, nothing is done.
        coords, side_level0, px: as `read_patch`, for many.
    """
    if isinstance(slide, FarSlide) and len(coords):
        slide.fetch(slide.get_best_level_for_downsample(side_level0 / px * 1.01), np.asarray(coords), side_level0)
