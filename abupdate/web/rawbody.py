"""An upload's body on its way past h11, from the socket into three buffers that are used in turn.

h11 is Python and copies each byte several times. It parses the head as ever, and the guard checks
it; only then may a call take the body (`take`). Its bytes are counted here, so that not one of a
request behind it is read, and come as ASGI's messages, as before: limits of size and time hold.
But `body` is a view, and void when two more messages have been asked for: one can be written while
the next one is looked at, and a third one comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

SIZE = 1 << 20  # bytes of a buffer
GATHER = 0.02  # seconds for which a buffer may fill: a slow sender's bytes go on too
_EXTENSION = "abupdate.raw-body"
_DROPPED = memoryview(bytearray(64 << 10))  # what nobody wants is read into this


def take(scope: Scope) -> None:
    """Ask for the body of this request as views. Without this server in front nothing changes."""
    ask: Callable[[], None] | None = scope.get("extensions", {}).get(_EXTENSION)
    if ask is not None:
        ask()


class RawProtocol(H11Protocol):
    """uvicorn's protocol, with bodies that can be taken."""

    _reader: _Reader | None = None

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._served: ASGIApp = self.app
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _RawBody(self, scope, receive)
        extensions = scope.setdefault("extensions", {})
        extensions[_EXTENSION] = body.take
        try:
            await self._served(scope, body.receive, send)
        finally:
            del extensions[_EXTENSION]  # which refers to itself: the buffers shall go now

    def begin_raw(self, left: int) -> _Reader:
        """The rest of this request's body, `left` bytes, goes past h11."""
        self._reader = _Reader(self, left)
        self.transport.set_protocol(self._reader)
        self.flow.resume_reading()
        return self._reader

    def on_response_complete(self) -> None:
        reader = self._reader
        if reader is not None and not self.transport.is_closing():
            if reader.left:
                reader.drop(self._next_request)
            else:
                self._next_request()
        super().on_response_complete()

    def _next_request(self) -> None:
        # h11 still waits for the body that it was not given: a new one takes its place.
        self._reader = None
        most = self.config.h11_max_incomplete_event_size
        assert most is not None  # server.py sets it
        self.conn = h11.Connection(h11.SERVER, most)
        self.transport.set_protocol(self)
        self.flow.resume_reading()


class _RawBody:
    """ASGI's `receive` of one request."""

    def __init__(self, front: RawProtocol, scope: Scope, receive: Receive) -> None:
        self._front, self._receive, self._cycle = front, receive, front.cycle
        self._length = next((int(v) for k, v in scope["headers"] if k == b"content-length"), 0)
        self._reader: _Reader | None = None
        self._wanted = False
        self._came = 0

    def take(self) -> None:
        """`take`, of this request."""
        self._wanted = True

    async def receive(self) -> Message:
        """The next message."""
        if self._reader is None:
            # The first message comes from h11 in any case: it says "100 Continue" to a client
            # that waits for that, and has given on all that it holds when it gives this one.
            message = await self._receive()
            self._came += len(message.get("body", b""))
            if self._wanted and message.get("more_body") and self._came < self._length:
                self._reader = self._front.begin_raw(self._length - self._came)
            return message
        if self._reader.all_given:
            await self._cycle.message_event.wait()  # it is answered, or the client has left
        elif data := await self._reader.next():
            return {
                "type": "http.request", "body": data, "more_body": not self._reader.all_given,
            }  # fmt: skip
        return {"type": "http.disconnect"}


class _Reader(asyncio.BufferedProtocol):
    """Receives `left` bytes and not one more, into one buffer while the other two are in use."""

    def __init__(self, front: RawProtocol, left: int) -> None:
        self.left = left
        self._front = front
        self._filling, *self._others = (memoryview(bytearray(SIZE)) for _ in range(3))
        self._filled = 0
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._dropped: Callable[[], None] | None = None

    @property
    def all_given(self) -> bool:
        """Whether `next` has given the last byte."""
        return not self.left and not self._filled

    async def next(self) -> memoryview:
        """What came; nothing when the client has left. What was given before the last is void."""
        await self._ready.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        given = self._filling[: self._filled]
        self._others.append(self._filling)
        self._filling, self._filled = self._others.pop(0), 0
        if not self._lost:
            self._ready.clear()
            if self.left:
                self._front.flow.resume_reading()
        return given

    def drop(self, then: Callable[[], None]) -> None:
        """It is answered already: read the rest for nobody, and then do this."""
        self._dropped = then
        self._front.flow.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._dropped is not None:
            return _DROPPED[: self.left]
        return self._filling[self._filled : self._filled + self.left]

    def buffer_updated(self, nbytes: int) -> None:
        self.left -= nbytes
        if self._dropped is not None:
            if not self.left:
                self._dropped()
            return
        self._filled += nbytes
        if not self.left or self._filled == SIZE:
            # What follows the body waits until this request is answered.
            self._front.flow.pause_reading()
            self._ready.set()
        elif self._timer is None:
            self._timer = self._front.loop.call_later(GATHER, self._ready.set)

    def eof_received(self) -> None:
        self._front.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._ready.set()
        self._front.connection_lost(exc)

    def pause_writing(self) -> None:
        self._front.pause_writing()

    def resume_writing(self) -> None:
        self._front.resume_writing()
