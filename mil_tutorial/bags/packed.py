"""A feature folder as one contiguous, memory-mapped store: packed once, opened in milliseconds, shared by all processes.

`packed_<encoder>/` beside the feature folder holds two plain NumPy files, `features.npy` (all patches, D) and `coords.npy`
(all patches, 2), and `index.json`: which rows belong to which slide, and from which files they came.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError
from mil_tutorial.files import HEX, read_json, remove_left_over, write_json
from mil_tutorial.hdf5 import count_bad
from mil_tutorial.trident import features_header, match_rows, read_features, read_patches

FORMAT = 2


@dataclass(frozen=True)
class PackedSlide:
    """Rows [start, stop) of the store are one slide's; `step_level0` and `patch_size_level0` are its grid's, in level-0 pixels.

    `crc32` is of its features, then its coordinates.
    """

    name: str
    start: int
    stop: int
    step_level0: int
    patch_size_level0: int
    crc32: int
    sources: tuple[tuple[str, int, int], ...]  # path below the run folder, bytes, time of change in ns


class PackedFeatures:
    """An opened store. It holds no features in memory, and is passed to other processes as a path.

    Attributes:
        folder: of the store.
        dim: feature size D.
        slides: `PackedSlide` by name.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, self._compared = Path(folder), set()
        path = self.folder / "index.json"
        try:
            index = read_json(path)
            if index["format"] != FORMAT:
                raise ValueError(f"format {index['format']}")
            self.dim = int(index["dim"])
            self.slides = {
                s["name"]: PackedSlide(**{**s, "sources": tuple(map(tuple, s["sources"]))}) for s in index["slides"]
            }
            total = max((s.stop for s in self.slides.values()), default=0)
            shapes = (self.features.shape, self.coords.shape)  # mapped from here on, also if another process packs anew
            if shapes != ((total, self.dim), (total, 2)):
                raise ValueError(f"arrays of shapes {shapes} for {total} patches")
        except Exception as error:  # NumPy parses a damaged header as Python, which may raise anything
            raise DataError(
                f"{self.folder}: is no whole store of this version ({error!s:.120}). Delete it and run `mil-tutorial pack`."
            ) from error

    def _map(self, name: str) -> np.ndarray:
        # Copy on write: PyTorch wants writable memory, and the file must not change.
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        except OSError as error:
            raise DataError(f"{self.folder}: was replaced by another process ({error!s:.80}). Run it again.") from error

    @cached_property
    def features(self) -> np.ndarray:
        """All features, (patches, D) float16 or float32, mapped."""
        return self._map("features")

    @cached_property
    def coords(self) -> np.ndarray:
        """All corners, (patches, 2) int64 level-0 pixels, mapped."""
        return self._map("coords")

    def rows(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A slide's features (n, D) and corners (n, 2), mapped. The first time, they are compared with their checksum.

        Raises:
            DataError: they are not what was written.
        """
        slide = self.slides[name]
        features, coords = self.features[slide.start : slide.stop], self.coords[slide.start : slide.stop]
        if name not in self._compared:
            if zlib.crc32(coords, zlib.crc32(features)) != slide.crc32:
                raise DataError(
                    f"{self.folder}: the rows of slide {name} are not those that were written. Delete it and run `mil-tutorial pack`."
                )
            self._compared.add(name)
        return features, coords

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        for name in ("features", "coords"):
            state.pop(name, None)  # pickled, a map would become a copy
        return state

    def changed(self, names: Sequence[str]) -> str:
        """The first file that is not what it was when it was packed, or slide that is not packed; "" if all are."""
        run = self.folder.parent
        for name in names:
            if name not in self.slides:
                return f"slide {name} is not in it"
            for file, size, changed in self.slides[name].sources:
                try:
                    now = os.stat(run / file)
                except OSError:
                    return f"{run / file} is gone"
                if (now.st_size, now.st_mtime_ns) != (size, changed):
                    return f"{run / file} has changed since"
        return ""


def packed_folder(run: str | os.PathLike, encoder: str) -> Path:
    """Where the store of an encoder's features lies in a run folder."""
    return Path(run) / f"packed_{encoder}"


def _source(run: Path, path: Path) -> tuple[str, int, int]:
    found = os.stat(path)
    return path.relative_to(run).as_posix(), found.st_size, found.st_mtime_ns


def _write_header(file, shape: tuple[int, int], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _put(folder: Path, target: Path) -> None:
    """Rename a folder over another. Other processes may do the same; each of theirs is as good as ours."""
    for tries_left in reversed(range(20)):
        try:
            os.replace(folder, target)
            return
        except OSError:
            if not tries_left:
                raise
        old = folder.with_name(f"{folder.name}.old{tries_left}")
        with suppress(OSError):  # another process took it away
            os.replace(target, old)
        shutil.rmtree(old, ignore_errors=True)


def _open_anew(target: Path) -> PackedFeatures:
    """The store, also while another process puts its own in this place. Nothing was mapped before: Windows renames no open folder."""
    for _ in range(20):
        with suppress(DataError):
            return PackedFeatures(target)
        time.sleep(0.05)
    return PackedFeatures(target)


def pack(run: str | os.PathLike, encoder: str, progress: bool = True) -> PackedFeatures:
    """Pack the features of all slides of a run into one store, or take the store that is there if nothing has changed.

    Rows are matched with the patches by coordinate, and checked for NaN, once and for all. The store appears when it is
    complete; an interrupted run leaves none.

    Raises:
        DataError: no features, or a file is damaged or does not fit; the message names it.
    """
    run = Path(run)
    source, target = run / f"features_{encoder}", packed_folder(run, encoder)
    files = {p.stem: p for p in sorted(source.glob("[!.]*.h5"))}
    if not files:
        raise DataError(
            f"{source}: no features here. Run TRIDENT or `mil-tutorial prepare` first, or check the encoder's name."
        )
    if target.exists():
        try:
            store = PackedFeatures(target)
            if set(store.slides) == set(files) and not store.changed(list(files)):
                return store
        except DataError:
            pass  # made anew below
    remove_left_over(run, f".packed_{escape(encoder)}.*.{HEX}*")
    headers = {name: features_header(path, coords=False)[:2] for name, path in files.items()}
    dims = {shape[1] for shape, _ in headers.values() if shape[0]}
    if len(dims) > 1:
        usual = max(dims, key=[s[1] for s, _ in headers.values()].count)
        odd = next(n for n, (s, _) in headers.items() if s[0] and s[1] != usual)
        raise DataError(
            f"{files[odd]}: {headers[odd][0][1]} features for each patch, others have {usual}. Use one encoder."
        )
    total, dim = sum(s[0] for s, _ in headers.values()), dims.pop() if dims else 0
    dtype = np.result_type(*(d for _, d in headers.values()))
    temporary = run / f".packed_{encoder}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        slides = []
        with open(temporary / "features.npy", "wb") as out, open(temporary / "coords.npy", "wb") as out_coords:
            _write_header(out, (total, dim), dtype)
            _write_header(out_coords, (total, 2), np.int64)
            start = 0
            for name, path in tqdm(files.items(), desc="Packing", unit="slide", disable=not progress):
                patches_file = run / "patches" / f"{name}_patches.h5"
                sources = (_source(run, path), _source(run, patches_file)) if patches_file.exists() else ()
                patches = read_patches(patches_file)
                features, coords = read_features(path)
                order = match_rows(path, coords, len(features), patches)
                if bad := count_bad(features):
                    raise DataError(f"{path}: {bad} features are NaN or infinite. Make its features again.")
                features = features if order is None else features[order]
                features = np.ascontiguousarray(features, dtype)
                corners = np.ascontiguousarray(patches.coords, np.int64)
                out.write(features.data)
                out_coords.write(corners.data)
                g, stop, crc32 = patches.geometry, start + len(features), zlib.crc32(corners, zlib.crc32(features))
                slides.append(PackedSlide(name, start, stop, g.step_level0, g.patch_size_level0, crc32, sources))
                start = stop
        index = {"format": FORMAT, "encoder": encoder, "dim": dim, "slides": [vars(s) for s in slides]}
        write_json(temporary / "index.json", index)
        _put(temporary, target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error!s:.120}). Check the free space and your rights there."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _open_anew(target)
