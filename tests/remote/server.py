"""A server on 127.0.0.1 that behaves as the public bucket and the hub do, and misbehaves when a test asks it to.

Files lie in a folder: `CAMELYON16/...` is the bucket, `datasets/<owner>/<name>/<path>` the hub, which answers
`/datasets/<owner>/<name>/resolve/<revision>/<path>` with a redirect to a signed address that expires.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

MOST_REQUESTS = 100_000  # a loop that asks for ever ends as a failed test

PIECE = 1 << 16


@dataclass
class Request:
    """What was asked and answered; `sent` counts bytes of the body."""

    method: str
    path: str
    range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Behaviour:
    """How the server answers; all of it may change while it runs.

    Attributes:
        latency: seconds before each answer.
        rate: bytes a second of one connection; 0 is as fast as it goes.
        refuse: answers for the next requests whose path fits `refuse_path`: (status, headers), used up one by one.
        cut_after: bodies end after so many bytes, as often as `cuts` says.
        ignore_range: answer 200 with the whole file.
        denied: status of a missing key for an anonymous caller, 404 or 403.
        page: keys of one page of the listing.
        signed_uses: how often a signed address works before it expires (403); 0 is for ever.
    """

    latency: float = 0.0
    rate: float = 0.0
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    refuse_path: str = ""
    cut_after: int = 0
    cuts: int = 0
    ignore_range: bool = False
    denied: int = 404
    page: int = 1000
    signed_uses: int = 0


class LocalServer(ThreadingHTTPServer):
    """Serves `folder`; `log` keeps every request."""

    daemon_threads = True
    request_queue_size = 128  # more connections at once than the usual five

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.behaviour = folder, Behaviour()
        self.log: list[Request] = []
        self.lock = threading.Lock()
        self.signed: dict[str, int] = {}
        self.sha256: dict[tuple[Path, int, int], str] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self, pattern: str = "") -> int:
        """Bytes of bodies sent for paths that fit a regular expression."""
        return sum(r.sent for r in self.log if re.search(pattern, r.path))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a small body waits 40 ms behind its header
    server: LocalServer

    def log_message(self, *args: object) -> None:
        """`LocalServer.log` keeps it."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        server, now = self.server, self.server.behaviour
        entry = Request(self.command, self.path, self.headers.get("Range"))
        with server.lock:
            server.log.append(entry)
            if len(server.log) > MOST_REQUESTS:
                raise RuntimeError("too many requests")
            fault = now.refuse.pop(0) if now.refuse and re.search(now.refuse_path, self.path) else None
        time.sleep(now.latency)
        if fault is not None:
            self.reply(entry, fault[0], fault[1], b"fault", body=body)
            return
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path == "/" and "list-type" in parse_qs(url.query):
            self.reply(entry, 200, {"Content-Type": "application/xml"}, self.listing(parse_qs(url.query)), body=body)
        elif hub := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self.redirect(entry, f"datasets/{hub[1]}/{hub[2]}", body=body)
        elif path.startswith("/signed/"):
            with server.lock:
                number, file = path.split("/", 3)[2:]
                server.signed[number] = server.signed.get(number, 0) + 1
                expired = now.signed_uses and server.signed[number] > now.signed_uses
            if expired:
                self.reply(
                    entry, 403, {"Content-Type": "application/xml"}, b"<Error>Request has expired</Error>", body=body
                )
            else:
                self.send_file(entry, server.folder / file, body=body)
        else:
            self.send_file(entry, server.folder / path.lstrip("/"), body=body)

    def reply(self, entry: Request, status: int, headers: dict[str, str], content: bytes, *, body: bool) -> None:
        entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
            entry.sent += len(content)

    def missing(self, entry: Request, *, body: bool) -> None:
        status = self.server.behaviour.denied
        code = "NoSuchKey" if status == 404 else "AccessDenied"
        self.reply(
            entry,
            status,
            {"Content-Type": "application/xml"},
            f"<Error><Code>{code}</Code></Error>".encode(),
            body=body,
        )

    def listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        folder = self.server.folder
        keys = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        keys = [k for k in keys if k.startswith(prefix)]
        start = int(query.get("continuation-token", ["0"])[0])
        size = min(self.server.behaviour.page, int(query.get("max-keys", ["1000"])[0]))
        page, more = keys[start : start + size], start + size < len(keys)
        entries = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{(folder / k).stat().st_size}</Size>"
            f"<ETag>&quot;{'0' * 32}-7&quot;</ETag></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{entries}</ListBucketResult>"
        ).encode()

    def redirect(self, entry: Request, file: str, *, body: bool) -> None:
        path = self.server.folder / file
        if not path.is_file():
            self.missing(entry, body=body)
            return
        with self.server.lock:
            number = str(len(self.server.signed) + 1)
            self.server.signed[number] = 0
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self.server.sha256:
            self.server.sha256[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        headers = {
            "Location": f"/signed/{number}/{quote(file)}",
            "X-Repo-Commit": "c0ffee" * 6 + "c0ff",
            "X-Linked-Etag": f'"{self.server.sha256[key]}"',
            "X-Linked-Size": str(stat.st_size),
        }
        self.reply(entry, 302, headers, b"", body=body)

    def send_file(self, entry: Request, path: Path, *, body: bool) -> None:
        inside = path.resolve().is_relative_to(self.server.folder.resolve())
        if not inside or not path.is_file():
            self.missing(entry, body=body)
            return
        size, now = path.stat().st_size, self.server.behaviour
        asked = None if now.ignore_range else re.fullmatch(r"bytes=(\d*)-(\d*)", entry.range or "")
        start, end = 0, size
        if asked and (asked[1] or asked[2]):
            start = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
            end = min(size, int(asked[2]) + 1) if asked[1] and asked[2] else size
            if start >= size:
                self.reply(entry, 416, {"Content-Range": f"bytes */{size}"}, b"", body=body)
                return
        entry.status = 206 if asked else 200
        self.send_response(entry.status)
        self.send_header("Content-Type", "application/octet-stream")
        if not now.ignore_range:
            self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{size:032x}-7"')
        self.end_headers()
        if body:
            self.send_body(entry, path, start, end)

    def send_body(self, entry: Request, path: Path, start: int, end: int) -> None:
        now = self.server.behaviour
        with self.server.lock:
            cut = now.cuts > 0 and end - start > now.cut_after
            now.cuts -= cut
        left = now.cut_after if cut else end - start
        with path.open("rb") as file:
            file.seek(start)
            while left:
                piece = file.read(min(PIECE, left))
                self.wfile.write(piece)
                entry.sent += len(piece)
                left -= len(piece)
                if now.rate:
                    time.sleep(len(piece) / now.rate)
        if cut:
            self.close_connection = True


@contextmanager
def serving(folder: Path) -> Iterator[LocalServer]:
    """The server, as long as the block lasts."""
    server = LocalServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
