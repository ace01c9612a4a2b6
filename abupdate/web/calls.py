"""What a call of the API is: one entry is both its route and its page in the document."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from abupdate.engine.contract import EngineError
from abupdate.errors import ExitCode
from abupdate.web.problem import RefusalError

PREFIX = "/api/v1"
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Parameter:
    """A query parameter or header of a call."""

    name: str
    schema: dict[str, Any]
    text: str
    place: str = "query"


@dataclass(frozen=True)
class Call:
    """A call: `path` is below /api/v1. `takes` and `gives` are types that pydantic knows.

    `media`: what it gives, and `raw`: what it takes, where that is not JSON.
    """

    method: str
    path: str
    handler: Handler
    text: str
    gives: Any = None
    takes: Any = None
    status: int = 200
    media: str = "application/json"
    raw: str | None = None
    refusals: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    tag: str = "device"
    headers: dict[str, str] = field(default_factory=dict)


def exact(call: Call) -> Handler:
    """The call's handler, for which a parameter that it does not know is a mistake (400)."""
    known = [one.name for one in call.parameters if one.place == "query"]

    async def handler(request: Request) -> Response:
        for name in request.query_params:
            if name not in known:
                raise RefusalError(
                    400, f"The parameter {name[:40]!r} is not known to this call.",
                    f"It takes {', '.join(known)}." if known else "It takes none.",
                )  # fmt: skip
        return await call.handler(request)

    return handler


async def taken(request: Request, model: Any) -> Any:
    """The body as `model`. Raises `RefusalError` (400, 415, 422)."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "application/json":
        raise RefusalError(415, f"application/json was expected, found {kind[:60] or 'no type'}.")
    body = await request.body()
    try:
        found = TypeAdapter(model).validate_json(body, strict=True)
    except ValidationError as error:
        errors = [
            {"field": ".".join(str(part) for part in one["loc"]), "fault": one["msg"]}
            for one in error.errors(include_input=False, include_url=False, include_context=False)
        ][:20]
        if any(one["type"] == "json_invalid" for one in error.errors(include_input=False)):
            raise RefusalError(400, "The body is not JSON.", errors=errors) from error
        told = "; ".join(f"{one['field'] or 'body'}: {one['fault']}" for one in errors[:3])
        raise RefusalError(
            422, f"The body is not what is taken here: {told}.", errors=errors
        ) from error
    json.loads(body, object_pairs_hook=_once)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What one reader takes the first of, and another the last, is taken of nobody."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RefusalError(400, "A field is there twice.")
    return found


def as_json(content: Any) -> bytes:
    """JSON that each reader of JSON takes: what is no number is null."""
    return to_json(content, inf_nan_mode="null")


def given(content: Any, status: int = 200, **headers: str) -> Response:
    """An answer in JSON; of `headers`, `_` is `-`."""
    more = {key.replace("_", "-"): text for key, text in headers.items()}
    return Response(as_json(content), status, more, media_type="application/json")


def number(request: Request, name: str, default: int, most: int) -> int:
    """A query parameter from 1 to `most`. Raises `RefusalError` (400)."""
    told = request.query_params.get(name)
    if told is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", told, re.ASCII) or not 1 <= int(told) <= most:
        raise RefusalError(400, f"{name} should be a number from 1 to {most}.")
    return int(told)


def named(request: Request, pattern: str) -> str:
    """The `id` of the path. Raises `RefusalError` (404) for one that can be nobody's."""
    told: str = request.path_params["id"]
    if not re.fullmatch(pattern, told, re.ASCII):
        raise RefusalError(404, "There is nothing of that name.")
    return told


def not_found(error: EngineError) -> RefusalError:
    """The refusal for a name that the engine does not know."""
    refusal = RefusalError.of_engine(error)
    if error.code == ExitCode.NOTHING_TO_DO:
        refusal.status = 404
    return refusal
