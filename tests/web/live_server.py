"""The real server on loopback, in a thread, against the engine in memory."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from abupdate.config import WebSection
from abupdate.web.context import WebContext
from abupdate.web.handshakes import TlsServer
from abupdate.web.limits import Limits
from abupdate.web.server import server_of
from tests.web.fake_engine import NOW, FakeEngine

PASSWORD = "correct horse battery"
CHEAP = {"n": 2, "r": 1, "p": 1}  # scrypt, in no time
T = TypeVar("T")


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class LiveServer:
    """A server with a password; `token` may do everything."""

    def __init__(
        self,
        state: Path,
        engine: FakeEngine | None = None,
        *,
        limits: Limits | None = None,
        files: tuple[Path, Path] | None = None,
        address: str = "127.0.0.1",
        **settings: Any,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.clock = Clock()
        section = WebSection(**{"max_upload": 64 << 20, **settings})
        self.context = WebContext(
            self.engine, section, state, self.clock, limits=limits or Limits(), cost=CHEAP
        )
        if not self.context.passwords.is_set():
            self.context.passwords.set(PASSWORD)
        self.token = self.context.tokens.add(secrets.token_hex(4), False)
        self._server = server_of(self.context, files)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self.port: int = self._socket.getsockname()[1]
        self.secure = files is not None
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http{'s' if files else ''}://{self.host}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(main())

    def do(self, act: Callable[[], T]) -> T:
        """Run something in the server's thread."""

        async def done() -> T:
            return act()

        while self._loop is None:
            threading.Event().wait(0.005)
        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(60)

    def connections(self) -> int:
        """How many are open."""
        return self.do(lambda: len(self._server.server_state.connections))

    def handshakes(self) -> int:
        """How many of TLS have not ended."""
        server = self._server
        assert isinstance(server, TlsServer)
        return self.do(lambda: len(server.handshakes))

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """The server does nothing meanwhile; what came until then, it finds all at once."""
        go = threading.Event()
        self.do(lambda: None)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(go.wait, 60)
        try:
            yield
        finally:
            go.set()

    def stop(self) -> None:
        """End the server, as a signal does."""
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def script(self, token: str | None = None, **more: Any) -> httpx.Client:
        """A client with a token."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False, **more)

    def browser(self) -> httpx.Client:
        """A client that says where it comes from, as browsers do."""
        return httpx.Client(
            base_url=self.url, headers={"Origin": self.url}, timeout=60, trust_env=False,
            verify=False,
        )  # fmt: skip

    def logged_in(self) -> httpx.Client:
        """A browser after the login; its token for forms is sent along."""
        client = self.browser()
        answer = client.post("/login", data={"password": PASSWORD})
        assert answer.status_code == 303, answer.text
        number = client.cookies[self.context.cookie]
        session = self.do(lambda: self.context.sessions.find(number))
        assert session is not None
        client.headers["X-CSRF-Token"] = session.csrf
        return client

    def talk(self, data: bytes, wait: bool = True) -> bytes:
        """Send these bytes, and give all that comes back until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            try:
                connection.sendall(data)
                if not wait:
                    connection.shutdown(socket.SHUT_WR)
            except (ConnectionResetError, BrokenPipeError):
                pass
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side ends."""
    found = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives, once it holds."""
    for _ in range(6000):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("It did not come true in a minute.")


def digest(data: bytes) -> str:
    """SHA-256, as the API tells it."""
    return hashlib.sha256(data).hexdigest()
