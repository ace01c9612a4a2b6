"""A web server that behaves, or does one of the things that servers do to those who fetch."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CHUNK = 8192


@dataclass
class Site:
    """What it serves at every path, how it behaves, and what it was asked for.

    `breaks`: bodies end after so many bytes of the file, one after the other; `stalls`: they
    do not end there, and nothing comes any more. `status`: answers before the file is served.
    `changes`: the file from the second answer on. `opening`: instead of an answer, before
    zeros without end. `told`: whether it says how long the file is.
    """

    content: bytes
    ranges: bool = True
    etag: str | None = '"one"'
    length: bool = True
    breaks: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    redirect: str | None = None
    changes: bytes | None = None
    opening: bytes = b""
    told: bool = True
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    address: str = ""
    open: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.address}/gw.bundle"


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve it on this machine, as long as the block takes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield site
    finally:
        site.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            wanted = self.headers.get("Range", "")
            site.asked.append(f"{self.path} {wanted}".strip())
            if site.redirect and self.path == "/gw.bundle":
                self._answer(302, {"Location": site.redirect, "Content-Length": "0"})
                return
            if site.opening:
                self._endless()
                return
            if site.status:
                self._answer(site.status.pop(0), {"Content-Length": "0"})
                return
            self._file(wanted)

        def _endless(self) -> None:
            with suppress(OSError):
                self.wfile.write(site.opening)
                while not site.open.is_set():
                    self.wfile.write(bytes(1 << 20))
                    site.sent += 1 << 20

        def _file(self, wanted: str) -> None:
            content = site.content
            if site.changes is not None and len(site.asked) > 1:
                content = site.changes
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
            start, end, headers = 0, len(content), {}
            same = self.headers.get("If-Range") in (None, site.etag)
            partial = bool(site.ranges and found is not None and same and content)
            if partial and found is not None:
                start = int(found[1])
                if start >= len(content):
                    length = {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"}
                    self._answer(416, length)
                    return
                end = min(end, int(found[2]) + 1) if found[2] else end
                total = len(content) if site.told else "*"
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
            if site.length:
                headers["Content-Length"] = str(end - start)
            if site.etag:
                headers["ETag"] = site.etag
            self._answer(206 if partial else 200, headers)
            self._body(content, start, end)

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _body(self, content: bytes, start: int, end: int) -> None:
            stop = next((at for at in site.breaks if start < at <= end), end)
            stall = next((at for at in site.stalls if start < at <= end), end)
            try:
                while start < min(stop, stall):
                    chunk = content[start : min(start + _CHUNK, stop, stall)]
                    self.wfile.write(chunk)
                    start += len(chunk)
                    site.sent += len(chunk)
                if start == stall < end:
                    self.wfile.flush()
                    site.open.wait()
            except OSError:
                pass  # who asked has gone
            if start == stop and stop in site.breaks:
                site.breaks.remove(stop)
            if start == stall and stall in site.stalls:
                site.stalls.remove(stall)

    return Handler
