"""Log in and out, set the first password with a code, and change it."""

from __future__ import annotations

import asyncio
import math

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from abupdate.errors import UsageError
from abupdate.web.context import WebContext, context_of
from abupdate.web.problem import page
from abupdate.web.sessions import LONGEST

_FIELD = 2000  # characters
_CODE = 40


def routes() -> list[BaseRoute]:
    """The pages around the login."""
    return [
        Route("/login", login_page, methods=["GET"]),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/setup", setup_page, methods=["GET"]),
        Route("/setup", setup, methods=["POST"]),
        Route("/password", password_page, methods=["GET"]),
        Route("/password", change_password, methods=["POST"]),
    ]


async def login_page(request: Request) -> Response:
    """The form, or where one wanted to go."""
    target = _inside(request.query_params.get("next", "/"))
    if request.state.session is not None:
        return RedirectResponse(target, 303)
    if not context_of(request).passwords.is_set():
        return RedirectResponse("/setup", 303)
    return _login_form(request, target)


def _login_form(
    request: Request, target: str, error: str | None = None, status: int = 200, wait: float = 0.0
) -> Response:
    known = context_of(request).passwords.is_set()
    seconds = math.ceil(wait) or None
    values = {"error": error, "next": target, "wait": seconds, "password_set": known}
    response = page(request, "login.html", values, status)
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)
    return response


async def login(request: Request) -> Response:
    """Compare the password; the session is a new one in any case."""
    context, fields = context_of(request), await _fields(request)
    target = _inside(fields.get("next", "/"))
    if wait := context.lockout.begin(_address(request)):
        return _login_form(request, target, _patience(wait), 429, wait)
    if not await context.passwords.check(fields.get("password", "")):
        return _login_form(request, target, "That is not the password.", 403)
    context.lockout.passed(_address(request))
    return _logged_in(request, context, target)


async def logout(request: Request) -> Response:
    """End the session, and forget the cookie."""
    context = context_of(request)
    context.sessions.end(request.cookies.get(context.cookie, ""))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(context.cookie, secure=context.secure, httponly=True, samesite="strict")
    return response


async def setup_page(request: Request) -> Response:
    """The form for the first password."""
    code = request.query_params.get("code", "")[:_CODE]  # as the installer's picture has it
    return page(request, "setup.html", {"error": None, "code": code})


async def setup(request: Request) -> Response:
    """Set a password with the one-time code; whoever was logged in is no longer."""
    context, fields = context_of(request), await _fields(request)
    code = fields.get("code", "")[:_CODE]
    if wait := context.lockout.begin(_address(request)):
        response = page(request, "setup.html", {"error": _patience(wait), "code": code}, 429)
        response.headers["Retry-After"] = str(math.ceil(wait))
        return response
    error = None
    if not context.passwords.check_code(code):
        error = "That is not the code. `abupdate web code` on the device prints one."
    else:
        context.lockout.passed(_address(request))
        error = await _set(context, fields)
    if error is not None:
        return page(request, "setup.html", {"error": error, "code": code}, 403)
    context.passwords.spend_code()
    return _logged_in(request, context, "/")


async def password_page(request: Request) -> Response:
    """The form for another password."""
    return page(request, "password.html", {"error": None, "done": False})


async def change_password(request: Request) -> Response:
    """Change it: all sessions end, and this browser gets a new one."""
    context, fields = context_of(request), await _fields(request)
    if wait := context.lockout.begin(_address(request)):
        return page(request, "password.html", {"error": _patience(wait), "done": False}, 429)
    error: str | None = "That is not the password until now."
    if await context.passwords.check(fields.get("old", "")):
        context.lockout.passed(_address(request))
        error = await _set(context, fields)
    if error is not None:
        return page(request, "password.html", {"error": error, "done": False}, 403)
    return _logged_in(request, context, "/")


async def _set(context: WebContext, fields: dict[str, str]) -> str | None:
    if fields.get("password", "") != fields.get("again", ""):
        return "The two passwords are not the same."
    try:
        await asyncio.to_thread(context.passwords.set, fields.get("password", ""))
    except UsageError as error:
        return error.message
    context.sessions.end_all()
    return None


def _logged_in(request: Request, context: WebContext, target: str) -> Response:
    number, _ = context.sessions.create(_address(request))
    response = RedirectResponse(target, 303)
    response.set_cookie(
        context.cookie, number, max_age=int(LONGEST), path="/", secure=context.secure,
        httponly=True, samesite="strict",
    )  # fmt: skip
    return response


async def _fields(request: Request) -> dict[str, str]:
    """A form's fields. Raises `HTTPException` (400)."""
    try:
        async with request.form(max_files=0, max_fields=20) as form:
            return {key: value[:_FIELD] for key, value in form.items() if isinstance(value, str)}
    except (ValueError, UnicodeError) as error:
        raise HTTPException(400, "That is not a form.") from error


def _inside(target: str) -> str:
    """A path of this page's; the start for anything else."""
    inside = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if inside and target.isprintable() and "\\" not in target else "/"


def _patience(wait: float) -> str:
    return f"Too many wrong attempts: wait {math.ceil(wait)} seconds."


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
