"""Slides and masks as CAMELYON16 has them, made small: a Philips BigTIFF with all that is odd about it, an ASAP mask.

Philips: JPEG tiles of 512 with shared tables, levels below the first stored padded to whole tiles, empty tiles left
out, one spacing a level in XML, and a macro picture whose spacing comes first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

TILE = 512

MACRO_SPACING = 0.0315  # mm, of the picture of the whole glass

Tiles = Iterable["bytes | None"]


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Something like tissue on glass, uint8 (height, width, 3): a purple island with cells, white around it."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(height // 16 + 1, width // 16 + 1, 3)).astype(np.float32)
    texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    tissue = np.array([190, 120, 180], np.float32) + 25 * texture
    y, x = np.mgrid[:height, :width].astype(np.float32)
    distance = ((x / width - 0.45) / 0.36) ** 2 + ((y / height - 0.45) / 0.36) ** 2
    inside = np.clip(8 * (1 - distance), 0, 1)[..., None]
    return np.clip(inside * tissue + (1 - inside) * 255, 0, 255).astype(np.uint8)


def split_jpeg(code: bytes) -> tuple[bytes, bytes]:
    """A JPEG's tables, and the JPEG without them."""
    tables, rest, at = b"", b"", 2
    while code[at + 1] != 0xDA:  # the picture itself
        end = at + 2 + int.from_bytes(code[at + 2 : at + 4], "big")
        if code[at + 1] in (0xDB, 0xC4):
            tables += code[at:end]
        else:
            rest += code[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + code[at:]


def encode(tile: np.ndarray, *, ycbcr: bool = True) -> tuple[bytes, bytes]:
    """Tables and content of a tile as Philips codes it: quality 80."""
    how = {"outcolorspace": "YCBCR", "subsampling": "420"} if ycbcr else {"outcolorspace": "RGB", "subsampling": "444"}
    return split_jpeg(imagecodecs.jpeg8_encode(tile, level=80, colorspace="RGB", **how))


def philips_xml(spacings: Sequence[float], *, macro_first: bool = True) -> str:
    """The ImageDescription: spacings in mm, one a level; the macro picture has one of its own."""

    def attribute(name: str, text: str) -> str:
        return f'<Attribute Name="{name}" Group="0x301D" Element="0x1004" PMSVR="IString">{text}</Attribute>'

    def pair(spacing: float) -> str:
        return attribute("DICOM_PIXEL_SPACING", f"&quot;{spacing:.10g}&quot; &quot;{spacing:.10g}&quot;")

    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{pair(s)}'
        f"{attribute('PIIM_PIXEL_DATA_REPRESENTATION_NUMBER', str(k))}</DataObject>"
        for k, s in enumerate(spacings)
    )
    wsi = (
        f'<DataObject ObjectType="DPScannedImage">{pair(spacings[0])}{attribute("PIM_DP_IMAGE_TYPE", "WSI")}'
        f"{attribute('PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE', f'<Array>{levels}</Array>')}</DataObject>"
    )
    macro = (
        f'<DataObject ObjectType="DPScannedImage">{pair(MACRO_SPACING)}'
        f"{attribute('PIM_DP_IMAGE_TYPE', 'MACROIMAGE')}</DataObject>"
    )
    images = f"<Array>{macro + wsi if macro_first else wsi + macro}</Array>"
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        f"{attribute('DICOM_MANUFACTURER', '3D Histech')}{attribute('PIM_DP_SCANNED_IMAGES', images)}</DataObject>"
    )


def write_levels(
    path: Path, sizes: Sequence[tuple[int, int]], coded: Sequence[Tiles], tables: bytes, mpp: float, *, ycbcr: bool
) -> None:
    """A Philips file of levels that are coded already: `sizes` are width, height as stored, None is a missing tile."""
    spacings = [mpp / 1000 * 2**k for k in range(len(sizes))]
    color = {"photometric": "ycbcr", "subsampling": (2, 2)} if ycbcr else {"photometric": "rgb"}
    kept = {} if ycbcr else {"compressionargs": {"outcolorspace": "rgb"}}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for k, ((width, height), tiles) in enumerate(zip(sizes, coded, strict=True)):
            tiff.write(
                (tile or b"" for tile in tiles),  # of length 0: offset and byte count become 0
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression="jpeg",
                subfiletype=int(k > 0),
                metadata=None,
                software="Philips DP v1.0" if k == 0 else None,
                description=philips_xml(spacings) if k == 0 else None,
                extratags=[(347, 7, len(tables), tables, True)],
                **color,
                **kept,
            )
        macro = cv2.resize(picture(400, 200), (800, 400))
        tiff.write(macro, photometric="rgb", compression="jpeg", description="Macro", metadata=None, rowsperstrip=400)


def write_philips(
    path: Path, rgb: np.ndarray, *, mpp: float = 0.2431, levels: int = 6, ycbcr: bool = True, leave_out: bool = True
) -> list[tuple[int, int]]:
    """Write a picture as a Philips slide; gives the true size (width, height) of each level.

    Level 0 is padded with white to whole tiles, as the scanner does it. With `leave_out`, white tiles are missing.
    """
    rgb = _pad(rgb)
    height, width = rgb.shape[:2]
    stored, coded, tables, level = [], [], b"", rgb
    for k in range(levels):
        if k:
            level = _halve(level)
        padded = _pad(level)
        stored.append((padded.shape[1], padded.shape[0]))
        tiles: list[bytes | None] = []
        for tile in tiles_of(padded):
            if leave_out and tile.min() == 255:
                tiles.append(None)
                continue
            tables, code = encode(tile, ycbcr=ycbcr)
            tiles.append(code)
        coded.append(tiles)
    write_levels(path, stored, coded, tables, mpp, ycbcr=ycbcr)
    return [(width // 2**k, height // 2**k) for k in range(levels)]


def write_large(path: Path, *, width: int, height: int, levels: int = 8, seed: int = 0) -> list[tuple[int, int]]:
    """A large slide in seconds: few tiles of noise, written again and again. Gives the true sizes of its levels."""
    random = np.random.default_rng(seed)
    kinds = []
    for _ in range(16):
        noise = random.integers(110, 230, (TILE // 4, TILE // 4, 3), np.uint8)
        tables, code = encode(cv2.resize(noise, (TILE, TILE), interpolation=cv2.INTER_CUBIC))
        kinds.append(code)

    def tiles(across: int, down: int) -> Iterator[bytes | None]:
        for number in range(across * down):
            yield None if number % 17 == 0 else kinds[number % 16]

    true = [(width // 2**k, height // 2**k) for k in range(levels)]
    grids = [(-(-w // TILE), -(-h // TILE)) for w, h in true]
    coded = [tiles(*grid) for grid in grids]
    write_levels(path, [(a * TILE, b * TILE) for a, b in grids], coded, tables, 0.2431, ycbcr=True)
    return true


def move_directories(path: Path) -> None:
    """Put the directory of each level, and its tables, behind its tiles: where the scanner's software has them."""
    other = path.with_suffix(".moved")
    with tifffile.TiffFile(path) as tiff, path.open("rb") as source, other.open("wb") as out:
        out.write(b"II+\0" + struct.pack("<HHQ", 8, 0, 0))
        link = 8  # where the place of the next directory is written
        for page in tiff.pages:
            places = []
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
                source.seek(offset)
                places.append(out.tell() if size else 0)
                out.write(source.read(size))
            entries = b""
            for tag in page.tags:
                source.seek(tag.valueoffset)
                raw, kind = source.read(tag.valuebytecount), int(tag.dtype)
                if tag.code in (273, 324):  # offsets of strips or tiles
                    raw, kind = struct.pack(f"<{len(places)}Q", *places), 16
                if len(raw) > 8:
                    place = struct.pack("<Q", out.tell())
                    out.write(raw)
                    raw = place
                entries += struct.pack("<HHQ", tag.code, kind, tag.count) + raw.ljust(8, b"\0")
            here = out.tell()
            out.write(struct.pack("<Q", len(entries) // 20) + entries)
            out.seek(link)
            out.write(struct.pack("<Q", here))
            link = here + 8 + len(entries)
            out.seek(link)
            out.write(bytes(8))
    other.replace(path)


def write_mask(path: Path, mask: np.ndarray, *, mpp: float = 0.2431, levels: int = 5, leave_out: bool = False) -> None:
    """Write values (height, width) as ASAP does: BigTIFF, uint8, LZW, tiles of 512, nearest, resolution in cm.

    With `leave_out`, tiles of zeros are missing.
    """
    parts = [mask[:: 2**k, :: 2**k] for k in range(levels)]
    coded = [
        (b"" if leave_out and not t.any() else imagecodecs.lzw_encode(t) for t in tiles_of(_pad(part, 0)))
        for part in parts
    ]
    write_mask_levels(path, [part.shape for part in parts], coded, mpp)


def write_mask_levels(
    path: Path, shapes: Sequence[tuple[int, ...]], coded: Sequence[Iterable[bytes]], mpp: float
) -> None:
    """An ASAP mask of levels that are coded already: `shapes` are height, width."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for k, (shape, tiles) in enumerate(zip(shapes, coded, strict=True)):
            pixels_per_cm = 1e4 / (mpp * 2**k)
            tiff.write(
                iter(tiles),
                shape=shape,
                dtype=np.uint8,
                photometric="minisblack",
                tile=(TILE, TILE),
                compression="lzw",
                subfiletype=int(k > 0),
                resolution=(pixels_per_cm, pixels_per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                software="ASAP",
            )


def draw_mask(width: int, height: int, *, at: Callable[[int, int], tuple[int, int, int]] | None = None) -> np.ndarray:
    """A mask for `picture`: 1 tissue, 2 a round tumour in it (`at` gives its x, y and radius from the size)."""
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (round(0.45 * width), round(0.45 * height)), (width // 3, height // 3), 0, 0, 360, 1, -1)
    x, y, radius = at(width, height) if at else (width // 2, height // 2, min(width, height) // 8)
    cv2.circle(mask, (x, y), radius, 2, -1)
    return mask


def _pad(image: np.ndarray, value: int = 255) -> np.ndarray:
    """White, or another value, up to whole tiles."""
    down, right = (-side % TILE for side in image.shape[:2])
    return np.pad(image, ((0, down), (0, right), *[(0, 0)] * (image.ndim - 2)), constant_values=value)


def _halve(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[0] // 2, rgb.shape[1] // 2
    return cv2.resize(rgb[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def tiles_of(rgb: np.ndarray) -> Iterator[np.ndarray]:
    for y in range(0, rgb.shape[0], TILE):
        for x in range(0, rgb.shape[1], TILE):
            yield np.ascontiguousarray(rgb[y : y + TILE, x : x + TILE])
