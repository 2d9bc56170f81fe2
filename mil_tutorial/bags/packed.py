"""A feature folder as one memory-mapped store: packed once, opened in milliseconds, shared by all processes.

`packed_<encoder>/` beside the feature folder holds two plain NumPy files, `features.npy` (all patches, D) and
`coords.npy` (all patches, 2), and `index.json`: which rows are which slide's, and from which files they came.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError, require
from mil_tutorial.files import HEX, crc32, read_json, remove_left_over, write_json
from mil_tutorial.hdf5 import count_bad
from mil_tutorial.trident import Patches, features_header, match_rows, read_features, read_patches

FORMAT = 2


@dataclass(frozen=True)
class PackedSlide:
    """Where one slide is in the store.

    Attributes:
        name: of the slide.
        start, stop: its rows are [start, stop).
        step_level0, patch_size_level0: its grid, in level-0 pixels.
        crc32: of its features, then its coordinates.
        sources: the files that it was made from: path below the run folder, bytes, time of change in ns.
    """

    name: str
    start: int
    stop: int
    step_level0: int
    patch_size_level0: int
    crc32: int
    sources: tuple[tuple[str, int, int], ...]


class PackedFeatures:
    """An opened store. It holds no features in memory, and is passed to other processes as a path.

    Attributes:
        folder: of the store.
        dim: feature size D.
        slides: `PackedSlide` by name.

    Raises:
        DataError: the store is damaged, or of another version.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._compared: set[str] = set()
        try:
            index = read_json(self.folder / "index.json")
            if index["format"] != FORMAT:
                raise ValueError(f"format {index['format']}")
            self.dim = int(index["dim"])
            self.slides: dict[str, PackedSlide] = {
                s["name"]: PackedSlide(**{**s, "sources": tuple(map(tuple, s["sources"]))}) for s in index["slides"]
            }
            total = max((s.stop for s in self.slides.values()), default=0)
            # Both arrays are mapped from here on, also if another process packs again.
            shapes = (self.features.shape, self.coords.shape)
            if shapes != ((total, self.dim), (total, 2)):
                raise ValueError(f"arrays of shapes {shapes} for {total} patches")
        except Exception as error:  # NumPy parses a damaged header as Python, which may raise anything
            raise DataError(
                f"{self.folder}: is not a complete store of this version ({error!s:.120})."
                " Delete it and run `mil-tutorial pack`."
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
            if _checksum(features, coords) != slide.crc32:
                raise DataError(
                    f"{self.folder}: the rows of slide {name} are not those that were written."
                    " Delete it and run `mil-tutorial pack`."
                )
            self._compared.add(name)
        return features, coords

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("features", "coords"):
            state.pop(name, None)  # pickled, a map would become a copy
        return state

    def changed(self, names: Iterable[str]) -> str | None:
        """What has changed since these slides were packed, as the end of a sentence; None if nothing has."""
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
        return None


def packed_folder(run: str | os.PathLike[str], encoder: str) -> Path:
    """The folder of the store of an encoder's features in a run folder."""
    return Path(run) / f"packed_{encoder}"


def list_features(folder: Path) -> dict[str, Path]:
    """The feature files of a folder by the names of their slides, sorted.

    Raises:
        DataError: no such folder, or no features in it; the message says what is there instead.
    """
    if not folder.is_dir():
        others = ", ".join(sorted(p.name for p in folder.parent.glob("features_*"))) or "none"
        raise DataError(
            f"{folder}: there is no such folder (feature folders there: {others}). Check the encoder's name."
        )
    if files := {p.stem: p for p in sorted(folder.glob("[!.]*.h5"))}:
        return files
    there = sorted(folder.glob("[!.]*"))
    kinds = Counter(p.suffix or "without an ending" for p in there).most_common(3)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds) + (f", such as {there[0].name}" if there else "none")
    raise DataError(
        f"{folder}: no features here. Files found: {found}. Expected TRIDENT's <slide>.h5."
        " Make them with TRIDENT or `mil-tutorial prepare`."
    )


def pack(run: str | os.PathLike[str], encoder: str, *, progress: bool = True) -> PackedFeatures:
    """Pack the features of all slides of a run into one store, or take the store that is there if nothing has changed.

    Rows are matched with the patches by coordinate, and checked for NaN, once and for all. The store appears when it is
    complete; an interrupted run leaves none.

    Args:
        run: TRIDENT's run folder, such as `.../20x_512px_0px_overlap`.
        encoder: name of the encoder; its features are in the folder `features_<name>`.
        progress: show a progress bar.

    Raises:
        ParameterError: not a path, or not a name.
        DataError: no features, or a file is damaged or does not fit; the message names it.
    """
    require(isinstance(run, (str, os.PathLike)), "run", run, "a path")
    require(isinstance(encoder, str), "encoder", encoder, "a text")
    run = Path(run)
    files, target = list_features(run / f"features_{encoder}"), packed_folder(run, encoder)
    with suppress(DataError):  # damaged, or of another version: made again
        if target.exists():
            store = PackedFeatures(target)
            if store.slides.keys() == files.keys() and store.changed(files) is None:
                return store
    remove_left_over(run, f".packed_{escape(encoder)}.*.{HEX}*")
    temporary = run / f".packed_{encoder}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        _write_store(temporary, run, files, encoder, progress)
        _put(temporary, target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error!s:.120}). Check the free space and your rights there."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _open_again(target)


def _write_store(folder: Path, run: Path, files: Mapping[str, Path], encoder: str, progress: bool) -> None:
    """Write features, coordinates and index of all slides into an empty folder.

    The arrays are written and not mapped: on a full disk a write raises an error, but a mapped page kills the process.
    """
    (total, dim), dtype = _common_shape(files)
    slides: list[PackedSlide] = []
    with open(folder / "features.npy", "wb") as features_file, open(folder / "coords.npy", "wb") as coords_file:
        _write_header(features_file, (total, dim), dtype)
        _write_header(coords_file, (total, 2), np.dtype(np.int64))
        for name, path in tqdm(files.items(), desc="Packing", unit="slide", disable=not progress):
            sources = _sources(run, name, path)  # before they are read, so that a change meanwhile is noticed
            features, patches = _read_slide(run, name, path)
            features = np.ascontiguousarray(features, dtype)
            coords = np.ascontiguousarray(patches.coords, np.int64)
            features_file.write(features.data)
            coords_file.write(coords.data)
            start, grid = slides[-1].stop if slides else 0, patches.geometry
            stop, crc32 = start + len(features), _checksum(features, coords)
            slides.append(PackedSlide(name, start, stop, grid.step_level0, grid.patch_size_level0, crc32, sources))
    index = {"format": FORMAT, "encoder": encoder, "dim": dim, "slides": [vars(s) for s in slides]}
    write_json(folder / "index.json", index)


def _common_shape(files: Mapping[str, Path]) -> tuple[tuple[int, int], np.dtype]:
    """Shape (patches, D) and type of all features together.

    Raises:
        DataError: they are of different sizes D.
    """
    headers = [features_header(path, coords=False)[:2] for path in files.values()]
    dims = Counter(shape[1] for shape, _ in headers if shape[0])  # an empty slide may not say its D
    usual = dims.most_common(1)[0][0] if dims else 0
    for path, (shape, _) in zip(files.values(), headers, strict=True):
        if shape[0] and shape[1] != usual:
            raise DataError(f"{path}: {shape[1]} features for each patch, others have {usual}. Use one encoder.")
    return (sum(shape[0] for shape, _ in headers), usual), np.result_type(*{dtype for _, dtype in headers})


def _read_slide(run: Path, name: str, path: Path) -> tuple[np.ndarray, Patches]:
    """A slide's features (n, D), checked and in the order of its patches, and the patches."""
    patches = read_patches(run / "patches" / f"{name}_patches.h5")
    features, coords = read_features(path)
    order = match_rows(path, coords, len(features), patches)
    if bad := count_bad(features):
        raise DataError(f"{path}: {bad} features are NaN or infinite. Make its features again.")
    return features if order is None else features[order], patches


def _sources(run: Path, name: str, path: Path) -> tuple[tuple[str, int, int], ...]:
    """The files of a slide, with sizes and times of change; see `PackedSlide`."""
    files = [file for file in (path, run / "patches" / f"{name}_patches.h5") if file.exists()]
    stats = [(file.relative_to(run).as_posix(), os.stat(file)) for file in files]
    return tuple((below, stat.st_size, stat.st_mtime_ns) for below, stat in stats)


def _checksum(features: np.ndarray, coords: np.ndarray) -> int:
    return crc32(coords, crc32(features))


def _write_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> None:
    """The head of a NumPy file whose rows follow."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
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


def _open_again(target: Path) -> PackedFeatures:
    """The store, also while another process puts its own here; not mapped before, as Windows renames no open folder."""
    for _ in range(20):
        with suppress(DataError):
            return PackedFeatures(target)
        time.sleep(0.05)
    return PackedFeatures(target)
