"""Templates made into answers. Nothing here asks the engine, so that errors can be told too."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from abupdate.engine.contract import EngineError
from abupdate.errors import ExitCode
from abupdate.web.pages.views import words
from abupdate.web.pages.views.situation import job_title
from abupdate.web.pages.views.steps import step_text

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
NAV = (("/", "Overview"), ("/update", "Update"), ("/history", "History"), ("/log", "Log"))
# What templates may find unset.
_DEFAULTS: dict[str, Any] = {
    "host": None, "mode": None, "running": None, "banner": None, "on_job": False, "stream": None,
    "refresh": None, "says": None, "boot_id": None, "version": "", "here": None, "error": None,
    "next": None, "wait": None, "password_set": True, "done": False, "least": None, "hint": None,
    "detail": None, "back": None, "link": None, "tone": None,
}  # fmt: skip
_STATUS = {
    ExitCode.USAGE: 400, ExitCode.NOTHING_TO_DO: 409, ExitCode.BUSY: 409,
    ExitCode.NOT_TRUSTED: 422, ExitCode.REFUSED: 409, ExitCode.NO_SPACE: 507,
    ExitCode.SOURCE: 422, ExitCode.CONTENT_DIFFERS: 409, ExitCode.DEVICE_FAULT: 503,
}  # fmt: skip
_TITLES = {
    400: "That was not understood",
    403: "That is not allowed",
    404: "There is no such page",
    409: "Not now",
    422: "It is refused",
    429: "Too many tries",
    503: "The update service does not answer",
    507: "There is not enough space",
}


def render(
    request: Request, template: str, values: dict[str, Any], status_code: int = 200
) -> Response:
    """A page. Who is logged in gets the navigation around it."""
    session = getattr(request.state, "session", None)
    read_only = bool(getattr(request.state, "read_only", False))
    known = {
        **_DEFAULTS,
        "csrf": session.csrf if session is not None else None,
        "read_only": read_only, "may": session is not None and not read_only, "nav": NAV,
    }  # fmt: skip
    if session is not None:
        known["host"] = os.uname().nodename
        known["here"] = request.url.path
    if template == "error.html":
        known["here"] = None
        values = {**values, "title": values.get("title_here") or _TITLES.get(status_code)
                  or values["title"]}  # fmt: skip
    if values.get("host") is None:
        values = {name: value for name, value in values.items() if name != "host"}
    text = environment().get_template(template).render({**known, **values})
    return HTMLResponse(text, status_code, {"Cache-Control": "no-store"})


def error_page(
    request: Request, status: int, detail: str = "", hint: str | None = None, **more: Any
) -> Response:
    """An error in words. The service being gone is looked at again by itself."""
    values = {
        "status": status, "title": _TITLES.get(status, "That did not work"), "detail": detail,
        "hint": hint, "tone": "bad" if status in (503, 507) else "wait",
        "refresh": 5 if status == 503 else None, **more,
    }  # fmt: skip
    return render(request, "error.html", values, status)


def engine_page(request: Request, error: EngineError) -> Response:
    """What the engine refused, in its own words."""
    more = {"back": "/jobs", "link": "What runs"} if error.code == ExitCode.BUSY else {}
    if request.method == "GET" and error.code == ExitCode.NOTHING_TO_DO:
        return error_page(request, 404, error.message, error.hint, title_here="It is not here")
    return error_page(request, _STATUS.get(error.code, 500), error.message, error.hint, **more)


@cache
def environment() -> Environment:
    """The templates, with the words that they use."""
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=select_autoescape(default=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=words.visible,
    )  # fmt: skip
    made.filters |= {
        "size": words.size, "duration": words.duration, "when": words.when,
        "commit": words.commit, "sentence": words.sentence, "place": words.place,
        "marked": words.marked, "told": words.told, "step_text": step_text, "job_title": job_title,
    }  # fmt: skip
    made.globals["static"] = static
    return made


@cache
def static(name: str) -> str:
    """The address of a file that may be kept for ever: its digest is in it."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"
