"""TRIDENT's files: read, write and compare them. Format as measured from TRIDENT 0.3.0's own output.

A job folder holds, for each magnification, patch size and overlap, a run folder such as `20x_512px_0px_overlap` with
`patches/<slide>_patches.h5` and `features_<encoder>/<slide>.h5`; `patch_labels/<slide>.h5` is this course's addition.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.files import check_writable, written_whole

EMPTY = 1 << 26  # bytes that a dataset may claim without holding any


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
