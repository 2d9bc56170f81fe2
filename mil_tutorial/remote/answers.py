"""Ask a web server, politely: wait and ask again where it is busy or the line breaks, as long as that can help.

What cannot be helped is a `DataError` that names the address.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from mil_tutorial.errors import DataError

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds; the second one between two pieces of a body

TRIES, TRIES_TO_CONNECT = 6, 3

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before asking again; a server's Retry-After is kept up to the second

BUSY = (429, 500, 502, 503, 504)

HOPS = 5  # redirects of one request, and renewals of an address that has expired

PIECE = 1 << 16  # bytes read at once

CONNECTIONS = 8

_resolved: dict[str, str] = {}  # address -> where its server sent us; such addresses expire


class NoRanges(DataError):
    """The server sends files whole only."""


class Changed(DataError):
    """The file is not the one that was there before."""


@dataclass(frozen=True)
class Head:
    """What a server says of a file.

    Attributes:
        size: bytes.
        etag: changes when the file does; empty if the server does not say it.
        linked_etag: on the hub the file's SHA-256, elsewhere empty.
        commit: on the hub the version of the data set, elsewhere empty.
    """

    size: int
    etag: str = ""
    linked_etag: str = ""
    commit: str = ""

    @property
    def etag_of_answers(self) -> str:
        """The etag that each part must come with; empty where parts come from the hub's storage, which has its own."""
        return "" if self.linked_etag else self.etag


def is_remote(path: object) -> bool:
    """Whether this is an address (http, https) and not a path.

    >>> is_remote("https://example.org/a.tif"), is_remote("a.tif")
    (True, False)
    """
    return isinstance(path, str) and re.match("https?://", path, re.IGNORECASE) is not None


def place(path: str | os.PathLike[str]) -> Path | str:
    """An address as it is, everything else as a path (which would swallow one of the two slashes)."""
    return str(path) if is_remote(path) else Path(path)


def inside(folder: str | os.PathLike[str], name: str) -> Path | str:
    """A file in a folder on disk or on a server.

    >>> inside("https://example.org/masks/", "tumor_091_mask.tif")
    'https://example.org/masks/tumor_091_mask.tif'
    """
    return f"{str(folder).rstrip('/')}/{quote(name)}" if is_remote(folder) else Path(folder) / name


def stem(path: str | os.PathLike[str]) -> str:
    """A file's name without its ending.

    >>> stem("https://example.org/images/tumor_091.tif"), stem("images/tumor_091.tif")
    ('tumor_091', 'tumor_091')
    """
    return Path(remote_name(str(path)) if is_remote(path) else path).stem


def remote_name(url: str) -> str:
    """The file's name in an address.

    >>> remote_name("https://example.org/images/tumor%20091.tif?download=true")
    'tumor 091.tif'
    """
    return unquote(urlsplit(url).path).rpartition("/")[2]


@lru_cache(maxsize=8)
def _pool(process: int, proxy: str | None) -> urllib3.PoolManager:
    """Connections of this process: a child must not write into its parent's."""
    known: dict[str, Any] = {"num_pools": 16, "maxsize": 2 * CONNECTIONS}
    return urllib3.ProxyManager(proxy, **known) if proxy else urllib3.PoolManager(**known)


def _proxy(address: str) -> str | None:
    """The proxy that the system or HTTPS_PROXY asks for."""
    parts = urlsplit(address)
    proxy = getproxies().get(parts.scheme)
    return None if proxy is None or proxy_bypass(parts.hostname or "") else proxy


def _seconds(retry_after: str | None) -> float:
    """Retry-After, seconds or a date, in seconds from now; 0 if there is none."""
    if not retry_after:
        return 0.0
    try:
        return float(retry_after)
    except ValueError:
        with suppress(ValueError, TypeError):  # what is neither says nothing
            return parsedate_to_datetime(retry_after).timestamp() - time.time()
        return 0.0


def wait(failures: int, least: float = 0.0) -> None:
    """Twice as long each time, and not all threads at once."""
    own = FIRST_WAIT * 2.0 ** (failures - 1) * random.uniform(0.75, 1.25)
    time.sleep(min(max(own, least), LONGEST_WAIT))


def unreachable(url: str, error: Exception) -> DataError:
    """What to say when no server answers."""
    why = re.sub(r"^\w+\([^()]*\): ", "", f"{error!s:.200}") or type(error).__name__  # without urllib3's own names
    if _is_certificate(error):
        return DataError(
            f"{url}: the server's certificate is not accepted ({why}). Check this machine's clock; behind a proxy,"
            " SSL_CERT_FILE names its certificate."
        )
    return DataError(
        f"{url}: cannot be reached ({why}). Check the network connection, and HTTPS_PROXY where there is a proxy;"
        " then run it again."
    )


def _refusal(url: str, status: int) -> DataError:
    """Why an answer that cannot be helped is one."""
    if status in (403, 404, 410):
        return DataError(
            f"{url}: there is no such file, or it is not public (the server answers {status})."
            " Check the address letter by letter."
        )
    if status == 401:
        return DataError(
            f"{url}: the server wants to know who asks (401), so the file is not public. Take another one."
        )
    if status == 416:
        return DataError(f"{url}: ends before the bytes that were asked for (416). The file there has changed.")
    if status in BUSY:
        return DataError(f"{url}: the server is busy ({status}, {TRIES} times). Wait some minutes and run it again.")
    return DataError(f"{url}: the server answers {status}, which is no file. Check the address.")


def answer(method: str, url: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
    """A good answer, its body not read yet; on HEAD also a redirect of the hub, which says all there is to know.

    Raises:
        DataError: there is none, and asking again does not help.
    """
    address = url if method == "HEAD" else _resolved.get(url, url)  # the hub itself says which version it has
    failures = hops = renewals = 0
    asked = {"Accept-Encoding": "identity", "User-Agent": "mil-tutorial", **(headers or {})}
    while True:
        try:
            response = _pool(os.getpid(), _proxy(address)).request(
                method,
                address,
                headers=asked,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except ValueError as error:  # urllib's and urllib3's
            raise DataError(f"{url}: is no web address ({error}). Check it letter by letter.") from error
        except (HTTPError, OSError) as error:
            failures += 1
            most = 1 if _is_certificate(error) else TRIES_TO_CONNECT if _no_connection(error) else TRIES
            if failures >= most:
                raise unreachable(url, error) from error
            wait(failures)
            continue
        status, location = response.status, response.headers.get("Location")
        if status in (200, 206) or (method == "HEAD" and "X-Linked-Size" in response.headers):
            return response
        response.close()
        if 300 <= status < 400 and location and hops < HOPS:
            hops, address = hops + 1, urljoin(address, location)
            if not is_remote(address):
                raise DataError(f"{url}: the server sends us to {address!r:.80}, which is no web address.")
            _resolved[url] = address
        elif status == 403 and address != url and renewals < HOPS:  # a signed address has expired
            renewals, hops, address = renewals + 1, 0, url
            _resolved.pop(url, None)
        elif status in BUSY and failures + 1 < TRIES:
            failures += 1
            wait(failures, _seconds(response.headers.get("Retry-After")))
        else:
            raise _refusal(url, status)


def _is_certificate(error: Exception) -> bool:
    return isinstance(error, SSLError) and "CERTIFICATE" in str(error).upper()


def _no_connection(error: Exception) -> bool:
    return isinstance(error, NewConnectionError | ConnectTimeoutError)


def remote_size(url: str) -> Head:
    """Ask for a file's size and version, without its content.

    Raises:
        DataError: no such file, no network, or a server that does not say it.
    """
    response = answer("HEAD", url)
    response.close()
    headers = response.headers
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    if not size.isdecimal():
        raise DataError(f"{url}: the server does not say how large the file is. Take another server.")
    etag, linked = (headers.get(name, "").removeprefix("W/").strip('"') for name in ("ETag", "X-Linked-Etag"))
    return Head(int(size), etag or linked, linked, headers.get("X-Repo-Commit", ""))


def stream(url: str, start: int, end: int, *, etag: str = "") -> Iterator[bytes]:
    """The bytes of a range as they come; when the line breaks, only the rest is asked for.

    With `etag`, they must be of that version.
    """
    failures, since = 0, start
    while start < end:
        response = answer("GET", url, {"Range": f"bytes={start}-{end - 1}"})
        try:
            version = response.headers.get("ETag", "").removeprefix("W/").strip('"')
            if etag and version and version != etag:
                raise Changed(f"{url}: has changed while it was read. Open it again.")
            whole = start == 0 and response.headers.get("Content-Length") == str(end)
            if response.status == 200 and not whole:
                raise NoRanges(
                    f"{url}: the server sends this file only as a whole (it ignores Range), so its parts cannot be read"
                    " from afar. Download the file, or take another server."
                )
            if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise DataError(f"{url}: the server sends other bytes than those asked for. Take another server.")
            for piece in response.stream(PIECE, decode_content=False):
                start += len(piece)
                yield piece
        except (HTTPError, OSError) as error:
            failures, since = (1, start) if start - since >= PIECE else (failures + 1, since)
            if failures >= TRIES:
                raise unreachable(url, error) from error
            wait(failures)
        finally:
            response.close()
