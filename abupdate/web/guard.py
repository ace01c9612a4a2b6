"""The one gate in front of all pages and calls. In this order, before anything else runs:

1. the request is well-formed, and for a name of this device (head.py);
2. who is it: a session's cookie, or a bearer token; without one, only what one needs to log in;
3. may they: read-only tokens and a read-only page change nothing; with a cookie, what changes
   something comes from this page (Origin) and has its token (CSRF);
4. its body is bounded in bytes and time (body.py).

Each answer gets the headers that keep a browser from being used against its owner, and each
attempt to change something is written down.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abupdate.web.auth import Who
from abupdate.web.body import CLOSE, Body
from abupdate.web.context import WebContext
from abupdate.web.head import SAFE, Headers, check_host, check_origin, check_shape, headers_of
from abupdate.web.headers import HEADERS
from abupdate.web.limits import BODY, FORM
from abupdate.web.problem import RefusalError, answer

_PUBLIC = {"/login", "/setup"}
_OWN = _PUBLIC | {"/logout", "/password"}  # they change the page's own state alone
_LOG = logging.getLogger("abupdate.web")


@dataclass
class _Answer:
    status: int = 0


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, context: WebContext) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = _Answer()
        headers = headers_of(scope)
        state = scope.setdefault("state", {})
        state["session"], state["who"] = None, Who("nobody", read_only=True)
        state["read_only"] = self._context.settings.read_only
        body = self._body(scope, receive)
        try:
            sender = self._sender(scope, send, told)
            response: Response | None
            try:
                response = await self._enter(scope, headers, body)
                if response is None:
                    await self._app(scope, body.receive, sender)
            except RefusalError as refusal:
                response = self._refused(scope, refusal, told)
            except ClientDisconnect:
                return
            except Exception:
                _LOG.exception("A request failed")
                fault = RefusalError(500, "This is a bug in abupdate.", "The log has more of it.")
                response = self._refused(scope, fault, told)
            if response is not None:
                await _send_all(response, scope, body, sender)
        finally:
            if scope["method"] not in SAFE:
                self._context.audit.note(
                    state["who"].name, _address(scope), f"{scope['method']} {scope['path']}",
                    told.status,
                )  # fmt: skip

    def _refused(self, scope: Scope, refusal: RefusalError, told: _Answer) -> Response | None:
        if told.status:
            return None  # the answer has begun: all that is left is to end it
        return answer(Request(scope), refusal)

    def _body(self, scope: Scope, receive: Receive) -> Body:
        path, most, upload = scope["path"], BODY, False
        if path.startswith("/api/v1/uploads/") or path in ("/api/v1/bundle", "/update/upload"):
            most, upload = self._context.settings.max_upload + FORM, True
        return Body(receive, self._context.limits, most, upload)

    async def _enter(self, scope: Scope, headers: Headers, body: Body) -> Response | None:
        """Let it in (None), or send it to the login. Raises `RefusalError`."""
        check_shape(scope, headers)
        host = check_host(headers, self._context.settings.hosts)
        body.check_length(headers.get(b"content-length", [b"0"])[0])
        path, method, state = scope["path"], scope["method"], scope["state"]
        api = path.startswith("/api/")
        who = self._who(scope, headers)
        public = path in _PUBLIC or (path.startswith("/static/") and method in SAFE)
        if who is None and not public:
            return self._to_login(scope, api)
        state["who"] = who or state["who"]
        if who is not None:
            state["read_only"] = state["read_only"] or who.read_only
        if method in SAFE:
            if api:
                check_origin(headers, host, scope["scheme"], must_be_told=False)
            return None
        session = state["session"]
        check_origin(headers, host, scope["scheme"], must_be_told=session is not None)
        if session is not None:
            sent = headers.get(b"x-csrf-token", [b""])[0].decode("latin-1")
            kind = headers.get(b"content-type", [b""])[0].decode("latin-1")
            token = sent or await body.form_token(kind) or ""
            if not hmac.compare_digest(token.encode(), session.csrf.encode()):
                raise RefusalError(
                    403, "This form is not one that this session was given.",
                    "Load the page again.",
                )  # fmt: skip
        if state["read_only"] and path not in _OWN:
            raise RefusalError(
                403, "This is read-only.", "A full token, or [web] read_only = false."
            )
        return None

    def _who(self, scope: Scope, headers: Headers) -> Who | None:
        told = headers.get(b"authorization", [b""])[0]
        if told:
            who = self._context.tokens.of_header(told.decode("latin-1"))
            if who is None:
                raise RefusalError(
                    401, "That token is not known here.", "`abupdate web token add NAME`",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            return who
        cookies = "; ".join(value.decode("latin-1") for value in headers.get(b"cookie", ()))
        name = self._context.cookie
        if cookies.count(f"{name}=") != 1:
            return None  # none, or more than one: somebody meddles
        session = self._context.sessions.find(cookie_parser(cookies).get(name))
        scope["state"]["session"] = session
        return Who("owner") if session is not None else None

    def _to_login(self, scope: Scope, api: bool) -> Response | None:
        if api or scope["method"] not in SAFE:
            raise RefusalError(
                401, "Log in first, or send a token.", "Scripts: `abupdate web token add NAME`.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if not self._context.passwords.is_set():
            return RedirectResponse("/setup", 303)
        path = quote(scope["path"], safe="/")
        return RedirectResponse("/login" if path == "/" else f"/login?next={path}", 303)

    def _sender(self, scope: Scope, send: Send, told: _Answer) -> Send:
        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not (scope["path"].startswith("/static/") and told.status < 400):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        return sender


async def _send_all(response: Response, scope: Scope, body: Body, send: Send) -> None:
    """Send a refusal; if a body still comes, read a little of it, and then hang up."""
    held: list[Message] = []

    async def collect(message: Message) -> None:
        held.append(message)

    if not body.complete and scope["method"] not in SAFE:
        response.headers.update(CLOSE)
    await response(scope, body.receive, collect)
    for message in held[:-1]:
        await send(message)
    if body.complete or scope["method"] in SAFE:
        await send(held[-1])
        return
    await send({**held[-1], "more_body": True})
    await body.drain()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
