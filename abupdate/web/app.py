"""The application: routes of pages and API, behind the guard.

What the pages (`abupdate.web.pages`) give: `routes(context) -> list[Route]`, and
`render(request, template, values, status_code=200) -> Response`, which this side calls with
  login.html     error: str | None, next: str, wait: int | None (seconds), password_set: bool
  setup.html     error: str | None
  password.html  error: str | None, done: bool
  error.html     status: int, title: str, detail: str, hint: str | None
What they find: `context_of(request)`, `request.state.session` (None, or a `Session` with .csrf,
which each form brings along as its first field, named `csrf`), `request.state.read_only`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from abupdate.engine.contract import EngineError
from abupdate.web import api, auth_routes
from abupdate.web.context import WebContext
from abupdate.web.guard import Guard
from abupdate.web.problem import RefusalError, answer
from abupdate.web.uploads import UploadError

__all__ = ["WebContext", "make_app"]
_TIDY = 3600.0  # seconds


def make_app(context: WebContext) -> Starlette:
    """The application, as the server and the tests run it."""
    # What else is raised goes through to the guard, which says that it is a bug.
    told: dict[Any, Any] = {
        EngineError: _engine_error,
        HTTPException: _http_error,
        UploadError: _upload_error,
        RefusalError: _refusal,
        OSError: _full_disk,
    }
    app = Starlette(
        routes=[*auth_routes.routes(), *api.routes(), *_pages(context)],
        middleware=[Middleware(Guard, context=context)],
        exception_handlers=told,
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.context = context
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """While it serves, what nobody uses any more is tidied up."""

    async def tidy() -> None:
        while True:
            await asyncio.sleep(_TIDY)
            app.state.context.uploads.tidy()

    task = asyncio.create_task(tidy())
    yield
    task.cancel()


async def _engine_error(request: Request, error: EngineError) -> Response:
    return answer(request, RefusalError.of_engine(error))


async def _http_error(request: Request, error: HTTPException) -> Response:
    words = {404: "There is no such page.", 405: "That cannot be done with this."}
    detail = words.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    return answer(request, RefusalError(error.status_code, detail, headers=headers))


async def _upload_error(request: Request, error: UploadError) -> Response:
    refusal = RefusalError(error.status, error.message, error.hint, upload=error.upload)
    if error.status == 409 and error.upload is not None:
        for one in request.app.state.context.uploads.all():
            if one.id == error.upload:
                refusal.headers["Upload-Offset"] = str(one.offset)
    return answer(request, refusal)


async def _refusal(request: Request, error: RefusalError) -> Response:
    return answer(request, error)


async def _full_disk(request: Request, error: OSError) -> Response:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    hint = "Free some: `abupdate store prune`, or remove files of yours."
    return answer(request, RefusalError(507, "There is no space left on data.", hint))


def _pages(context: WebContext) -> Sequence[BaseRoute]:
    try:
        routes = importlib.import_module("abupdate.web.pages").routes
    except (ModuleNotFoundError, AttributeError):
        return ()
    found: Sequence[BaseRoute] = routes(context)
    return found
