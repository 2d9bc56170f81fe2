"""Fetch a file whole: go on where an earlier run stopped, and check at the end that it is the right one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from urllib3.exceptions import HTTPError

from mil_tutorial.errors import DataError
from mil_tutorial.files import check_writable, read_json, write_json
from mil_tutorial.remote.answers import (
    CONNECTIONS,
    PIECE,
    TRIES,
    Head,
    NoRanges,
    answer,
    remote_size,
    stream,
    unreachable,
    wait,
)
from mil_tutorial.remote.ranges import read_range

PART = 1 << 21  # bytes of one request

LARGE = 4 * PART  # bytes from which several connections are used


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    progress: bool | Callable[[int], object] = True,
) -> None:
    """Fetch a whole file; what an earlier run has fetched of it is kept.

    Until it is complete and checked, it is `<name>.part` beside `path`, with `<name>.part.json`, which says of what.

    Args:
        url: the file's address.
        path: where it goes; a file of this name is replaced.
        size: its bytes, if they are known.
        md5, sha256: its hash in hex digits, if it is known.
        progress: show a bar; or a function that is told each time how many bytes more are there.

    Raises:
        DataError: no such file, no network, another size or hash, no room on the disk, or another process fetches it.
    """
    path, head = Path(path), remote_size(url)
    if size is not None and head.size != size:
        raise DataError(
            f"{url}: has {head.size:,} bytes, expected {size:,}. The file there is another one; check the address."
        )
    part, note = (path.with_name(path.name + end) for end in (".part", ".part.json"))
    check_writable(path)
    with _alone(path):
        _begin(url, part, note, head)
        have = part.stat().st_size
        free = shutil.disk_usage(path.parent).free
        if head.size - have > free:
            raise DataError(
                f"{path}: needs {head.size - have:,} bytes more, the disk has {free:,} left (for {url})."
                " Make room, or choose another folder, and run it again: it goes on where it stopped."
            )
        bar = tqdm(
            total=head.size,
            initial=have,
            desc=path.name,
            unit="B",
            unit_scale=True,
            leave=False,
            delay=1,
            disable=progress is not True,
        )
        with bar:
            told = progress if callable(progress) else bar.update
            _fill(url, part, head, told)
        _check(url, part, note, head.size, md5=md5, sha256=sha256)
        os.replace(part, path)
        note.unlink(missing_ok=True)


def forget_leftovers(path: Path) -> None:
    """Remove what a `download` of this file left if it was killed after the file was whole."""
    path.with_name(path.name + ".part.json").unlink(missing_ok=True)
    with suppress(PermissionError):  # Windows: another process has just made the file whole, and removes its own lock
        path.with_name(path.name + ".lock").unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two processes that write one `.part` would spoil it; a lock goes when its process does."""
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise DataError(f"{path}: another process is fetching this file. Wait until it is done.") from error
    except (OSError, NotImplementedError):  # some network file systems have no locks: the hash at the end must do
        yield
        return
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _begin(url: str, part: Path, note: Path, head: Head) -> None:
    """Keep what is there if it is of the same file, else start with nothing."""
    version = {"size": head.size, "version": head.linked_etag or head.etag}
    try:
        same = part.stat().st_size <= head.size and read_json(note) == version
    except (OSError, ValueError):  # none is there, or it was cut off
        same = False
    if same and version["version"]:
        return
    try:
        part.write_bytes(b"")
    except OSError as error:
        raise _unwritten(part, url, error) from error
    write_json(note, version)


def _unwritten(part: Path, url: str, error: OSError) -> DataError:
    return DataError(
        f"{part}: cannot be written ({error.strerror or error}; for {url}). Check the free space and your rights there,"
        " and run it again: it goes on where it stopped."
    )


def _fill(url: str, part: Path, head: Head, told: Callable[[int], object]) -> None:
    """Append to `part` what is missing."""
    size, etag = head.size, head.etag_of_answers
    with part.open("r+b") as file:
        have = file.seek(0, os.SEEK_END)
        pieces = (_in_order if size - have > LARGE else stream)(url, have, size, etag=etag)
        try:
            _append(file, pieces, part, url, told)
        except NoRanges:
            _fill_at_once(url, file, part, size, told)


def _append(file: IO[bytes], pieces: Iterator[bytes], part: Path, url: str, told: Callable[[int], object]) -> None:
    for piece in pieces:
        try:
            file.write(piece)
            file.flush()
        except OSError as error:
            raise _unwritten(part, url, error) from error
        told(len(piece))


def _in_order(url: str, start: int, size: int, *, etag: str) -> Iterator[bytes]:
    """Parts that are fetched over several connections, one after the other: so the file's length says what is there."""
    fetch = partial(read_range, url, etag=etag)
    starts = iter(range(start, size, PART))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        waiting: deque[Future[bytes]] = deque(
            pool.submit(fetch, low, min(low + PART, size)) for low in islice(starts, CONNECTIONS)
        )
        while waiting:
            piece = waiting.popleft().result()
            if (low := next(starts, None)) is not None:
                waiting.append(pool.submit(fetch, low, min(low + PART, size)))
            yield piece


def _fill_at_once(url: str, file: IO[bytes], part: Path, size: int, told: Callable[[int], object]) -> None:
    """From a server that sends files whole only; when the line breaks, it starts again."""
    for failures in range(1, TRIES + 1):
        told(-file.tell())
        file.seek(0)
        file.truncate()
        response = answer("GET", url)
        try:
            _append(file, response.stream(PIECE, decode_content=False), part, url, told)
            if file.tell() == size:
                return
            error: Exception = DataError(f"{file.tell()} of {size} bytes came")
        except HTTPError as broken:
            error = broken
        finally:
            response.close()
        wait(failures)
    raise unreachable(url, error)


def _check(url: str, part: Path, note: Path, size: int, *, md5: str | None, sha256: str | None) -> None:
    """What was fetched must be what was asked for; otherwise it is deleted."""
    hashes = {name: (hashlib.new(name), value) for name, value in (("md5", md5), ("sha256", sha256)) if value}
    length = 0
    try:
        with part.open("rb+") as file:
            while piece := file.read(PART):
                length += len(piece)
                for computed, _ in hashes.values():
                    computed.update(piece)
            os.fsync(file.fileno())  # else a power cut may keep the name and lose the content
    except OSError as error:
        raise DataError(f"{part}: cannot be read again ({error.strerror}). Check the disk.") from error
    wrong = [f"{length:,} bytes, expected {size:,}"] if length != size else []
    for name, (computed, value) in hashes.items():
        if computed.hexdigest() != value.lower():
            wrong.append(f"{name} {computed.hexdigest()}, expected {value.lower()}")
    if wrong:
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        raise DataError(
            f"{url}: what came is not the file that was expected ({'; '.join(wrong)}). It has been deleted. Run it"
            " again; if it happens again, the file there is another one."
        )
