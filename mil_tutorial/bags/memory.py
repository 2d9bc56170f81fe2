"""What a dataset remembers of its bags, as long as there is room, and small helpers that every dataset needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from weakref import WeakSet

import numpy as np
import psutil
import torch

from mil_tutorial.errors import Found, ParameterError, require, require_integer
from mil_tutorial.hdf5 import new_array

KEEP = 256 * 2**20  # bytes of adjacency and patch labels that a dataset may remember

WHOLE = 2**30  # bytes of a set of features that stays in memory whole
SOME = 256 * 2**20  # bytes kept of a larger set: most of its bags are read each time anyway, while the model works
PART = 1 / 8  # of the free memory, at most, in both cases

Tensors = tuple[torch.Tensor, ...]


def room_for(files: Iterable[Path]) -> int:
    """Bytes to keep of the features in these files."""
    size = sum(file.stat().st_size for file in files if file.is_file())
    return WHOLE if size <= WHOLE else SOME


def memory_for_features(room: int) -> Memory:
    """What a dataset remembers of its features, `room` bytes at most, and never more than a part of the free memory.

    All of these share one room: a test set takes none that is not free.

    Raises:
        ParameterError: not a whole number of at least 0.
    """
    require_integer("room", room, low=0)
    memory = Memory(min(room, int(psutil.virtual_memory().available * PART)), _of_features)
    with _lock:
        _of_features.add(memory)
    return memory


class Memory:
    """Tensors that were read or built before, as many as fit. It starts empty in another process.

    A tensor that was changed in place is forgotten, so that what comes back is what was kept.

    Args:
        room: bytes that it may hold.
        sharing: others that share the room; itself alone by default.
    """

    def __init__(self, room: int, sharing: Iterable[Memory] | None = None) -> None:
        self.room, self.bytes = room, 0
        self._sharing = sharing
        self._tensors: dict[tuple[str, str], tuple[Tensors, tuple[int, ...]]] = {}

    def __reduce__(self) -> tuple[type[Memory], tuple[int]]:
        return Memory, (self.room,)

    def find(self, key: str, name: str) -> Tensors | None:
        """The tensors `key` of slide `name`, if they are here and unchanged."""
        tensors, versions = self._tensors.get((key, name), ((), (-1,)))
        return tensors if tuple(t._version for t in tensors) == versions else None

    def keep(self, key: str, name: str, *tensors: torch.Tensor) -> None:
        """Keep tensors that belong together, if there is room for all."""
        old = self._tensors.pop((key, name), None)
        self.bytes -= 0 if old is None else _bytes(old[0])
        with _lock:
            held = self.bytes if self._sharing is None else sum(memory.bytes for memory in self._sharing)
            if held + _bytes(tensors) <= self.room:
                self._tensors[key, name] = tensors, tuple(t._version for t in tensors)
                self.bytes += _bytes(tensors)

    def get(self, key: str, name: str, build: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor `key` of slide `name`, built if it is not here."""
        if found := self.find(key, name):
            return found[0]
        tensor = build()
        self.keep(key, name, tensor)
        return tensor


_of_features: WeakSet[Memory] = WeakSet()

_lock = Lock()  # a loader may read ahead in a thread


def _bytes(tensors: Tensors) -> int:
    return sum(t._nnz() * 20 if t.is_sparse else t.nbytes for t in tensors)


def off_heap(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A copy, of another type if asked for, that does not lie on the heap; see `hdf5.new_array`."""
    kind = torch.empty(0, dtype=dtype or tensor.dtype).numpy().dtype
    return torch.from_numpy(new_array(tuple(tensor.shape), kind)).copy_(tensor)


def pick_indices(indices: Iterable[int], n: int) -> list[int]:
    """Numbers of bags in a dataset of `n`; negative ones count from the end.

    Raises:
        ParameterError: not whole numbers (a mask of True and False is none), or one that is not in the dataset.
    """
    expected = f"whole numbers below {n}, the numbers of bags"
    try:
        chosen = np.asarray(list(indices))
    except (TypeError, ValueError):  # not iterable, or rows of different lengths
        raise ParameterError("indices", indices, expected) from None
    good = chosen.ndim == 1 and (chosen.size == 0 or chosen.dtype.kind in "iu")
    require(good, "indices", indices, expected)
    outside = chosen[(chosen < -n) | (chosen >= n)]
    if outside.size:
        raise ParameterError("indices", Found(f"number {outside[0]} in a dataset of {n} bags"), expected)
    return [int(i) for i in chosen]


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
