"""Git repositories on this machine, reached the ways in which devices reach them."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Asked:
    """What a server was asked for, and the bytes that it sent."""

    paths: list[str] = field(default_factory=list)
    sent: int = 0


@contextmanager
def static(repository: Path) -> Iterator[tuple[str, Asked]]:
    """A web server that knows nothing of git."""
    asked = Asked()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words, directory=str(repository))

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked.paths.append(self.path)
            super().do_GET()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            content = source.read()
            asked.sent += len(content)
            outputfile.write(content)

    with _running(Handler) as url:
        yield url, asked


@contextmanager
def smart(repository: Path) -> Iterator[tuple[str, Asked]]:
    """git's own program behind a web server."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._git()

        def do_POST(self) -> None:
            self._git()

        def _git(self) -> None:
            asked.paths.append(self.path)
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            done = subprocess.run(
                ["git", "-c", "safe.directory=*", "http-backend"],
                input=body,
                stdout=subprocess.PIPE,
                check=True,
                env={
                    **os.environ,
                    "GIT_PROJECT_ROOT": str(repository.parent),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                },
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = [line.split(": ", 1) for line in head.decode().split("\r\n")]
            status = next((text for name, text in headers if name == "Status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for name, text in headers:
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)
            asked.sent += len(content)

    with _running(Handler) as url:
        yield f"{url}/{repository.name}", asked


@contextmanager
def _running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def peer(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Somebody who speaks, or does not speak, git's own protocol."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # who asked has gone
            behave(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"git://127.0.0.1:{listening.getsockname()[1]}/store.git"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def packet(content: bytes) -> bytes:
    """A line of git's protocol (gitprotocol-common(5))."""
    return b"%04x" % (len(content) + 4) + content
