"""The API: what the device is, what it does, and what it shall do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from abupdate.engine.contract import (
    Engine,
    EngineError,
    Health,
    HistoryItem,
    Job,
    Status,
    StoredRelease,
    Told,
    Wish,
)
from abupdate.web import api_uploads, openapi, sse
from abupdate.web.calls import (
    PREFIX,
    Call,
    Parameter,
    exact,
    given,
    named,
    not_found,
    number,
    taken,
)
from abupdate.web.context import context_of
from abupdate.web.problem import RefusalError

_JOB = r"[0-9a-z-]{7,60}"
_AFTER = (
    Parameter("after", {"type": "integer", "minimum": 0, "maximum": 999999999999},
              "Go on after this event."),
    Parameter("Last-Event-ID", {"type": "integer", "minimum": 0, "maximum": 999999999999},
              "The same, as browsers say it.", "header"),
)  # fmt: skip
_ENGINE = (409, 503)


class Reboot(BaseModel):
    """Restart the device; into rescue when asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    into: Literal["", "rescue"] = ""


class Story(BaseModel):
    """Why the last release did not stay: `abupdate why --json`, or null."""

    story: dict[str, Any] | None


class Log(BaseModel):
    """The last lines of the log."""

    lines: list[str]


def _engine(request: Request) -> Engine:
    return context_of(request).engine


async def status(request: Request) -> Response:
    """The device now."""
    return given(await _engine(request).status())


async def health(request: Request) -> Response:
    """The checks."""
    return given(await _engine(request).health())


async def history(request: Request) -> Response:
    """What happened."""
    return given(await _engine(request).history(number(request, "limit", 100, 1000)))


async def why(request: Request) -> Response:
    """The story of a fallback."""
    return given(Story(story=await _engine(request).why()))


async def releases(request: Request) -> Response:
    """What the store holds."""
    return given(await _engine(request).releases())


async def log(request: Request) -> Response:
    """The log."""
    return given(Log(lines=await _engine(request).log(number(request, "lines", 400, 5000))))


async def support(request: Request) -> Response:
    """The file for those who help."""
    found = await _engine(request).support()
    if not await asyncio.to_thread(os.access, found.path, os.R_OK):
        raise RefusalError(503, "The file cannot be read that the engine made.", "Try it again.")
    return FileResponse(found.path, media_type="application/gzip", filename=found.name)


async def jobs(request: Request) -> Response:
    """The last jobs."""
    return given(await _engine(request).jobs())


async def start(request: Request) -> Response:
    """Begin a job."""
    job = await _engine(request).start(await taken(request, Wish))
    return given(job, 202, Location=f"{PREFIX}/jobs/{job.id}")


async def job(request: Request) -> Response:
    """One job."""
    try:
        return given(await _engine(request).job(named(request, _JOB)))
    except EngineError as error:
        raise not_found(error) from error


async def cancel(request: Request) -> Response:
    """End a job."""
    try:
        return given(await _engine(request).cancel(named(request, _JOB)))
    except EngineError as error:
        raise not_found(error) from error


async def job_events(request: Request) -> Response:
    """What a job tells."""
    engine, job_id, after = _engine(request), named(request, _JOB), sse.last_seen(request)
    try:
        await engine.job(job_id)
    except EngineError as error:
        raise not_found(error) from error

    async def told() -> AsyncIterator[str]:
        async for one in engine.events(job_id, after):
            yield sse.event("job", one.event, one.n)
        yield sse.event("end", (await engine.job(job_id)).model_dump(mode="json"))

    return sse.stream(request, told())


async def events(request: Request) -> Response:
    """Each change of the status."""
    watch = context_of(request).watch

    async def told() -> AsyncIterator[str]:
        async for kind, content in watch.follow():
            yield sse.event(kind, content)

    return sse.stream(request, told())


def _order(act: Callable[[Engine], Awaitable[Told]]) -> Callable[[Request], Awaitable[Response]]:
    async def handler(request: Request) -> Response:
        return given(await act(_engine(request)))

    return handler


async def reboot(request: Request) -> Response:
    """Restart; without a body, into what GRUB chooses."""
    wish = await taken(request, Reboot) if await request.body() else Reboot()
    return given(await _engine(request).reboot(wish.into), 202)


async def document(request: Request) -> Response:
    """The description of this API."""
    return given(openapi.document(calls()))


def calls() -> list[Call]:
    """All of them."""
    limit = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "How many.")
    lines = Parameter("lines", {"type": "integer", "minimum": 1, "maximum": 5000}, "How many.")
    stream = "text/event-stream"
    return [
        Call("GET", "/status", status, "The device now", Status, refusals=(503,)),
        Call("GET", "/health", health, "The health checks", Health, refusals=(503,)),
        Call("GET", "/history", history, "What happened, newest first", list[HistoryItem],
             parameters=(limit,), refusals=(400, 503)),
        Call("GET", "/why", why, "Why the last release did not stay", Story, refusals=(503,)),
        Call("GET", "/releases", releases, "The store's releases", list[StoredRelease],
             refusals=(503,)),
        Call("GET", "/log", log, "The last lines of the log", Log, parameters=(lines,),
             refusals=(400, 503)),
        Call("GET", "/support", support, "A file for those who help, without secrets",
             media="application/gzip", refusals=(503,)),
        Call("GET", "/events", events, "`status` at each change, `gone` without the engine",
             media=stream, refusals=(503,)),
        Call("GET", "/jobs", jobs, "The last jobs, newest first", list[Job], tag="jobs",
             refusals=(503,)),
        Call("POST", "/jobs", start, "Begin a job", Job, Wish, 202, tag="jobs",
             refusals=(400, 409, 413, 415, 422, 503, 507), headers={"Location": "The job."}),
        Call("GET", "/jobs/{id}", job, "A job", Job, tag="jobs", refusals=(404, 503)),
        Call("DELETE", "/jobs/{id}", cancel, "End a job", Job, tag="jobs",
             refusals=(404, 409, 503)),
        Call("GET", "/jobs/{id}/events", job_events, "`job` for each event, then `end`",
             media=stream, parameters=_AFTER, tag="jobs", refusals=(400, 404, 503)),
        Call("POST", "/confirm", _order(lambda engine: engine.confirm()),
             "Keep the release on trial", Told, refusals=_ENGINE),
        Call("POST", "/reject", _order(lambda engine: engine.reject()),
             "Give up what is armed or on trial", Told, refusals=_ENGINE),
        Call("POST", "/acknowledge", _order(lambda engine: engine.acknowledge()),
             "The last fallback is known", Told, refusals=_ENGINE),
        Call("POST", "/arm", _order(lambda engine: engine.arm()),
             "Let GRUB try what was installed without arming", Told, refusals=_ENGINE),
        Call("POST", "/reboot", reboot, "Restart the device", Told, Reboot, 202,
             refusals=(400, 409, 413, 415, 422, 503)),
        *api_uploads.calls(),
        Call("GET", "/openapi.json", document, "This document", dict[str, Any], tag="about"),
    ]  # fmt: skip


def routes() -> list[BaseRoute]:
    """The calls as routes."""
    return [Route(f"{PREFIX}{call.path}", exact(call), methods=[call.method]) for call in calls()]
