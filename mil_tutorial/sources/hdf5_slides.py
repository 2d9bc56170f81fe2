"""The features of single slides out of one large HDF5 file on a server, which holds a group for each slide.

Source: the layout of the data set AEM, https://huggingface.co/datasets/dazhangyu123/AEM-dataset: in each group the
datasets `feat` float16 (n, D) and `coords` (n, 2) in level-0 pixels, and an attribute `label`. They are written without
chunks, so that a slide's values follow one another and can be fetched as two ranges.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any

import h5py
import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.files import read_json, write_json
from mil_tutorial.hdf5 import get_dataset
from mil_tutorial.remote import Head, RangeFile
from mil_tutorial.sources.pieces import Range

# Bytes that are read at once for the table of contents: it is spread over the whole file in small pieces.
SMALLEST_BLOCK, LARGEST_BLOCK, BLOCKS_OF_FILE = 1 << 7, 1 << 13, 1_000_000


KEPT = 8  # slides that are looked up before what was found is written down


@dataclass(frozen=True)
class Place:
    """Where a slide's values lie in the file.

    Attributes:
        shape: of the features (n, D).
        feat, coords: first byte and the one behind the last; None where HDF5 must unpack them (chunks, compression).
        feat_type, coords_type: NumPy's names of their types.
        label: the slide's label as the file has it; None if it has none.
    """

    shape: tuple[int, int]
    feat: Range | None
    coords: Range | None
    feat_type: str
    coords_type: str
    label: int | None

    @property
    def ranges(self) -> list[Range] | None:
        """What to fetch: corners, then features; None where HDF5 must unpack one of them."""
        return [self.coords, self.feat] if self.coords is not None and self.feat is not None else None

    @property
    def size(self) -> int:
        """Bytes of corners and features, as arrays."""
        n, dim = self.shape
        return n * (2 * np.dtype(self.coords_type).itemsize + dim * np.dtype(self.feat_type).itemsize)


def find_places(
    url: str, head: Head, names: Iterable[str], note: Path, *, told: Callable[[int], object] = lambda n: None
) -> tuple[dict[str, Place], list[str]]:
    """Look up slides in the file's table of contents. Only the groups of these slides are touched.

    Args:
        url, head: the file.
        names: of the slides.
        note: a JSON file that keeps what was looked up, for a later run. Another version of the file voids it, and what
            was fetched of that: the folder beside it of the same name.
        told: is told 1 after each slide that was looked up.

    Returns:
        The places by name, and the names that the file does not have.

    Raises:
        DataError: no network, or the file is not laid out like this.
    """
    version = {"size": head.size, "version": head.linked_etag or head.etag}
    known = _read_note(note, version)
    if not known:
        shutil.rmtree(note.with_suffix(""), ignore_errors=True)
    wanted = [name for name in names if name not in known]
    missing: list[str] = []
    if wanted:
        with open_remote_h5(url, head) as file:
            for number, name in enumerate(wanted, 1):
                if name in file:
                    known[name] = place_of(file[name], url)
                else:
                    missing.append(name)
                told(1)
                if number % KEPT == 0 or number == len(wanted):
                    write_json(note, {**version, "places": {n: asdict(place) for n, place in known.items()}})
    return {name: known[name] for name in names if name in known}, missing


@contextmanager
def open_remote_h5(url: str, head: Head) -> Iterator[h5py.File]:
    """The file, read from afar.

    Raises:
        DataError: no network, or it is not HDF5, damaged, or lacks what is asked of it.
    """
    block = min(max(head.size // BLOCKS_OF_FILE, SMALLEST_BLOCK), LARGEST_BLOCK)
    file = _RangeFile(url, size=head.size, block=block)
    try:
        with h5py.File(file, "r") as opened:
            yield opened
    except DataError as error:
        _let_go(error, file)
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        cause = file.error
        _let_go(error, file)
        if cause is not None:  # HDF5 swallows what its file object raised
            raise cause from error
        raise DataError(
            f"{url}: cannot be read as HDF5 ({error!s:.160}). The file there is another one than it was, or damaged."
            " The probe of `mil-tutorial get camelyon16` shows what else has changed."
        ) from error


def _let_go(error: BaseException | None, file: _RangeFile) -> None:
    """Let go of what frames of an error hold: HDF5's settings with our file object.

    If they are there when Python ends, HDF5 frees them after it, and the process crashes.
    """
    file.error = None
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__


class _RangeFile(RangeFile):
    """Keeps the first error that reading raised: HDF5 only says that reading failed."""

    error: DataError | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except DataError as error:
            self.error = self.error or error
            raise


def _read_note(note: Path, version: Mapping[str, object]) -> dict[str, Place]:
    """What an earlier run has looked up in this version of the file."""
    try:
        content = read_json(note)
        if any(content[key] != value for key, value in version.items()):
            return {}
        return {name: _as_place(place) for name, place in content["places"].items()}
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it was cut off
        return {}


def _as_place(place: Mapping[str, Any]) -> Place:
    as_range = {key: None if place[key] is None else tuple(place[key]) for key in ("feat", "coords")}
    return Place(**{**place, **as_range, "shape": tuple(place["shape"])})


def place_of(group: Any, url: str) -> Place:
    """Where the values of one slide lie.

    Raises:
        DataError: its group is not laid out as expected.
    """
    name = group.name.lstrip("/")
    where = f"{url}, group {name}"
    if not isinstance(group, h5py.Group):
        raise DataError(f"{where}: is not a group, expected one with the datasets feat and coords.")
    feat, coords = get_dataset(group, "feat", where), get_dataset(group, "coords", where)
    n = len(feat)
    if feat.ndim != 2 or feat.dtype.kind != "f" or coords.shape != (n, 2) or coords.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: feat has shape {feat.shape} of {feat.dtype}, coords {coords.shape} of {coords.dtype};"
            " expected floats (n, D) and numbers (n, 2)."
        )
    label = group.attrs.get("label")
    return Place(
        (n, feat.shape[1]),
        _range_of(feat),
        _range_of(coords),
        feat.dtype.str,
        coords.dtype.str,
        int(label) if isinstance(label, (int, np.integer)) else None,
    )


def _range_of(dataset: h5py.Dataset) -> Range | None:
    """The bytes of a dataset that lies in one piece."""
    offset = dataset.id.get_offset()  # None where it is chunked, compact or empty
    return None if offset is None else (offset, offset + dataset.id.get_storage_size())


def parse_arrays(place: Place, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) and corners (n, 2) from the bytes of `place.ranges`."""
    n, dim = place.shape
    cut = 2 * n * np.dtype(place.coords_type).itemsize
    coords = np.frombuffer(content[:cut], place.coords_type).reshape(n, 2)
    return np.frombuffer(content[cut:], place.feat_type).reshape(n, dim), coords
