"""Files that are whole or absent, and that are noticed when they change.

Every file of this package is written to a temporary name in the same folder and renamed when it is complete. What is
read again later carries a checksum, so that a bit that flips on a disk becomes an error and not another number. A
`digest` tells whether a file is still the one that it was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from mil_tutorial.errors import DataError

HEX = "[0-9a-f]" * 8  # a glob for the end of temporary names, so that nothing of the user's fits

# Seconds after which something temporary belongs to nobody; a younger one may be another process's.
LEFT_OVER = 86_400

# Bytes of a digest: at both ends, and of pieces spread evenly between; slides are too large to be read whole.
ENDS, PIECE, PIECES = 1 << 20, 1 << 14, 32

CACHE_VARIABLE = "MIL_TUTORIAL_CACHE"


def cache_folder() -> Path:
    """Where drawn slides and parts of far ones are kept: `$MIL_TUTORIAL_CACHE`, else the usual place for caches."""
    import platformdirs

    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("mil-tutorial"))


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` when the block ends without an error.

    Raises:
        DataError: the folder or the file cannot be written.

    Source: the POSIX promise that `rename` inside one folder is atomic; `os.replace` keeps it on Windows.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path.parent}: the folder cannot be made ({error.strerror}). Choose a folder you may write to."
        ) from error
    remove_left_over(path.parent, f".{escape(path.stem[:60])}.*.{HEX}{escape(path.suffix)}")
    temporary = path.with_name(f".{path.stem[:60]}.{os.getpid()}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut may keep the name and lose the content
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py and torch report a full disk as RuntimeError
        raise DataError(
            f"{path}: cannot be written ({error!s:.120}). Check the free space and your rights there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a dict as JSON, with its checksum as the last entry.

    Raises:
        DataError: it cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({**content, "crc32": _checksum(content)}, indent=1), encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        OSError: no such file.
        ValueError: it is damaged: not JSON, not a dict, or not what its checksum says.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("crc32", None) != _checksum(content):
        raise ValueError("its checksum is wrong")
    return content


def end_with_parent() -> None:
    """For worker processes: end when the process that started them is gone, even if it was killed."""

    def watch(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def remove_left_over(folder: Path, pattern: str) -> None:
    """Remove what killed runs left: temporary files and folders that fit the pattern, not touched for a day."""
    for left in folder.glob(pattern):
        with suppress(OSError):  # another process was faster, or it is not ours to remove
            if time.time() - left.stat().st_mtime > LEFT_OVER:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Try to write beside `path`, so that long work is not lost at its end.

    Raises:
        DataError: the folder cannot be made or written to, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected the name of a file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be written to ({error.strerror}). Choose a folder you may write to."
        ) from error


def digest(path: str | os.PathLike[str]) -> str:
    """16 hex digits of SHA-256 over a file's size, first and last MiB and 32 pieces between.

    It tells apart files that were made again; a change of a few bytes in the middle of a large file may fall between
    the pieces.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "train.csv"
    ...     _ = path.write_text("wsi_name,wsi_label")
    ...     digest(path)
    'aa4cfc380b7b5927'

    Raises:
        DataError: the file cannot be read.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:

            def read(ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
                for start, end in ranges:
                    file.seek(start)
                    yield file.read(end - start)

            return fingerprint(size, read)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path and your rights.") from error


def fingerprint(size: int, read: Callable[[Sequence[tuple[int, int]]], Iterable[bytes]]) -> str:
    """The `digest` of what `read` gives for ranges (start, end) of its `size` bytes."""
    ranges = [(0, min(ENDS, size))]
    if size > ENDS:
        ranges.append((max(ENDS, size - ENDS), size))
    starts = [ENDS + (size - 2 * ENDS) * i // PIECES for i in range(PIECES if size > 2 * ENDS else 0)]
    ranges += [(start, min(start + PIECE, size)) for start in starts]
    found = hashlib.sha256(str(size).encode())
    for content in read(ranges):
        found.update(content)
    return found.hexdigest()[:16]
