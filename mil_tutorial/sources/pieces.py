"""Bytes of a file on a server in their order, over several connections; and a part of a file that outlives a kill."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from mil_tutorial.errors import DataError
from mil_tutorial.remote import NoRanges, read_range
from mil_tutorial.remote.answers import CONNECTIONS, stream

# Requests of a slide, and the bytes of each: a killed run loses those that were under way. Small slides come in more
# pieces: twenty kills must not cost a tenth of them. Of large ones each request costs time.
PIECES, SMALLEST, LARGEST = 32, 1 << 13, 1 << 20
PIECES_OF_SMALL, SMALL = 72, 1 << 21

ARCHIVE_PIECE = 1 << 21

Range = tuple[int, int]  # first byte, and the one behind the last


def read_in_order(url: str, ranges: Sequence[Range], *, piece: int, connections: int) -> Iterator[bytes]:
    """The bytes of ranges, one after the other, in pieces that are fetched over several connections.

    Raises:
        DataError: as `remote.read_range`.
    """
    parts = iter([(low, min(low + piece, end)) for start, end in ranges for low in range(start, end, piece)])
    if connections == 1:
        for part in parts:
            yield read_range(url, *part)
        return
    pool = ThreadPoolExecutor(connections)
    try:
        waiting: deque[Future[bytes]] = deque(
            pool.submit(read_range, url, *part) for part in islice(parts, connections)
        )
        while waiting:
            content = waiting.popleft().result()
            waiting.extend(pool.submit(read_range, url, *part) for part in islice(parts, 1))
            yield content
    finally:  # the reader may have enough before the end
        pool.shutdown(wait=True, cancel_futures=True)


def append_ranges(
    url: str, ranges: Sequence[Range], path: Path, *, told: Callable[[int], object], connections: int = 1
) -> None:
    """Fetch ranges into a file, one after the other; what an earlier run has fetched of them is not asked for again.

    Args:
        url: the file on the server.
        ranges: what is wanted of it.
        path: what is fetched; its length says how much that is.
        told: is told how many bytes more are there.
        connections: how many requests run at a time.

    Raises:
        DataError: as `remote.read_range`, or the disk cannot take it.
    """
    total = sum(end - start for start, end in ranges)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            if (have := file.tell()) > total:
                file.truncate(have := 0)
            piece = min(max(total // (PIECES if total > SMALL else PIECES_OF_SMALL), SMALLEST), LARGEST)
            for content in read_in_order(url, skip(ranges, have), piece=piece, connections=connections):
                file.write(content)
                file.flush()
                told(len(content))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}; for {url}). Check the free space and your rights"
            " there, and run it again: it goes on where it stopped."
        ) from error


def skip(ranges: Sequence[Range], count: int) -> list[Range]:
    """The ranges without their first `count` bytes.

    >>> skip([(0, 10), (50, 60)], 14)
    [(54, 60)]
    """
    left = []
    for start, end in ranges:
        gone = min(count, end - start)
        count -= gone
        if start + gone < end:
            left.append((start + gone, end))
    return left


class Body(io.RawIOBase):
    """A whole file on a server as a file object that is read once, from its beginning, for `tarfile`.

    A server that sends files only as a whole will do, too.

    Attributes:
        left: bytes that have not been read.
    """

    def __init__(self, url: str, size: int, *, told: Callable[[int], object], connections: int = CONNECTIONS):
        super().__init__()
        self.name, self._size, self._told, self.left = url, size, told, size
        self._pieces = read_in_order(url, [(0, size)], piece=ARCHIVE_PIECE, connections=connections)
        self._held = memoryview(b"")
        self._begun = False

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next; 0 at the end."""
        if not len(self._held):
            self._held = memoryview(self._next())
            self._told(len(self._held))
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        self.left -= count
        return count

    def _next(self) -> bytes:
        try:
            content = next(self._pieces, b"")
        except NoRanges:
            if self._begun:
                raise
            self._pieces = stream(self.name, 0, self._size)
            content = next(self._pieces, b"")
        self._begun = True
        return content

    def close(self) -> None:
        """Ask for nothing more."""
        if not self.closed:
            self._pieces.close()  # type: ignore[attr-defined]
        super().close()
