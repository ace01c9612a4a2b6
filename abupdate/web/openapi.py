"""The OpenAPI 3.1 document: made of the calls and of the models that they take and give."""

from __future__ import annotations

import http
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from abupdate import __version__
from abupdate.web.calls import PREFIX, Call
from abupdate.web.problem import Problem

_REFS = "#/components/schemas/{model}"
_IDS = {
    "jobs": r"^[0-9a-z-]{7,60}$",
    "uploads": r"^[a-z0-9]{16,40}$",
}
# What the gate in front of all calls may answer (guard.py).
_ALWAYS = (400, 401, 403, 414, 421, 431)


def document(calls: Sequence[Call]) -> dict[str, Any]:
    """The document for these calls."""
    types: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        (("problem", "gives"), "serialization", TypeAdapter(Problem))
    ]
    for call in calls:
        if call.takes is not None:
            types.append(((_name(call), "takes"), "validation", TypeAdapter(call.takes)))
        if call.gives is not None:
            types.append(((_name(call), "gives"), "serialization", TypeAdapter(call.gives)))
    schemas, shared = TypeAdapter.json_schemas(types, ref_template=_REFS)
    found = {key: schema for (key, _mode), schema in schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        operation = _operation(call, found)
        paths.setdefault(f"{PREFIX}{call.path}", {})[call.method.lower()] = operation
        if call.method == "GET" and call.path == "/uploads/{id}":
            head = {**operation, "operationId": "head_uploads_id", "responses": {
                code: {key: value for key, value in told.items() if key != "content"}
                for code, told in operation["responses"].items()
            }}  # fmt: skip
            paths[f"{PREFIX}{call.path}"]["head"] = head
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "abupdate",
            "version": __version__,
            "description": "What this device runs, and how it is updated.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": shared.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _name(call: Call) -> str:
    words = call.path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    return f"{call.method.lower()}_{words.replace('.', '_')}"


def _operation(call: Call, schemas: dict[Any, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": http.HTTPStatus(call.status).phrase}
    if call.gives is not None:
        good["content"] = {call.media: {"schema": schemas[(_name(call), "gives")]}}
    elif call.media == "text/event-stream":
        good["content"] = {call.media: {}}  # 3.1 has no word for many events in one answer
    elif call.status != 204:
        good["content"] = {call.media: {"schema": {"type": "string", "format": "binary"}}}
    if call.headers:
        good["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in call.headers.items()
        }
    problem = {"application/problem+json": {"schema": schemas[("problem", "gives")]}}
    responses = {str(call.status): good}
    for status in sorted({*_ALWAYS, *call.refusals}):
        phrase = http.HTTPStatus(status).phrase
        responses[str(status)] = {"description": phrase, "content": problem}
    operation: dict[str, Any] = {
        "operationId": _name(call),
        "summary": call.text,
        "tags": [call.tag],
        "responses": responses,
    }
    parameters = [
        {"name": one.name, "in": one.place, "required": False, "description": one.text,
         "schema": one.schema}
        for one in call.parameters
    ]  # fmt: skip
    if "{id}" in call.path:
        pattern = _IDS[call.path.split("/")[1]]
        parameters.insert(0, {"name": "id", "in": "path", "required": True,
                              "schema": {"type": "string", "pattern": pattern}})  # fmt: skip
    if parameters:
        operation["parameters"] = parameters
    if call.takes is not None:
        content = {"application/json": {"schema": schemas[(_name(call), "takes")]}}
        operation["requestBody"] = {"required": call.path != "/reboot", "content": content}
    elif call.raw is not None:
        body = {call.raw: {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": body}
    return operation
