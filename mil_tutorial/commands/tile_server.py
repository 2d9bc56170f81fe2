"""A server for one slide and one pair of eyes: the page and its tiles, on this machine only, behind a token."""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.localization.tiles import Key, TilePlan

HOST = "127.0.0.1"

TILES = "tiles"  # the folder of the tiles in addresses

KEPT = 512  # tiles that are remembered

PATIENCE = 20  # seconds that a silent client may hold a connection

AT_ONCE = 64  # connections that are served at the same time; more wait

# Only what the page carries may run, and only pictures of this server may come.
POLICY = "default-src 'none'; img-src 'self' data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'"


class SlideServer(ThreadingHTTPServer):
    """Serves the page and the tiles of one slide.

    Args:
        page: the page, HTML.
        plan: which tiles there are.
        read: makes a tile.
        port: to listen on; 0 picks a free one.

    Attributes:
        token: the part of the address that nobody can guess.
        address: of the page.
        last_asked: `time.monotonic()` of the last request that was not refused.

    Raises:
        ParameterError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = os.name == "posix"  # elsewhere it would let another program take the port

    def __init__(self, page: str, plan: TilePlan, read: Callable[[Key], bytes], port: int = 0):
        self.token = secrets.token_urlsafe(24)
        self.page, self.plan = page.encode(), plan
        self._hands = threading.BoundedSemaphore(os.cpu_count() or 1)  # as many tiles at once as there are cores
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self.tile = lru_cache(KEPT)(read)
        self.last_asked = time.monotonic()
        try:
            super().__init__((HOST, port), _Answer)
        except OSError as error:
            raise ParameterError("port", port, f"a free port ({error.strerror}); 0 picks one") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.address = f"http://{HOST}:{self.server_port}/{self.token}/"

    def read_tile(self, key: Key) -> bytes:
        """A tile that is in the plan."""
        with self._hands:
            return self.tile(key)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._places:
            super().process_request_thread(request, client_address)

    def server_close(self) -> None:
        """Stop listening, and wait until no thread reads the slide any more: its file is closed next."""
        super().server_close()
        for _ in range(os.cpu_count() or 1):
            self._hands.acquire()

    def serve(self, idle: float) -> None:
        """Answer until nobody has asked for `idle` seconds."""
        self.timeout = min(1.0, idle)
        while time.monotonic() - self.last_asked < idle:
            self.handle_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault; anything else is said in one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"mil-tutorial view: {type(error).__name__}: {error!s:.200}", file=sys.stderr)


class _Answer(BaseHTTPRequestHandler):
    """One request."""

    server: SlideServer
    server_version, sys_version = "mil-tutorial", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """The page, a tile, or a refusal."""
        server = self.server
        token, _, name = self.path.removeprefix("/").partition("/")
        if self.headers.get("Host") not in server.hosts:  # a page elsewhere that calls itself this machine
            self._refuse(403, "this host is not served")
        elif not secrets.compare_digest(token.encode("utf-8", "replace"), server.token.encode()):
            self._refuse(403, "the address has no token, or a wrong one")
        elif name == "":
            server.last_asked = time.monotonic()
            self._send(200, "text/html; charset=utf-8", server.page, "no-store")
        else:
            self._tile(name)

    def _tile(self, name: str) -> None:
        server = self.server
        found = re.fullmatch(rf"{TILES}/([0-9]{{1,9}})/([0-9]{{1,9}})_([0-9]{{1,9}})\.jpg", name)
        key = None if found is None else (int(found[1]), int(found[2]), int(found[3]))
        if key is None or key not in server.plan:
            self._refuse(404, "there is no such tile")
            return
        server.last_asked = time.monotonic()
        try:
            tile = server.read_tile(key)
        except DataError as error:
            print(f"mil-tutorial view: {error}", file=sys.stderr)
            self._refuse(500, "the slide cannot be read there; the program that serves it says why")
            return
        self._send(200, "image/jpeg", tile, "private, max-age=3600")

    def _refuse(self, code: int, why: str) -> None:
        self._send(code, "text/plain; charset=utf-8", f"{why}\n".encode(), "no-store")

    def _send(self, code: int, kind: str, content: bytes, keep: str) -> None:
        self.send_response(code)
        for header, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": keep,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
        }.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Addresses hold the token: they are not written down."""
