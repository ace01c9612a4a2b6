"""The pages: made on the server, usable without JavaScript, kept up to date by a small module."""

from __future__ import annotations

from starlette.responses import Response
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
        Route("/history", records.history, methods=get),
        Route("/log", records.log, methods=get),
        Route("/rescue", records.rescue, methods=get),
        Mount("/static", _Kept(directory=STATIC)),
    ]
