"""A local server for the page of results: what one file cannot hold, images in their own size.

It answers this computer alone, whoever knows the token in the address, and reads: rows by their
number, nothing by a path.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from pdepth import __version__
from pdepth.optional import require
from pdepth.report.explain import read_shown
from pdepth.report.html import page
from pdepth.report.html.thumbnails import SUPPORT, Encoder
from pdepth.report.images import UNREADABLE
from pdepth.report.pictures import BuiltIn, find_images
from pdepth.report.shown import neighbors_images

HOST = "127.0.0.1"
TYPES = {"png": "image/png", "jpg": "image/jpeg"}
ROW = r"(?P<row>\d{1,18})"  # of any number of digits int() refuses some
OF_ROW = re.compile(
    rf"(?:(?P<of>support)/)?(?:thumbnails/(?P<folder>\d+)|images)/{ROW}(?:\.(?:png|jpg))?"
)
OF_EXAMPLE = re.compile(rf"neighbors/{ROW}")
CHUNK = 1 << 16  # bytes of an answer at a time


class View:
    """A page, the files beside it, and images by row: what the server gives.

    note: why there are no pictures, or "".
    """

    def __init__(
        self,
        results: Path,
        images: str | None = None,
        built_in: BuiltIn | None = None,
        *,
        support: str | None = None,
    ) -> None:
        """The arguments are those of `pdepth.report.write.write_report`, with its errors."""
        for module in ("pyarrow", "plotly"):
            require(module, "pdepth view", "report")
        loaded = read_shown(results)
        shown = find_images(loaded, images, built_in)
        of_support = neighbors_images(loaded, support, built_in)
        self.note: str = shown.note or of_support.note
        self._encoders: dict[str, Encoder] = {}
        for name, found in (("", shown.images), (SUPPORT, of_support.images)):
            if found is not None:
                require("PIL", "pdepth view", "report")
                self._encoders[name] = Encoder.for_images(found, np.arange(len(found)))
        self._lock = threading.Lock()  # datasets need not be safe for several threads
        suffixes = {name: encoder.suffix for name, encoder in self._encoders.items()}
        served = page.serve(
            loaded,
            class_names=shown.names,
            suffix=suffixes.get("", ""),
            support_suffix=suffixes.get(SUPPORT, ""),
            note=self.note,
        )
        self._text, self._files = served.text.encode("utf-8", "backslashreplace"), served.files
        self._neighbors, self._map = served.neighbors, served.map

    def answer(self, name: str) -> tuple[str, bytes] | None:
        """The type and the content of what is at a name, relative to the page; None: nothing."""
        if not name:
            return "text/html; charset=utf-8", self._text
        if name in self._files:
            return "application/octet-stream", self._files[name]
        if self._map is not None and name in self._map.parts:
            return "application/octet-stream", self._map.pack(name)
        if match := OF_EXAMPLE.fullmatch(name):
            return self._neighbors_of(int(match["row"]))
        match = OF_ROW.fullmatch(name)
        encoder = None if match is None else self._encoders.get(match["of"] or "")
        if match is None or encoder is None:
            return None
        row, small = int(match["row"]), match["folder"] is not None
        if row >= len(encoder.images):
            return None
        try:
            with self._lock:
                encode = encoder.thumbnail if small else encoder.original
                return TYPES[encoder.suffix], encode(row)
        except UNREADABLE:
            return None  # the page shows a sign in its place

    def _neighbors_of(self, example: int) -> tuple[str, bytes] | None:
        near = self._neighbors
        if near is None or example >= near.kept.rows.shape[1]:
            return None
        return "application/json", json.dumps(near.describe(example)).encode()


@contextmanager
def serving(view: View, port: int = 0) -> Iterator[str]:
    """Serve a view, in threads, until the block ends; yields its address.

    port: of this computer; 0: a free one. Raises OSError where it is in use.
    """
    token = secrets.token_urlsafe(24)
    handler = type("Handler", (_Handler,), {"view": view, "token": token})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        raise OSError(
            f"port: expected a free one, got {port}: {error.strerror}; leave --port out."
        ) from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/{token}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False  # two servers at one port would share its requests

    def server_bind(self) -> None:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what failed; a browser that has gone is no fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD below the token, of requests that name this server as their host."""

    view: View
    token: str
    server_version = f"pdepth/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        self._respond(with_content=True)

    def do_HEAD(self) -> None:
        self._respond(with_content=False)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is the user's."""

    def _respond(self, with_content: bool) -> None:
        token, name = [*self.path.partition("?")[0].split("/", 2), "", ""][1:3]
        found = None
        if self._is_for_us() and hmac.compare_digest(token.encode(), self.token.encode()):
            found = self.view.answer(name)
        status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
        kind, content = found or ("text/plain; charset=utf-8", b"Not found.")
        self.send_response(status)
        for header, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(header, value)
        self.end_headers()
        for begin in range(0, len(content) if with_content else 0, CHUNK):
            self.wfile.write(content[begin : begin + CHUNK])

    def _is_for_us(self) -> bool:
        """Whether the Host header names this server: a page of another name that resolves to this
        computer must not read it (DNS rebinding)."""
        assert isinstance(self.server, _Server)
        port = self.server.server_port
        return self.headers.get("Host", "") in (f"{HOST}:{port}", f"localhost:{port}")
