"""The pages: made on the server, usable without JavaScript, kept up to date by a small module."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from abupdate.web.context import WebContext
from abupdate.web.pages import jobs, overview, records, trial, update
from abupdate.web.pages.render import STATIC, error_page, render

__all__ = ["error_page", "render", "routes"]


class _Kept(StaticFiles):
    """Files whose address has their digest: a browser need not ask for them again."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


async def _back(request: Request) -> Response:
    """From the address of a button to its page; nothing is done."""
    path = request.url.path
    return RedirectResponse("/trial" if path.startswith("/act/") else path.rpartition("/")[0], 303)


def routes(_context: WebContext) -> list[BaseRoute]:
    """All pages."""
    get, post = ["GET"], ["POST"]
    return [
        Route("/", overview.overview, methods=get),
        Route("/update", update.update, methods=get),
        Route("/update/release/{version}", update.release, methods=get),
        Route("/update/upload", update.upload, methods=post),
        Route("/update/drop", update.drop, methods=post),
        Route("/jobs", jobs.jobs, methods=get),
        Route("/jobs", jobs.start, methods=post),
        Route("/jobs/{job}", jobs.job, methods=get),
        Route("/jobs/{job}/cancel", jobs.cancel, methods=post),
        Route("/trial", trial.trial, methods=get),
        Route("/act/{what}", trial.act, methods=post),
        # An error's page has the address of its form: asked for again, it leads to what goes on.
        Route("/act/{what}", _back, methods=get),
        Route("/update/{what}", _back, methods=get),
        Route("/jobs/{job}/cancel", _back, methods=get),
        Route("/history", records.history, methods=get),
        Route("/log", records.log, methods=get),
        Route("/rescue", records.rescue, methods=get),
        Mount("/static", _Kept(directory=STATIC)),
    ]
