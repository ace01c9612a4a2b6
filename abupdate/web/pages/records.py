"""History, log and rescue."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request
from starlette.responses import Response

from abupdate.engine.contract import EngineError, StoredRelease
from abupdate.web.context import context_of
from abupdate.web.pages.jobs import RESET_WORDS
from abupdate.web.pages.shell import engine_of, look, page
from abupdate.web.pages.update import stored
from abupdate.web.pages.views.disk import places
from abupdate.web.pages.views.story import rows, story


@page
async def history(request: Request) -> Response:
    """Everything that happened, and why the last release did not stay."""
    shell = await look(request)
    engine = engine_of(request)
    items, why = await asyncio.gather(engine.history(), engine.why())
    told = story(why)
    if told is not None and told.open:  # it is the first of this page
        shell.values["banner"] = None
    return shell.render("history.html", rows=rows(items), story=told, jobs=shell.jobs[:20])


@page
async def log(request: Request) -> Response:
    """The log, and the file for those who help."""
    shell = await look(request)
    return shell.render("log.html", lines=await engine_of(request).log(), refresh=10)


@page
async def rescue(request: Request) -> Response:
    """Put slots back."""
    shell = await look(request)
    if shell.status.mode == "rescue":  # its own headline tells
        shell.values["banner"] = None
    releases: list[StoredRelease] = []
    with contextlib.suppress(EngineError):  # no store: a bundle can be sent
        releases = await engine_of(request).releases()
    return shell.render(
        "rescue.html", releases=stored(releases, shell), words=RESET_WORDS,
        uploads=[one for one in context_of(request).uploads.all() if one.complete],
        places=places(shell.report), rescue_release=shell.report["rescue_release"],
        rescue_ready=shell.report["rescue"] == "ready",
    )  # fmt: skip
