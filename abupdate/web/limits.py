"""How much, how long and how many: what one client, or all of them, may take up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abupdate.web.handshakes import Handshakes
from abupdate.web.headers import refusal
from abupdate.web.rawbody import RawProtocol

HEAD = 16 << 10  # bytes of a request's line and headers
FIELDS = 100  # headers
TARGET = 2048  # bytes of a path with its query
BODY = 64 << 10  # bytes of a body that is no upload
FORM = 64 << 10  # bytes that a form adds to the file in it


@dataclass(frozen=True)
class Limits:
    """Times in seconds, and numbers of connections. Tests have shorter ones."""

    head: float = 10.0  # until a request's headers are there
    silence: float = 30.0  # without a byte of a body that is awaited
    window: float = 60.0  # in which so much of it must come:
    window_bytes: int = 16 << 10
    body: float = 30.0  # until all of a body is there that is no upload
    drain: float = 2.0  # for which a body is read on that was refused
    unread: float = 60.0  # for which an answer may wait for a client that does not read
    connections: int = 512
    per_address: int = 256
    handshakes: int = 256  # of TLS, that have not ended; `head` is their time
    handshakes_per_address: int = 64
    streams: int = 300  # of events


_FULL = refusal("503 Service Unavailable", "Too many connections for now.", "Retry-After: 5\r\n")


def bounded_protocol(limits: Limits, handshakes: Handshakes | None = None) -> type[RawProtocol]:
    """uvicorn's protocol with ends for those who send headers, or read answers, too slowly."""
    open_now: Counter[str] = Counter()

    class Bounded(RawProtocol):
        _timer: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _address: str | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if handshakes is not None:
                handshakes.ended(transport.get_extra_info("peername"))
            address = self.client[0] if self.client else ""
            if open_now.total() >= limits.connections or open_now[address] >= limits.per_address:
                transport.write(_FULL)
                transport.close()
                return
            self._address = address
            open_now[address] += 1
            self._timer = self._later(limits.head, transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._address is not None:
                open_now[self._address] -= 1
                if not open_now[self._address]:
                    del open_now[self._address]
                self._address = None
            self._stop_timer()
            self._stop_unread()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._address is None:
                return
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()
            elif self._timer is None:
                self._timer = self._later(limits.head, self.transport.close)

        def send_400_response(self, msg: str) -> None:
            cycle = self.cycle
            if cycle is None or cycle.response_complete or not cycle.response_started:
                self.transport.write(refusal("400 Bad Request", msg))
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self._later(limits.unread, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_unread()

        def _later(self, seconds: float, act: Callable[[], Any]) -> asyncio.TimerHandle:
            return self.loop.call_later(seconds, act)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _stop_unread(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    return Bounded
