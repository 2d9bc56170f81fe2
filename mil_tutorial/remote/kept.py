"""A far file that is read part by part, each part once: what was read before comes from memory or from disk."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError
from mil_tutorial.files import digest, fingerprint
from mil_tutorial.remote.answers import Changed, Head, is_remote, remote_name, remote_size
from mil_tutorial.remote.cache import Range, RangeCache
from mil_tutorial.remote.ranges import RangeFile, read_ranges

MEMORY = 32 << 20  # bytes of parts that a file keeps in memory

AHEAD = 4 << 20  # bytes that are fetched at once


def digest_of(path: str | os.PathLike[str]) -> str:
    """`files.digest` of a file on disk or of a far one, of which it reads 2.5 MB; the same for the same content.

    Raises:
        DataError: the file cannot be read.
    """
    if not is_remote(path):
        return digest(path)
    file = KeptFile(str(path))
    try:
        return file.digest()
    finally:
        file.close()


class KeptFile:
    """Reads ranges of a far file; several threads may share it.

    Args:
        url: the file's address.

    Attributes:
        url, size: address and bytes.

    Raises:
        DataError: no such file, or no network and the file was not read before.
    """

    def __init__(self, url: str):
        self.url, self._cache = url, RangeCache()
        self._lock = threading.Lock()
        self._memory: OrderedDict[Range, bytes] = OrderedDict()
        self._held = 0
        self._coming: dict[Range, Future[bytes]] = {}
        self._head = self._cache.head(url) or self._ask()
        self.size = self._head.size

    def _ask(self) -> Head:
        try:
            head = remote_size(self.url)
        except DataError:
            self._cache.close()
            raise
        self._cache.put_head(self.url, head)
        return head

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, in this order; those that are not here yet come in parallel.

        Raises:
            DataError: as `read_ranges`.
        """
        found: dict[Range, bytes] = {}
        mine: dict[Range, Future[bytes]] = {}
        others: dict[Range, Future[bytes]] = {}  # that another thread is fetching already
        with self._lock:
            for part in ranges:
                if part[0] == part[1]:
                    found[part] = b""
                elif part in self._memory:
                    self._memory.move_to_end(part)
                    found[part] = self._memory[part]
                elif part in self._coming and part not in mine:
                    others[part] = self._coming[part]
                elif part not in mine:
                    mine[part] = self._coming[part] = Future()
        try:
            if mine:
                found |= self._load(list(mine))
        except BaseException as error:
            for future in mine.values():
                future.set_exception(error)
            raise
        finally:
            with self._lock:
                for part in mine:
                    del self._coming[part]
        for part, future in mine.items():
            future.set_result(found[part])
        found |= {part: future.result() for part, future in others.items()}
        return [found[part] for part in ranges]

    def fetch(self, ranges: Sequence[Range]) -> None:
        """Ranges that are read soon, one by one: they come in parallel, many at once, with a bar if that lasts."""
        ranges = list(dict.fromkeys(ranges))
        sizes = np.array([end - start for start, end in ranges], np.int64)
        parts = np.split(np.arange(len(ranges)), np.flatnonzero(np.diff(np.cumsum(sizes) // AHEAD)) + 1)
        name, total, done = remote_name(self.url), int(sizes.sum()), 0
        with tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False, delay=2) as bar:
            for part in parts:
                if self._cache.broken and done > MEMORY // 2:
                    return  # there is no place to keep more: it is read when it is needed
                self.read([ranges[i] for i in part.tolist()])
                done += int(sizes[part].sum())
                bar.update(int(sizes[part].sum()))

    def _load(self, ranges: list[Range]) -> dict[Range, bytes]:
        """From disk, else from afar."""
        found = self._cache.get(self.url, ranges)
        missing = [part for part in ranges if part not in found]
        if missing:
            try:
                contents = read_ranges(self.url, missing, etag=self._head.etag_of_answers)
            except Changed:
                self._cache.forget(self.url)
                raise
            fetched = dict(zip(missing, contents, strict=True))
            self._cache.put(self.url, self._head, fetched)
            found |= fetched
        with self._lock:
            for part, content in found.items():
                self._held += len(content) - len(self._memory.pop(part, b""))
                self._memory[part] = content
            while self._held > MEMORY:
                self._held -= len(self._memory.popitem(last=False)[1])
        return found

    def file(self) -> RangeFile:
        """It as a file object that reads blocks."""
        return RangeFile(self.url, size=self.size, read=self.read)

    def digest(self) -> str:
        """As `files.digest` of the same file on disk."""
        return fingerprint(self.size, self.read)

    def close(self) -> None:
        """Let go of memory and cache."""
        self._cache.close()
        with self._lock:
            self._memory.clear()
            self._held = 0
