"""What every page needs: a login, the device's state, and a way to tell what went wrong."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from abupdate.engine.contract import Engine, EngineError, Job, Status
from abupdate.web.context import context_of
from abupdate.web.pages.folding import Folding
from abupdate.web.pages.render import engine_page, error_page, render
from abupdate.web.pages.views.situation import Kind, Situation, running, situation

Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")
_MAX_FIELDS = 40


class RefusedError(Exception):
    """A form that is not answered: `status` is HTTP's."""

    def __init__(self, status: int, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint


def page(handler: Handler) -> Handler:
    """For those who are logged in alone; what the engine refuses becomes a page."""

    async def guarded(request: Request) -> Response:
        if getattr(request.state, "session", None) is None:
            return RedirectResponse(f"/login?next={quote(_here(request), safe='/')}", 303)
        if request.method == "POST" and getattr(request.state, "read_only", False):
            return error_page(request, 403, "This page is read only: nothing can be changed here.")
        try:
            return await handler(request)
        except EngineError as error:
            return engine_page(request, error)
        except RefusedError as error:
            return error_page(request, error.status, error.detail, error.hint)

    return guarded


def _here(request: Request) -> str:
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


async def form_of(request: Request) -> FormData:
    """The fields of a form. Raises `RefusedError` for one that this page did not make."""
    form = await request.form(max_files=0, max_fields=_MAX_FIELDS)
    check_csrf(request, form.get("csrf"))
    return form


def check_csrf(request: Request, token: object) -> None:
    """Raises `RefusedError` for another token than the session's."""
    csrf = request.state.session.csrf
    if not isinstance(token, str) or not hmac.compare_digest(token.encode(), csrf.encode()):
        raise RefusedError(403, "This form is not of your login.", "Go back, reload, try again.")


def engine_of(request: Request) -> Engine:
    """The engine of this server."""
    return context_of(request).engine


@dataclass
class Memory:
    """What pages keep between requests. `slow`: calls that were begun, by name."""

    slow: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    folding: Folding = field(default_factory=Folding)


def memory_of(request: Request) -> Memory:
    """The memory of this server's pages."""
    state = request.app.state
    if not hasattr(state, "pages"):
        state.pages = Memory()
    memory = state.pages
    assert isinstance(memory, Memory)
    return memory


@dataclass
class Shell:
    """The device's state, as all pages show it."""

    request: Request
    status: Status
    jobs: list[Job]
    now: Situation
    running: Job | None
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> dict[str, Any]:
        """`abupdate status --json`."""
        return self.status.report

    def render(self, template: str, /, **values: Any) -> Response:
        """A page around these values; the headline is a strip where the page does not tell it."""
        return render(self.request, template, {**self.values, **values})


async def look(request: Request, *, banner: bool = True) -> Shell:
    """Ask for the device's state. `banner`: tell it above the page, where it is not all well."""
    engine = engine_of(request)
    status, jobs = await asyncio.gather(engine.status(), engine.jobs())
    now, busy = situation(status), running(jobs)
    told = banner and now.kind not in (Kind.CONFIRMED, Kind.RESCUE)
    values = {
        "host": status.hostname, "mode": status.mode, "boot_id": status.boot_id,
        "version": status.version, "now": now, "running": busy, "busy": busy,
        "banner": now if told else None, "stream": "/api/v1/events", "says": now.title,
        "refresh": 5 if busy or now.kind in (Kind.TRIAL, Kind.RESTARTING) else None,
        "booted": status.report["booted"]["slot"],
        "current": status.report["booted"]["release"] or "unknown",
    }  # fmt: skip
    return Shell(request, status, jobs, now, busy, values)


async def soon(request: Request, name: str, call: Callable[[], Coroutine[Any, Any, T]],
               seconds: float = 0.5) -> T | None:  # fmt: skip
    """What a slow call gives, if it does so soon; else it runs on, and the next look finds it."""
    tasks = memory_of(request).slow
    task = tasks.get(name)
    if task is None:
        task = tasks[name] = asyncio.ensure_future(call())
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        return None
    tasks.pop(name, None)
    try:
        found: T = task.result()
    except EngineError:
        return None
    return found
