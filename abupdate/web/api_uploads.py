"""The API's uploads: begun with a size, sent from an offset on, gone on with after a cut."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abupdate.web.calls import PREFIX, Call, Parameter, named, taken
from abupdate.web.context import context_of
from abupdate.web.problem import RefusalError
from abupdate.web.rawbody import take
from abupdate.web.uploads import Upload

_ID = r"[a-z0-9]{16,40}"
_DIGEST = r"^[0-9a-f]{64}$"
# What can steer no display, nor turn its writing round.
NAME = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"


class NewUpload(BaseModel):
    """What shall be uploaded. `sha256`: refuse anything else. `name`: for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int = Field(ge=1, le=1 << 50, description="Bytes.")
    sha256: Annotated[str, Field(pattern=_DIGEST)] | None = None
    name: str = Field(default="", max_length=200, pattern=NAME)


class UploadView(BaseModel):
    """An upload: `offset` of `size` bytes are here; `complete`: a job can be given its `id`.

    `sha256`: what was announced; without that, nothing is hashed.
    """

    id: str
    name: str
    size: int
    offset: int
    created: float
    sha256: str | None
    complete: bool


def view(upload: Upload) -> dict[str, Any]:
    """What is told of an upload."""
    return UploadView(**asdict(upload)).model_dump()


def _answer(upload: Upload, status: int = 200) -> Response:
    return JSONResponse(
        view(upload),
        status,
        {
            "Upload-Offset": str(upload.offset),
            "Upload-Length": str(upload.size),
            "Location": f"{PREFIX}/uploads/{upload.id}",
        },
    )


async def create(request: Request) -> Response:
    """Begin one."""
    wish: NewUpload = await taken(request, NewUpload)
    return _answer(context_of(request).uploads.create(wish.size, wish.sha256, wish.name), 201)


async def every(request: Request) -> Response:
    """All that there are."""
    return JSONResponse([view(one) for one in context_of(request).uploads.all()])


async def get(request: Request) -> Response:
    """One of them."""
    return _answer(context_of(request).uploads.get(named(request, _ID)))


async def drop(request: Request) -> Response:
    """End or remove one."""
    context_of(request).uploads.drop(named(request, _ID))
    return Response(status_code=204)


async def put(request: Request) -> Response:
    """Bytes from an offset on."""
    uploads = context_of(request).uploads
    upload = uploads.get(named(request, _ID))
    length = _length(request)
    offset = _offset(request, upload, length)
    if offset + length > upload.size:
        raise RefusalError(
            413, f"{upload.size} bytes were announced, these are {offset + length}.",
            upload=upload.id,
        )  # fmt: skip
    take(request.scope)
    return _answer(await uploads.write(upload.id, offset, request.stream()))


async def bundle(request: Request) -> Response:
    """A whole file at once, as `curl -T` sends it."""
    context, length = context_of(request), _length(request)
    digest, name = request.query_params.get("sha256"), request.query_params.get("name", "")
    if digest is not None and not re.fullmatch(_DIGEST, digest, re.ASCII):
        raise RefusalError(400, "sha256 should be 64 hexadecimal digits in small letters.")
    if not re.fullmatch(NAME, name) or len(name) > 200:
        raise RefusalError(400, "name should be up to 200 characters that can be shown.")
    if length < 1:
        raise RefusalError(400, "A bundle was expected, nothing came.")
    upload = context.uploads.create(length, digest, name)
    take(request.scope)
    try:
        await context.uploads.write(upload.id, 0, request.stream())
        if not upload.complete:
            raise RefusalError(400, f"{length} bytes were announced, {upload.offset} came.")
    except BaseException:
        if any(one.id == upload.id for one in context.uploads.all()):
            context.uploads.drop(upload.id)
        raise
    return _answer(upload, 201)


def _length(request: Request) -> int:
    told = request.headers.get("content-length")
    if told is None:
        raise RefusalError(
            411, "The size must be known before the first byte (Content-Length).",
            "Send a file, not a pipe.",
        )  # fmt: skip
    return int(told)


def _offset(request: Request, upload: Upload, length: int) -> int:
    """Where the bytes begin: Upload-Offset, or Content-Range, or at 0."""
    told, header = request.headers.get("upload-offset"), request.headers.get("content-range")
    if told is not None:
        if header is not None or not re.fullmatch(r"[0-9]{1,16}", told, re.ASCII):
            raise RefusalError(400, "Upload-Offset should be a number, and the only one.")
        return int(told)
    if header is None:
        return 0
    found = re.fullmatch(r"bytes ([0-9]{1,16})-([0-9]{1,16})/([0-9]{1,16})", header, re.ASCII)
    if found is None:
        raise RefusalError(400, "Content-Range should be 'bytes FIRST-LAST/SIZE'.")
    first, last, size = (int(part) for part in found.groups())
    if size != upload.size or last - first + 1 != length:
        raise RefusalError(
            400, f"'{header}' does not fit to {length} bytes of an upload of {upload.size}."
        )
    return first


def calls() -> list[Call]:
    """All of them."""
    offset = Parameter(
        "Upload-Offset", {"type": "integer", "minimum": 0, "maximum": 1 << 50},
        "Where these bytes begin.", "header",
    )  # fmt: skip
    digest = Parameter("sha256", {"type": "string", "pattern": _DIGEST}, "Refuse anything else.")
    name = Parameter("name", {"type": "string", "maxLength": 200, "pattern": NAME}, "For people.")
    told = {"Upload-Offset": "Bytes that are here.", "Upload-Length": "Bytes of the whole."}
    raw = "application/octet-stream"
    return [
        Call("GET", "/uploads", every, "The uploads, newest first", list[UploadView],
             tag="uploads"),
        Call("POST", "/uploads", create, "Begin an upload", UploadView, NewUpload, 201,
             tag="uploads", refusals=(400, 409, 413, 415, 422, 507),
             headers={**told, "Location": "The upload."}),
        Call("GET", "/uploads/{id}", get, "An upload, and how much of it is here (HEAD too)",
             UploadView, tag="uploads", refusals=(404,), headers=told),
        Call("PUT", "/uploads/{id}", put,
             "Bytes from an offset on; the last one makes it whole (Content-Range will do too)",
             UploadView, raw=raw, tag="uploads", parameters=(offset,), headers=told,
             refusals=(400, 404, 408, 409, 411, 413, 422, 507)),
        Call("DELETE", "/uploads/{id}", drop, "End an upload, or remove it", status=204,
             tag="uploads", refusals=(404,)),
        Call("PUT", "/bundle", bundle, "A whole bundle at once (curl -T)", UploadView, raw=raw,
             status=201, tag="uploads", parameters=(digest, name), headers=told,
             refusals=(400, 408, 409, 411, 413, 422, 507)),
    ]  # fmt: skip
