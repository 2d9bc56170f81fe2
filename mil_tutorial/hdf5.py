"""HDF5 files that are whole, carry checksums, and are read in long runs.

A file appears when it is complete. Each dataset that is written here has an attribute `crc32` of its values, which is
compared whenever it is read; files of other programs have none and are taken as they are.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mil_tutorial.chunks import chunk_offsets
from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.files import check_writable, crc32, written_whole

EMPTY = 1 << 26  # bytes that a dataset may claim without holding any

BLOCK = 1 << 24  # bytes that are in memory at once where a dataset is read block by block

OWN = 1 << 20  # bytes of an array that gets memory of its own

Runs = list[tuple[int, int, int]]  # first row, end row, byte offset in the file


class DamagedFile(DataError):
    """A file is not what was written: it cannot be read as HDF5, or its values do not match their checksum."""


@contextmanager
def open_h5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; whatever is wrong with it becomes a `DataError` that names it.

    Raises:
        DamagedFile: it is not HDF5, not whole, or not what was written.
        DataError: there is no such file, or it cannot be read now.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Run the step that writes it, or check the slide's name.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ParameterError:
        raise
    except BlockingIOError as error:
        raise DataError(
            f"{path}: another program is writing this file. Wait until it is done, then try again."
        ) from error
    except PermissionError as error:
        raise DataError(f"{path}: you are not allowed to read this file. Ask for the right to.") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if getattr(error, "errno", None):  # the disk's or the network's word, not the file's
            raise DataError(f"{path}: cannot be read ({error!s:.160}). Check the disk, then try again.") from error
        raise DamagedFile(
            f"{path}: cannot be read as HDF5 ({error!s:.160}). The file is damaged or was never finished."
            " Delete it and run the step that writes it again."
        ) from error


@contextmanager
def create_h5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file to fill; it appears when it is complete.

    It is built in memory (a slide's features are some ten MB) and written by Python: where the disk is full, the HDF5
    library may take the whole interpreter down. Each dataset gets its attribute `crc32`; the format of HDF5 1.10 keeps
    checksums of everything else.
    """
    check_writable(path)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        yield file
        for dataset in file.values():
            dataset.attrs["crc32"] = crc32(dataset[...])
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def get_dataset(
    file: h5py.File | h5py.Group, key: str, path: Path | str, *, remedy: str = "Check that this is the right folder."
) -> h5py.Dataset:
    """A dataset that is in the file itself; `path` names the file in errors.

    Raises:
        DataError: it is missing, is kept in another file, or claims far more values than the file holds.
    """
    if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
        raise DataError(
            f"{path}: '{key}' is a link to another file, expected the data themselves. Copy the file that holds them."
        )
    dataset = file[key] if key in list(file) else None  # what is listed and cannot be opened is damaged: a KeyError
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{path}: dataset '{key}' is missing, found {', '.join(file) or 'nothing'}. {remedy}")
    if dataset.is_virtual or dataset.external:
        raise DataError(
            f"{path}: '{key}' is kept in other files, expected the data themselves. Copy the file that holds them."
        )
    held = dataset.id.get_storage_size()
    if dataset.nbytes > EMPTY + 2000 * held:  # no compression of real data reaches that
        raise DataError(
            f"{path}: '{key}' claims {dataset.shape} values and holds {held} bytes. The file is damaged. Make it again."
        )
    return dataset


def new_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled; a large one has memory of its own, which the system gets back as soon as it is gone.

    Of its own, the C library takes blocks of up to 32 MB from one heap, as large as a bag. Small ones that stay lie
    between them, so that those that were freed fit nothing, and a process grows with every bag that it reads.

    Linux is asked for pages of 2 MB in place of 4 KB: to hand out a bag's memory page by page takes twice as long as to
    copy the bag into it.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < OWN:
        return np.empty(shape, dtype)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, size, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def read_rows(dataset: h5py.Dataset) -> np.ndarray:
    """All of a dataset, each run of rows with one read.

    Raises:
        ValueError: the values do not match their checksum. Inside `open_h5` it becomes a `DamagedFile`.
    """
    runs = _row_runs(dataset)
    if runs is None:
        rows = dataset[...]
    else:
        rows = new_array(dataset.shape, dataset.dtype)
        with open(dataset.file.filename, "rb", buffering=0) as file:
            for start, end, offset in runs:
                _fill(file, offset, rows[start:end])
    if "crc32" in dataset.attrs:
        _compare(dataset, crc32(rows))
    return rows


def read_blocks(dataset: h5py.Dataset, *, size: int = BLOCK) -> Iterator[np.ndarray]:
    """All of a dataset in blocks of about `size` bytes, in their order; a block may take the memory of the one before.

    Raises:
        ValueError: after the last block, if the values do not match their checksum.
    """
    n, runs, checksum = len(dataset), _row_runs(dataset), 0
    step = max(1, size // max(1, dataset.nbytes // max(1, n)))
    if runs is None or len(runs) > n // 16:
        step = max(step, dataset.chunks[0] if dataset.chunks else 1)  # a compressed chunk is unpacked whole
        blocks: Iterator[np.ndarray] = (dataset[i : i + step] for i in range(0, n, step))
    else:
        buffer = np.empty((min(step, n), *dataset.shape[1:]), dataset.dtype)
        blocks = _raw_blocks(dataset.file.filename, runs, buffer)
    ours = "crc32" in dataset.attrs
    for rows in blocks:
        checksum = crc32(rows, checksum) if ours else 0
        yield rows
    if ours:
        _compare(dataset, checksum)


def compare_values(dataset: h5py.Dataset) -> None:
    """Compare a dataset with its checksum, if it carries one.

    Raises:
        ValueError: the values do not match it.
    """
    if "crc32" in dataset.attrs:
        for _ in read_blocks(dataset):
            pass


def _compare(dataset: h5py.Dataset, checksum: int) -> None:
    if checksum != dataset.attrs["crc32"]:
        raise ValueError(f"the values of '{dataset.name.lstrip('/')}' do not match their attribute crc32")


def _row_runs(dataset: h5py.Dataset) -> Runs | None:
    """Where rows follow one another in the file; None where HDF5 must unpack them.

    TRIDENT's chunks of one row each form long runs, which HDF5 itself would read and copy one row at a time.
    """
    chunks, plist = dataset.chunks, dataset.id.get_create_plist()
    small = dataset.ndim != 2 or len(dataset) < 64 or not dataset.size
    if small or plist.get_nfilters() or dataset.file.userblock_size:
        return None
    if chunks is None:
        offset = dataset.id.get_offset()
        return None if offset is None or dataset.external else [(0, len(dataset), offset)]
    if chunks[1] != dataset.shape[1]:
        return None
    offsets = chunk_offsets(dataset)
    if offsets is None:
        offsets = _ask_h5py(dataset)
    if offsets is None or offsets.min() < 0:
        return None  # a chunk was never written: HDF5 knows what to put there
    size = chunks[0] * chunks[1] * dataset.dtype.itemsize
    first = np.flatnonzero(np.diff(offsets, prepend=-1) != size)  # HDF5 puts its own tables between some chunks
    end = np.minimum(np.append(first[1:], len(offsets)) * chunks[0], len(dataset))
    return list(zip((first * chunks[0]).tolist(), end.tolist(), offsets[first].tolist(), strict=True))


def _ask_h5py(dataset: h5py.Dataset) -> np.ndarray | None:
    """What `chunk_offsets` gives, chunk by chunk; None where h5py cannot tell."""
    if not hasattr(dataset.id, "chunk_iter"):
        return None
    rows = dataset.chunks[0]
    offsets = np.full(-(-len(dataset) // rows), -1, np.int64)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0] // rows] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return offsets


def _fill(file: io.FileIO, offset: int, rows: np.ndarray) -> None:
    file.seek(offset)
    left = rows.data.cast("B")
    while len(left):
        read = file.readinto(left)
        if not read:
            raise OSError("the file is shorter than its table of contents says")
        left = left[read:]


def _raw_blocks(path: str, runs: Runs, buffer: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of a dataset in their order, at most as many as `buffer` holds, always in its memory."""
    size, step = buffer[0].nbytes, len(buffer)
    with open(path, "rb", buffering=0) as raw:
        for start, end, offset in runs:
            for i in range(start, end, step):
                rows = buffer[: min(step, end - i)]
                _fill(raw, offset + (i - start) * size, rows)
                yield rows


def count_bad(values: np.ndarray) -> int:
    """How many values of an array are NaN or infinite.

    >>> count_bad(np.array([1.0, np.nan, np.inf]))
    2
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if flat.dtype == np.float32 and np.isfinite(np.dot(flat, flat)):
            return 0  # one pass decides the usual case: a sum of squares is finite only if every value is
    if flat.dtype == np.float16:  # all bits of the exponent are 1; NumPy's isfinite takes four times as long here
        return int(np.count_nonzero((flat.view(np.uint16) & 0x7C00) == 0x7C00))
    return int(np.count_nonzero(~np.isfinite(flat)))
