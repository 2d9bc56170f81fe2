"""What was read of far files, kept on disk: so that it need not be read a second time.

One SQLite file holds it, so that several processes may share it and a crash leaves it whole. Each part has a checksum.
A cache that cannot be used stops nothing: it says so once, and everything is read from afar.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import TypeVar

from mil_tutorial.files import CACHE_VARIABLE, cache_folder
from mil_tutorial.remote.answers import Head

LARGEST_CACHE = 4 << 30  # bytes; beyond them, what was used longest ago leaves

SPARE = 1 << 30  # bytes of the disk that are left to others

LEFT_AFTER_CLEANING = 0.9  # of them, so that not every write has to make room

PATIENCE = 10.0  # seconds to wait while another process writes

LAYOUT = 1  # of the tables; a file of another layout has another name

# Who will write takes the lock before he reads: of two who read first and then write, one gets an error at once.
TO_WRITE = "BEGIN IMMEDIATE"

TABLES = f"""
    {TO_WRITE};
    CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, url TEXT UNIQUE, size INTEGER, etag TEXT,
        linked_etag TEXT, commit_id TEXT, crc INTEGER);
    CREATE TABLE IF NOT EXISTS parts (id INTEGER PRIMARY KEY, file INTEGER, start INTEGER, stop INTEGER,
        used INTEGER, crc INTEGER, content BLOB, UNIQUE (file, start, stop));
    CREATE INDEX IF NOT EXISTS by_use ON parts (used, start, stop);
    COMMIT;
"""

Range = tuple[int, int]

T = TypeVar("T")


class RangeCache:
    """Parts of far files on disk, at most `most` bytes of them; several threads may share it.

    Attributes:
        broken: whether nothing can be kept, which has been told.

    Args:
        folder: where it lies; by default in `$MIL_TUTORIAL_CACHE`, else in the system's usual place for caches.
        most: bytes.
    """

    def __init__(self, folder: Path | None = None, *, most: int = LARGEST_CACHE):
        self.path, self.most = (folder or cache_folder()) / f"far-{LAYOUT}.sqlite", most
        self._lock = threading.RLock()
        self._used: set[int] = set()
        self._database: sqlite3.Connection | None = None
        self._process, self.broken, self._renewed = 0, False, False

    def head(self, url: str) -> Head | None:
        """What is known of a file."""

        def find(database: sqlite3.Connection) -> Head | None:
            row = database.execute(
                "SELECT size, etag, linked_etag, commit_id, crc FROM files WHERE url = ?", (url,)
            ).fetchone()
            return Head(*row[:4]) if row is not None and row[4] == _checksum(url, *row[:4]) else None

        return self._do(find, None)

    def put_head(self, url: str, head: Head) -> None:
        """Remember what is known of a file, and drop all parts of an earlier version."""

        def write(database: sqlite3.Connection) -> None:
            database.execute(TO_WRITE)
            _forget(database, url)
            _add(database, url, head)

        self._do(write, None)

    def get(self, url: str, ranges: Sequence[Range]) -> dict[Range, bytes]:
        """Those of the parts that are there and whole."""
        found: dict[Range, bytes] = {}

        def find(database: sqlite3.Connection) -> None:
            file = _number(database, url)
            for start, stop in ranges if file is not None else ():
                row = database.execute(
                    "SELECT id, crc, content FROM parts WHERE file = ? AND start = ? AND stop = ?", (file, start, stop)
                ).fetchone()
                if row is not None and row[1] == _checksum(url, start, stop, content=row[2]):
                    found[start, stop] = row[2]
                    self._used.add(row[0])

        self._do(find, None)
        return found

    def put(self, url: str, head: Head, parts: Mapping[Range, bytes]) -> None:
        """Keep parts of a file, and make room for them."""

        def write(database: sqlite3.Connection) -> None:
            database.execute(TO_WRITE)
            file = _number(database, url)
            if file is None:
                file = _add(database, url, head)
            self._note_use(database)
            if not self._make_room(database, sum(map(len, parts.values()))):
                raise OSError(f"the disk has less than {SPARE / 1e9:.0f} GB left")
            now = int(time.time())
            rows = [
                (file, start, stop, now, _checksum(url, start, stop, content=content), content)
                for (start, stop), content in parts.items()
            ]
            database.executemany(
                "INSERT OR REPLACE INTO parts (file, start, stop, used, crc, content) VALUES (?, ?, ?, ?, ?, ?)", rows
            )

        self._do(write, None)

    def forget(self, url: str) -> None:
        """Drop all that is known of a file."""
        self._do(lambda database: _forget(database, url), None)

    def close(self) -> None:
        """Write down what was used, and let go of the file."""
        with self._lock:
            if self._used:
                self._do(self._note_use, None)
            self._disconnect()

    def _note_use(self, database: sqlite3.Connection) -> None:
        now = int(time.time())
        database.executemany("UPDATE parts SET used = ? WHERE id = ?", [(now, number) for number in self._used])
        self._used.clear()

    def _make_room(self, database: sqlite3.Connection, more: int) -> bool:
        """Drop what was used longest ago until `more` bytes fit; False if the disk has no room for them."""
        (held,) = database.execute("SELECT COALESCE(SUM(stop - start), 0) FROM parts").fetchone()
        most, left = self.most, LEFT_AFTER_CLEANING * self.most
        if shutil.disk_usage(self.path.parent).free < SPARE:  # what is dropped makes room inside the file only
            most = left = min(held, self.most)
        if held + more <= most:
            return True
        if more > most:
            return False
        oldest, surplus = [], held + more - left
        for number, size in database.execute("SELECT id, stop - start FROM parts ORDER BY used, id"):
            if surplus <= 0:
                break
            oldest.append((number,))
            surplus -= size
        database.executemany("DELETE FROM parts WHERE id = ?", oldest)
        return True

    def _do(self, work: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        """The result of one transaction; `nothing` where it cannot be had."""
        with self._lock:
            try:
                database = self._connect()
                if database is not None:
                    with database:
                        return work(database)
            except sqlite3.OperationalError as error:  # a full disk, no rights, locked for long
                self._give_up(error)
            except sqlite3.DatabaseError as error:  # its bytes are damaged
                self._renew(error)
            except OSError as error:
                self._give_up(error)
            return nothing

    def _connect(self) -> sqlite3.Connection | None:
        if self.broken or (self._database is not None and self._process == os.getpid()):
            return self._database
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._process = os.getpid()  # a child must not use its parent's connection
        self._database = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
        self._database.execute("PRAGMA synchronous = OFF")  # what a power cut takes is read again
        self._database.executescript(TABLES)
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):  # what cannot be closed is damaged or gone
                self._database.close()
        self._database = None

    def _renew(self, error: Exception) -> None:
        """Start with an empty file, once."""
        self._disconnect()
        self._used.clear()
        if self._renewed:
            self._give_up(error)
            return
        self._renewed = True
        try:
            self.path.unlink(missing_ok=True)
        except OSError as other:
            self._give_up(other)
            return
        warnings.warn(f"{self.path}: was damaged ({error}) and has been made anew; it is filled again.", stacklevel=4)

    def _give_up(self, error: Exception) -> None:
        self._disconnect()
        self.broken = True
        warnings.warn(
            f"{self.path}: nothing can be kept there ({error}), so what is read from afar is read again each time."
            f" Make room or choose another folder; {CACHE_VARIABLE} names it.",
            stacklevel=4,
        )


def _number(database: sqlite3.Connection, url: str) -> int | None:
    row = database.execute("SELECT id FROM files WHERE url = ?", (url,)).fetchone()
    return None if row is None else row[0]


def _add(database: sqlite3.Connection, url: str, head: Head) -> int | None:
    row = (url, *astuple(head), _checksum(url, *astuple(head)))
    database.execute("INSERT INTO files (url, size, etag, linked_etag, commit_id, crc) VALUES (?, ?, ?, ?, ?, ?)", row)
    return _number(database, url)


def _forget(database: sqlite3.Connection, url: str) -> None:
    database.execute("DELETE FROM parts WHERE file = (SELECT id FROM files WHERE url = ?)", (url,))
    database.execute("DELETE FROM files WHERE url = ?", (url,))


def _checksum(*what: object, content: bytes = b"") -> int:
    return zlib.crc32(content, zlib.crc32(repr(what).encode()))
