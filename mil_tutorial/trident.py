"""TRIDENT's files: read, write and compare them. Format as measured from TRIDENT 0.3.0's own output.

A job folder holds, for each magnification, patch size and overlap, a run folder such as `20x_512px_0px_overlap` with
`patches/<slide>_patches.h5` and `features_<encoder>/<slide>.h5`; `patch_labels/<slide>.h5` is this course's addition.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mil_tutorial.files import DataError, check_writable, written_whole
from mil_tutorial.geometry import Geometry, as_coords

EMPTY = 1 << 26  # bytes that a dataset may claim without holding any


@dataclass(frozen=True)
class Patches:
    """The patches of one slide: `coords` int64 (n, 2) x, y of the top-left corners in level-0 pixels, and their geometry."""

    name: str
    coords: np.ndarray
    geometry: Geometry


def run_folder(job_dir: str | os.PathLike, magnification: float, patch_size: int, overlap: int) -> Path:
    """TRIDENT's folder of one run, such as `<job_dir>/20x_512px_0px_overlap`."""
    return Path(job_dir) / f"{magnification:g}x_{patch_size}px_{overlap}px_overlap"


@contextmanager
def open_h5(path: str | os.PathLike):
    """Open an HDF5 file for reading; whatever is wrong with it becomes a `DataError` that names it."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Run the step that writes it, or check the slide's name.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BlockingIOError as error:
        raise DataError(
            f"{path}: another program is writing this file. Wait until it is done, and run again."
        ) from error
    except PermissionError as error:
        raise DataError(f"{path}: you may not read this file. Ask for the right to.") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read as HDF5 ({str(error)[:160]}). The file is damaged or was never finished."
            " Delete it and run the step that writes it again."
        ) from error


@contextmanager
def create_h5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """A new HDF5 file to fill; it appears when it is complete.

    It is built in memory (a slide's features are some ten MB) and written by Python: where the disk is full, the HDF5 library
    may take the whole interpreter down. Each dataset gets an attribute `crc32` of its values, which `read_rows` compares; the
    format of HDF5 1.10 keeps checksums of the rest.
    """
    check_writable(path)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        yield file
        for dataset in file.values():
            dataset.attrs["crc32"] = zlib.crc32(dataset[...])
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def coords_digest(coords: np.ndarray) -> str:
    """A short fingerprint of patch corners and their order, to notice that they have changed."""
    return hashlib.blake2b(np.ascontiguousarray(coords, "<i8").tobytes(), digest_size=8).hexdigest()


def get_dataset(file: h5py.File, key: str, path: Path, remedy: str = "Is this the right folder?") -> h5py.Dataset:
    """A dataset that lies in the file itself.

    Raises:
        DataError: it is missing, is kept in another file, or claims far more values than the file holds.
    """
    if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
        raise DataError(
            f"{path}: '{key}' is a link to another file, expected the data themselves. Take it from where it was made."
        )
    dataset = file.get(key)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{path}: dataset '{key}' is missing, found {', '.join(file) or 'nothing'}. {remedy}")
    if dataset.is_virtual or dataset.external:
        raise DataError(
            f"{path}: '{key}' is kept in other files, expected the data themselves. Take it from where it was made."
        )
    held = dataset.id.get_storage_size()
    if dataset.nbytes > EMPTY + 2000 * held:  # no compression of real data reaches that
        raise DataError(
            f"{path}: '{key}' claims {dataset.shape} values and holds {held} bytes. The file is damaged. Make it again."
        )
    return dataset


def read_patches(path: str | os.PathLike) -> Patches:
    """Read `<slide>_patches.h5`.

    Raises:
        DataError: no such file, damaged, no dataset `coords` of shape (n, 2), or attributes missing.
    """
    path = Path(path)
    with open_h5(path) as file:
        coords = _coords(file, path, "Make the coordinates again.")
        return Patches(path.stem.removesuffix("_patches"), coords, Geometry.from_attributes(file["coords"].attrs, path))


def _coords(file: h5py.File, path: Path, remedy: str) -> np.ndarray:
    dataset = get_dataset(file, "coords", path)
    if dataset.ndim != 2 or dataset.shape[1] != 2:
        raise DataError(f"{path}: 'coords' has shape {dataset.shape}, expected (n, 2). {remedy}")
    return read_rows(dataset).astype(np.int64, copy=False)


def _features(file: h5py.File, path: Path) -> tuple[h5py.Dataset, tuple[int, int]]:
    """The dataset `features` and its shape (n, D); D is 0 where an empty slide does not say it."""
    dataset = get_dataset(file, "features", path)
    shape = dataset.shape[1:] if dataset.ndim == 3 and dataset.shape[0] == 1 else dataset.shape  # some old files
    if dataset.size == 0:
        shape = (0, shape[1] if len(shape) == 2 else 0)
    if len(shape) != 2 or dataset.dtype.kind != "f":
        raise DataError(
            f"{path}: 'features' has shape {dataset.shape} and type {dataset.dtype}, expected (n, D) of floats. Make the features again."
        )
    return dataset, shape


def _feature_coords(file: h5py.File, path: Path) -> np.ndarray | None:
    return _coords(file, path, "Make the features again.") if "coords" in file else None


def features_header(
    path: str | os.PathLike, coords: bool = True
) -> tuple[tuple[int, int], np.dtype, np.ndarray | None]:
    """Shape (n, D), type and, if asked for, coordinates (n, 2) of a feature file, without its features. Raises as `read_features`."""
    path = Path(path)
    with open_h5(path) as file:
        dataset, shape = _features(file, path)
        return shape, dataset.dtype, _feature_coords(file, path) if coords else None


def read_features(path: str | os.PathLike, coords: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Read `features_<encoder>/<slide>.h5`.

    Args:
        path: the file.
        coords: whether to read the coordinates beside the features.

    Returns:
        Features (n, D) in the file's own float type, and the coordinates (n, 2) int64 beside them, None if there are none.

    Raises:
        DataError: no such file, damaged, or no dataset `features` of shape (n, D).
    """
    path = Path(path)
    with open_h5(path) as file:
        dataset, shape = _features(file, path)
        return read_rows(dataset).reshape(shape), _feature_coords(file, path) if coords else None


def _row_runs(dataset: h5py.Dataset) -> list[tuple[int, int, int]] | None:
    """Where rows lie one behind the other in the file: (first row, end row, byte offset); None where HDF5 must unpack them.

    TRIDENT's chunks of one row each form long runs, which HDF5 itself would read and copy one row at a time.
    """
    chunks, plist = dataset.chunks, dataset.id.get_create_plist()
    if (
        dataset.ndim != 2
        or len(dataset) < 64
        or not dataset.size
        or plist.get_nfilters()
        or dataset.file.userblock_size
    ):
        return None
    if chunks is None:
        offset = dataset.id.get_offset()
        return None if offset is None or dataset.external else [(0, len(dataset), offset)]
    if chunks[1] != dataset.shape[1] or not hasattr(dataset.id, "chunk_iter"):
        return None
    offsets = np.full(-(-len(dataset) // chunks[0]), -1, np.int64)

    def note(chunk) -> None:
        offsets[chunk.chunk_offset[0] // chunks[0]] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    if offsets.min() < 0:
        return None  # a chunk was never written: HDF5 knows what to put there
    size = chunks[0] * chunks[1] * dataset.dtype.itemsize
    first = np.flatnonzero(np.diff(offsets, prepend=-1) != size)  # HDF5 puts its own tables between some chunks
    end = np.minimum(np.append(first[1:], len(offsets)) * chunks[0], len(dataset))
    return list(zip((first * chunks[0]).tolist(), end.tolist(), offsets[first].tolist(), strict=True))


def read_rows(dataset: h5py.Dataset) -> np.ndarray:
    """All of a dataset, each run of rows with one read.

    Raises:
        ValueError: the values are not those that `create_h5` wrote. TRIDENT's own files carry no checksum.
    """
    runs = _row_runs(dataset)
    if runs is None:
        rows = dataset[...]
    else:
        rows = np.empty(dataset.shape, dataset.dtype)
        with open(dataset.file.filename, "rb", buffering=0) as file:
            for start, end, offset in runs:
                _fill(file, offset, rows[start:end])
    if "crc32" in dataset.attrs:
        _compare(dataset, zlib.crc32(rows))
    return rows


def _compare(dataset: h5py.Dataset, checksum: int) -> None:
    if checksum != dataset.attrs["crc32"]:
        raise ValueError(
            f"the values of '{dataset.name.lstrip('/')}' do not fit their attribute crc32, so are not those that were written"
        )


def _fill(file, offset: int, rows: np.ndarray) -> None:
    file.seek(offset)
    left = memoryview(rows).cast("B")
    while len(left):
        read = file.readinto(left)
        if not read:
            raise OSError("the file is shorter than its table of contents says")
        left = left[read:]


def count_bad_features(path: str | os.PathLike, block: int = 1 << 24) -> int:
    """How many features of a file are NaN or infinite; about `block` bytes are in memory at once. Raises as `read_features`."""
    path = Path(path)
    with open_h5(path) as file:
        dataset, (n, dim) = _features(file, path)
        runs = _row_runs(dataset)
        step = max(1, block // max(1, dim * dataset.dtype.itemsize))
        if runs is None or len(runs) > n // 16:
            if dataset.chunks and dataset.chunks[0] > step:
                step = dataset.chunks[0]  # a compressed chunk is unpacked whole
            flat = dataset if dataset.ndim == 2 else dataset[0]
            pieces = (flat[i : i + step] for i in range(0, n, step))
        else:
            pieces = _blocks(path, runs, step, np.empty((min(step, n), dim), dataset.dtype))
        bad, checksum, ours = 0, 0, "crc32" in dataset.attrs
        for rows in pieces:
            bad += count_bad(rows)
            checksum = zlib.crc32(rows, checksum) if ours else 0
        if ours:
            _compare(dataset, checksum)
        return bad


def _blocks(path: Path, runs: list[tuple[int, int, int]], step: int, buffer: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of a dataset in their order, at most `step` at once, always in the same memory."""
    size = buffer[0].nbytes
    with open(path, "rb", buffering=0) as raw:
        for start, end, offset in runs:
            for i in range(start, end, step):
                rows = buffer[: min(step, end - i)]
                _fill(raw, offset + (i - start) * size, rows)
                yield rows


def count_bad(values: np.ndarray) -> int:
    """How many values of an array are NaN or infinite. One pass decides the usual case: a sum of squares is finite only if every value is."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype == np.float32 and np.isfinite(np.dot(flat, flat)):
        return 0
    return int(np.count_nonzero(~np.isfinite(flat)))


def match_rows(
    features_path: str | os.PathLike, feature_coords: np.ndarray | None, n: int, patches: Patches
) -> np.ndarray | None:
    """Check that features and patches are the same patches, row for row.

    Returns:
        None if the rows agree, else the order `o` such that `features[o]` belongs to `patches.coords`.

    Raises:
        DataError: different numbers of patches, or different coordinates.
    """
    if n != len(patches.coords):
        raise DataError(
            f"{features_path}: {n} feature rows, but {len(patches.coords)} patches of slide {patches.name}."
            " They come from different runs. Make the features again from these coordinates."
        )
    if feature_coords is None or np.array_equal(feature_coords, patches.coords):
        return None
    here, there = (np.lexsort(c.T) for c in (feature_coords, patches.coords))
    if not np.array_equal(feature_coords[here], patches.coords[there]):
        raise DataError(
            f"{features_path}: its coordinates are not those of the patches of slide {patches.name}."
            " They come from different runs. Make the features again from these coordinates."
        )
    order = np.empty(n, np.int64)
    order[there] = here
    return order


def read_how(path: str | os.PathLike, names: Sequence[str]) -> dict[str, object]:
    """Those of the attributes `names` that an HDF5 file's datasets carry: how `mil-tutorial` made it, and from what."""
    with open_h5(path) as file:
        found = {}
        for dataset in (d for d in file.values() if isinstance(d, h5py.Dataset)):
            found |= {n: dataset.attrs[n] for n in names if n in dataset.attrs}
    return {n: v.item() if isinstance(v, np.generic) else v for n, v in found.items()}


def _write_coords(file: h5py.File, patches: Patches, folder: Path) -> h5py.Dataset:
    geometry = patches.geometry
    dataset = file.create_dataset("coords", data=as_coords(patches.coords))
    dataset.attrs.update(
        patch_size=geometry.patch_size,
        patch_size_level0=geometry.patch_size_level0,
        level0_magnification=int(geometry.level0_magnification),
        target_magnification=geometry.target_magnification,
        overlap=geometry.overlap,
        level0_width=geometry.width,
        level0_height=geometry.height,
        name=patches.name,
        savetodir=str(folder),
    )
    return dataset


def write_patches(path: str | os.PathLike, coords: np.ndarray, geometry: Geometry, **how: object) -> None:
    """Write `<slide>_patches.h5` as TRIDENT does.

    Args:
        coords: (n, 2) x, y in level-0 pixels; n may be 0.
        how: more attributes, which say how the patches were chosen; None is left out.
    """
    path = Path(path)
    patches = Patches(path.stem.removesuffix("_patches"), coords, geometry)
    with create_h5(path) as file:
        dataset = _write_coords(file, patches, path.parent.name)
        dataset.attrs.update({k: v for k, v in how.items() if v is not None})


@contextmanager
def new_features(
    path: str | os.PathLike, patches: Patches, encoder: str, dim: int, dtype: str
) -> Iterator[h5py.Dataset]:
    """Write `features_<encoder>/<slide>.h5` piece by piece: gives the dataset (n, dim) to fill; the file appears when it is full.

    Rows lie one behind the other in one block, which reads many times faster than TRIDENT's one chunk a row.
    """
    path = Path(path)
    with create_h5(path) as file:
        dataset = file.create_dataset("features", (len(patches.coords), dim), dtype)
        dataset.attrs.update(name=patches.name, savetodir=path.parent.name, encoder=encoder)
        _write_coords(file, patches, path.parent.name)
        yield dataset


def write_features(
    path: str | os.PathLike, features: np.ndarray, patches: Patches, encoder: str, compress: bool = False
) -> None:
    """Write `features_<encoder>/<slide>.h5` as TRIDENT does: `features` (n, D), and the coordinates beside them.

    `compress` makes small files with gzip, which h5py reads without being told.
    """
    path = Path(path)
    if not (compress and len(features)):
        with new_features(path, patches, encoder, features.shape[1], features.dtype) as dataset:
            dataset[:] = features
        return
    with create_h5(path) as file:
        dataset = file.create_dataset(
            "features", data=features, chunks=features.shape, shuffle=True, compression="gzip", compression_opts=9
        )
        dataset.attrs.update(name=patches.name, savetodir=path.parent.name, encoder=encoder)
        _write_coords(file, patches, path.parent.name)
