"""Server-sent events: lines that a browser's EventSource reads, and goes on with by number."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from abupdate.engine.contract import EngineError
from abupdate.web.calls import as_json
from abupdate.web.context import WebContext, context_of
from abupdate.web.problem import RefusalError

HEARTBEAT = 15.0  # seconds without an event, after which a comment says that we are still there
AGAIN = 2000  # milliseconds after which a browser connects again

T = TypeVar("T")


def event(kind: str, content: Any, number: int | None = None) -> str:
    """One event; `number` is what a browser sends back to go on after it."""
    identity = "" if number is None else f"id: {number}\n"
    # One line, whatever is in it: JSON escapes line breaks.
    return f"{identity}event: {kind}\ndata: {as_json(content).decode()}\n\n"


def last_seen(request: Request) -> int:
    """The number after which a client wants to go on; 0: all. Raises `RefusalError` (400)."""
    told = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    if not (told.isascii() and told.isdecimal() and len(told) <= 12):
        raise RefusalError(400, "after (or Last-Event-ID) should be the number of an event.")
    return int(told)


def stream(request: Request, events: AsyncIterator[str]) -> Response:
    """The answer that gives these events; it is a refusal (503) when there are too many."""
    context = context_of(request)
    if request.method == "HEAD":  # its answer ends here
        return Response(media_type="text/event-stream")
    return _Stream(
        context, _lines(request, events), media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )  # fmt: skip


class _Stream(StreamingResponse):
    """Counted before anything else can run: of many that come at once no more are let in."""

    def __init__(self, context: WebContext, lines: AsyncIterator[str], **more: Any) -> None:
        super().__init__(lines, **more)
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = self._context
        if context.streams >= context.limits.streams:
            raise RefusalError(
                503, "Too many watch this device already.", headers={"Retry-After": "10"}
            )
        context.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            context.streams -= 1


async def _lines(request: Request, events: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        yield f"retry: {AGAIN}\n\n"
        async with contextlib.aclosing(_or_silence(events, HEARTBEAT)) as lines:
            async for line in lines:
                if not _may_still(request):
                    yield event("login", {"detail": "This session or token has ended."})
                    return
                yield line if line is not None else ": still here\n\n"
    except EngineError as error:
        yield event("gone", {"detail": error.message, "hint": error.hint})


def _may_still(request: Request) -> bool:
    context, session = context_of(request), request.state.session
    if session is not None:
        return context.sessions.is_open(session)
    return context.tokens.of_header(request.headers.get("authorization", "")) is not None


async def _or_silence(source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T | None, None]:
    """What `source` gives, and None each time that it gives nothing for so long."""
    iterator = source.__aiter__()
    awaited: asyncio.Future[T] | None = None
    try:
        while True:
            awaited = awaited or asyncio.ensure_future(anext(iterator))
            done, _ = await asyncio.wait((awaited,), timeout=seconds)
            if not done:
                yield None
                continue
            try:
                found = awaited.result()
            except StopAsyncIteration:
                return
            awaited = None
            yield found
    finally:
        if awaited is not None:
            awaited.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                await awaited
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
