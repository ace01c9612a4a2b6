"""Refusals: problem+json (RFC 9457) for scripts, the error page for people."""

from __future__ import annotations

import http
import importlib
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from abupdate.engine.contract import EngineError
from abupdate.errors import ExitCode

# What the engine's refusals are over HTTP.
STATUS_OF = {
    ExitCode.USAGE: 400,
    ExitCode.NOTHING_TO_DO: 409,
    ExitCode.BUSY: 409,
    ExitCode.NOT_TRUSTED: 422,
    ExitCode.REFUSED: 409,
    ExitCode.NO_SPACE: 507,
    ExitCode.SOURCE: 422,
    ExitCode.CONTENT_DIFFERS: 422,
    ExitCode.DEVICE_FAULT: 503,
}


class Problem(BaseModel):
    """Why something was refused, and what to do. `code`: the exit code's name, if it has one."""

    type: str = Field(description="about:blank, or urn:abupdate:problem:CODE.")
    title: str
    status: int
    detail: str
    hint: str | None = None
    code: str | None = None
    upload: str | None = Field(default=None, description="The upload that is in the way.")
    errors: list[dict[str, Any]] | None = Field(
        default=None, description="Fields, and their fault."
    )


class RefusalError(Exception):
    """Something is refused, with a status of HTTP's, in words for a person."""

    def __init__(
        self,
        status: int,
        detail: str,
        hint: str | None = None,
        *,
        code: ExitCode | None = None,
        upload: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint
        self.code, self.upload, self.errors = code, upload, errors
        self.headers = headers or {}

    @classmethod
    def of_engine(cls, error: EngineError) -> RefusalError:
        """What the engine refused."""
        status = STATUS_OF.get(error.code, 500)
        return cls(status, error.message, error.hint, code=error.code)


def answer(request: Request, refusal: RefusalError) -> Response:
    """The refusal as who asked can read it."""
    title = http.HTTPStatus(refusal.status).phrase
    if str(request.scope["path"]).startswith("/api/"):
        name = refusal.code.name.lower().replace("_", "-") if refusal.code is not None else None
        problem = Problem(
            type=f"urn:abupdate:problem:{name}" if name else "about:blank",
            title=title,
            status=refusal.status,
            detail=refusal.detail,
            hint=refusal.hint,
            code=name,
            upload=refusal.upload,
            errors=refusal.errors,
        )
        return JSONResponse(
            problem.model_dump(exclude_none=True),
            refusal.status,
            refusal.headers,
            media_type="application/problem+json",
        )
    values = {"status": refusal.status, "title": title, "detail": refusal.detail,
              "hint": refusal.hint}  # fmt: skip
    response = page(request, "error.html", values, refusal.status)
    response.headers.update(refusal.headers)
    return response


def page(request: Request, name: str, values: dict[str, Any], status: int = 200) -> Response:
    """One of the pages' templates; without them, its values as text."""
    try:
        render = importlib.import_module("abupdate.web.pages").render
    except (ModuleNotFoundError, AttributeError):
        lines = [f"{key}: {value}" for key, value in values.items() if value is not None]
        return PlainTextResponse("\n".join([name, *lines, ""]), status)
    response = render(request, name, values, status_code=status)
    assert isinstance(response, Response)
    return response
