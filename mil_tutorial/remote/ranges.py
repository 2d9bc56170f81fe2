"""Parts of a file on a web server: many ranges at once, and a file object that reads as others ask it to."""

from __future__ import annotations

import bisect
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mil_tutorial.errors import require
from mil_tutorial.remote.answers import CONNECTIONS, remote_size, stream

GAP = 1 << 16  # bytes between two ranges that are read along with them: cheaper than a request

PART = 1 << 19  # bytes of one request; more are read over several connections

BLOCK = 1 << 16  # bytes that a `RangeFile` reads at least

BLOCKS = 1024  # that it remembers: 64 MiB, where they have that size


def read_range(url: str, start: int, end: int, *, etag: str = "") -> bytes:
    """The bytes of a file from `start` to before `end`; with `etag`, of that version.

    Raises:
        ParameterError: no such range.
        DataError: no such file, no network, the file ends before, or a server that sends files whole only.
    """
    require(0 <= start <= end, "start", start, f"0 to {end}, where the range ends")
    return b"".join(stream(url, start, end, etag=etag))


def read_ranges(
    url: str, ranges: Sequence[tuple[int, int]], *, connections: int = CONNECTIONS, etag: str = ""
) -> list[bytes]:
    """Several ranges at once; those near each other come with one request, long ones over several connections.

    Args:
        url: the file's address.
        ranges: start and end of each, in any order.
        connections: how many requests run at a time.
        etag: version that the file must have, if it is known.

    Returns:
        The bytes of each range, in the order asked.

    Raises:
        ParameterError, DataError: as `read_range`.
    """
    spans: list[list[int]] = []
    for start, end in sorted((int(start), int(end)) for start, end in ranges):
        require(0 <= start <= end, "ranges", (start, end), "0 <= start <= end")
        if start == end:
            continue
        if spans and start - spans[-1][1] <= GAP and max(end, spans[-1][1]) - spans[-1][0] <= PART:
            spans[-1][1] = max(end, spans[-1][1])
        else:
            spans.append([start, end])
    parts = [(low, min(low + PART, end)) for start, end in spans for low in range(start, end, PART)]
    if len(parts) < 2:
        read = {part: read_range(url, *part, etag=etag) for part in parts}
    else:
        with ThreadPoolExecutor(min(connections, len(parts))) as pool:
            read = dict(zip(parts, pool.map(lambda part: read_range(url, *part, etag=etag), parts), strict=True))
    whole = {
        start: b"".join(read[low, min(low + PART, end)] for low in range(start, end, PART)) for start, end in spans
    }
    starts = sorted(whole)

    def cut(start: int, end: int) -> bytes:
        if start == end:
            return b""
        first = starts[bisect.bisect_right(starts, start) - 1]
        return whole[first][start - first : end - first]

    return [cut(int(start), int(end)) for start, end in ranges]


class RangeFile(io.RawIOBase):
    """A file on a web server as a seekable file object, for h5py and tifffile; several threads may share it.

    It reads blocks of 64 KiB and remembers the last 1024 of them; what is asked for at once comes over several
    connections.

    Args:
        url: the file's address.
        size: its bytes; by default the server is asked.
        block: bytes that are read at least; fewer where what is read is small and far apart.
        read: gives the bytes of ranges; by default `read_ranges` of this address.

    Raises:
        DataError: as `read_range`.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int | None = None,
        block: int = BLOCK,
        read: Callable[[Sequence[tuple[int, int]]], list[bytes]] | None = None,
    ):
        super().__init__()
        self.name, self.size = url, remote_size(url).size if size is None else size
        self._ask = read or partial(read_ranges, url)
        self._position, self._block = 0, block
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.RLock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._lock:
            position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
            if position < 0:
                raise ValueError(f"{self.name}: cannot seek to {position}")
            self._position = position
            return position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with self._lock:
            start = self._position
            end = max(start, min(start + len(view), self.size))
            view[: end - start] = self._read(start, end)
            self._position = end
        return end - start

    def _read(self, start: int, end: int) -> bytes:
        if start == end:
            return b""
        numbers = range(start // self._block, (end - 1) // self._block + 1)
        missing = [n for n in numbers if n not in self._blocks]
        asked = [(n * self._block, min((n + 1) * self._block, self.size)) for n in missing]
        found = dict(zip(missing, self._ask(asked), strict=True))
        for n in numbers:
            if n in self._blocks:
                self._blocks.move_to_end(n)
                found[n] = self._blocks[n]
            else:
                self._blocks[n] = found[n]
        while len(self._blocks) > BLOCKS:
            self._blocks.popitem(last=False)
        first = numbers[0] * self._block
        return b"".join(found[n] for n in numbers)[start - first : end - first]
