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

import importlib
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from abupdate.web.context import WebContext

__all__ = ["WebContext", "make_app"]


def make_app(context: WebContext) -> Starlette:
    """The application, as the server and the tests run it."""
    app = Starlette(routes=[*_pages(context)])
    app.state.context = context
    return app


def _pages(context: WebContext) -> Sequence[BaseRoute]:
    try:
        pages = importlib.import_module("abupdate.web.pages")
    except ModuleNotFoundError:
        return ()
    found: Sequence[BaseRoute] = pages.routes(context)
    return found
