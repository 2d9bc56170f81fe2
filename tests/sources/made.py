"""A small CAMELYON16 as its servers have it: reference, slides, masks, annotations, checksums, AEM's HDF5, archives."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import tifffile
from remote.philips import TILE, tiles_of

AEM = "datasets/dazhangyu123/AEM-dataset/CAMELYON16/patch_feats_pretrain_medical_ssl.h5"
TORCHMIL = "datasets/torchmil/Camelyon16_MIL/dataset/patches_512"
RUN = "trident_processed/20x_256px_0px_overlap"

WIDTH, HEIGHT, SIDE, STEP = 8192, 6144, 512, 256
DIM = 384

# 24 slides, six of each split and label; tumor_010 is annotated in part.
TRAIN_TUMOR = ["tumor_001", "tumor_002", "tumor_010", "tumor_075", "tumor_091", "tumor_111"]
TRAIN_NORMAL = ["normal_001", "normal_004", "normal_042", "normal_108", "normal_144", "normal_150"]
TEST_TUMOR = ["test_001", "test_002", "test_004", "test_008", "test_010", "test_114"]
TEST_NORMAL = ["test_003", "test_005", "test_006", "test_007", "test_009", "test_012"]
TUMOR = TRAIN_TUMOR + TEST_TUMOR
NAMES = sorted(TUMOR + TRAIN_NORMAL + TEST_NORMAL)
OTHERS = 300  # further groups of the HDF5 file
MACRO, UMCU = NAMES[::2], ("tumor_075", "tumor_091", "normal_108", "normal_144", "normal_150", "test_002", "test_003")


def seed(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))


def corners(name: str, step: int = STEP) -> np.ndarray:
    """CLAM's kind: a grid whose origin is anywhere."""
    x0, y0 = seed(name).integers(0, 200, 2)
    x, y = np.meshgrid(np.arange(x0, WIDTH - SIDE, step), np.arange(y0, HEIGHT - SIDE, step))
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.int64)


def torchmil_corners(name: str) -> np.ndarray:
    """Every other place of a grid from (0, 0)."""
    x, y = np.meshgrid(np.arange(0, WIDTH, SIDE), np.arange(0, HEIGHT, SIDE))
    return np.stack([x.ravel(), y.ravel()], 1)[int(seed(name).integers(0, 2)) :: 2].astype(np.int64)


def features(name: str, n: int, dim: int = DIM, dtype: str = "f2") -> np.ndarray:
    return seed(name + dtype).standard_normal((n, dim)).astype(dtype)


def tumor_box(name: str) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the lesion."""
    x, y, w, h = seed(name + "lesion").integers((600, 600, 900, 900), (5000, 3500, 2500, 2000))
    return int(x), int(y), int(x + w), int(y + h)


def fraction(name: str, coords: np.ndarray) -> np.ndarray:
    """By hand: the part of each patch that lies in the lesion."""
    left, top, right, bottom = tumor_box(name)
    x, y = coords.T
    w = np.minimum(x + SIDE, right) - np.maximum(x, left)
    h = np.minimum(y + SIDE, bottom) - np.maximum(y, top)
    return np.clip(w, 0, None) * np.clip(h, 0, None) / SIDE**2


@lru_cache(256)
def coded(tile: bytes, compression: str) -> bytes:
    """A tile compressed: once, as most tiles of these slides are alike."""
    return zlib.compress(tile) if compression == "zlib" else imagecodecs.lzw_encode(tile)


def write_tiff(path: Path, pixels: np.ndarray, *, compression: str) -> None:
    """Three levels in tiles of 512, which the sides are multiples of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(3):
            part = pixels[:: 2**level, :: 2**level]
            file.write(
                (coded(tile.tobytes(), compression) for tile in tiles_of(part)),
                shape=part.shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="minisblack",
                metadata=None,
                subfiletype=int(level > 0),
                compression=compression,
            )


def write_bucket(folder: Path) -> None:
    root = folder / "CAMELYON16"
    glass = np.zeros((HEIGHT, WIDTH), np.uint8)
    write_tiff(root / "images" / f"{NAMES[0]}.tif", glass, compression="zlib")
    content = (root / "images" / f"{NAMES[0]}.tif").read_bytes()
    (root / "annotations").mkdir()
    lines = ["image,type,class,center"]
    glass[300:-300, 300:-300] = 1
    write_tiff(root / "masks" / "tissue.tif", glass, compression="lzw")
    tissue = (root / "masks" / "tissue.tif").read_bytes()
    (root / "masks" / "tissue.tif").unlink()
    for name in NAMES:
        (root / "images" / f"{name}.tif").write_bytes(content)
        (root / "masks" / f"{name}_mask.tif").write_bytes(tissue)
        if name in TUMOR:
            left, top, right, bottom = tumor_box(name)
            mask = glass.copy()
            mask[top:bottom, left:right] = 2
            write_tiff(root / "masks" / f"{name}_mask.tif", mask, compression="lzw")
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
            corner = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
            polygon = f'<Annotation Name="a" Type="Polygon" PartOfGroup="Tumor"><Coordinates>{corner}</Coordinates>'
            whole = f"<ASAP_Annotations><Annotations>{polygon}</Annotation></Annotations></ASAP_Annotations>"
            (root / "annotations" / f"{name}.xml").write_text(f'<?xml version="1.0"?>{whole}')
        kind = "tumor" if name in TUMOR else "normal"
        size = ("macro" if name in MACRO else "micro") if name in TUMOR else "negative"
        lines.append(f"{name}.tif,{kind},{size},{int(name in UMCU)}")
    (root / "evaluation").mkdir()
    (root / "evaluation" / "reference.csv").write_text("\n".join(lines) + "\n")
    write_checksums(root)


def write_checksums(root: Path, star: str = "*") -> None:
    """`checksums.md5`, with or without a star before each name."""
    files = sorted(p for kind in ("images", "masks", "annotations") for p in (root / kind).iterdir())
    lines = [f"{hashlib.md5(p.read_bytes()).hexdigest()} {star}{p.relative_to(root).as_posix()}" for p in files]
    (root / "checksums.md5").write_text("\n".join(lines) + "\n")


def write_aem(path: Path, *, others: int = OTHERS, **storage: object) -> None:
    """AEM's file: the slides among many other groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted([*NAMES, *(f"zz_{k:03d}" if k % 2 else f"aa_{k:03d}" for k in range(others))])
    with h5py.File(path, "w") as file:
        for name in names:
            coords = corners(name) if name in NAMES else corners(name)[:50]
            group = file.create_group(name)
            group.create_dataset("feat", data=features(name, len(coords)), **storage)
            group.create_dataset("coords", data=coords, **storage)
            group.attrs["label"] = int(name in TUMOR)


def write_archives(folder: Path, dim: int = 32) -> None:
    """torchmil's archives of the same slides, which have another grid there."""
    (folder / TORCHMIL / "features").mkdir(parents=True)
    coords = {name: torchmil_corners(name) for name in NAMES}
    contents = {
        "coords": coords,
        "patch_labels": {
            n: (fraction(n, c) > 0.5 if n in TUMOR else c[:, 0] < 0).astype(int) for n, c in coords.items()
        },
        "features/features_UNI": {n: features(n, len(c), dim, "f4") for n, c in coords.items()},
    }
    for file, arrays in contents.items():
        with tarfile.open(folder / TORCHMIL / f"{file}.tar.gz", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("."))
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array)
                member = tarfile.TarInfo(f"./{name}.npy")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)


def tree(root: Path) -> dict[str, bytes]:
    """All files of a data root."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
