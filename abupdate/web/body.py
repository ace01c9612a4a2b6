"""A request's body: bounded in bytes and time, and looked into for a form's token."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Message, Receive

from abupdate.web.limits import BODY, Limits
from abupdate.web.problem import RefusalError

_FIRST_PART = 8 << 10  # bytes in which a form's first field must be


class Body:
    """Gives a body on, and refuses it (408, 413) when it is too slow or too long."""

    def __init__(self, receive: Receive, limits: Limits, most: int, upload: bool) -> None:
        self._receive, self._limits, self._most, self._upload = receive, limits, most, upload
        self._held: list[Message] = []
        self._came = self._in_window = 0
        self._waited = self._window_waited = 0.0
        self.complete = False

    def check_length(self, told: bytes) -> None:
        """Raise `RefusalError` (400, 413) for a length that cannot be."""
        if not re.fullmatch(rb"[0-9]{1,19}", told):
            raise RefusalError(400, "Content-Length should be a number.", headers=CLOSE)
        if int(told) > self._most:
            raise RefusalError(
                413, f"A body of at most {self._most} bytes was expected, not {int(told)}.",
                headers=CLOSE,
            )  # fmt: skip

    async def receive(self) -> Message:
        """The next message of ASGI's."""
        return self._held.pop(0) if self._held else await self._next()

    async def _next(self) -> Message:
        if self.complete:
            return await self._receive()  # that the client has left
        limits, start = self._limits, time.monotonic()
        patience = limits.silence
        if not self._upload:
            patience = min(patience, max(0.0, limits.body - self._waited))
        try:
            async with asyncio.timeout(patience):
                message = await self._receive()
        except TimeoutError as error:
            raise RefusalError(
                408, "The rest of the request did not come in time.", headers=CLOSE
            ) from error
        if message["type"] == "http.request":
            self._count(message, time.monotonic() - start)
        return message

    def _count(self, message: MutableMapping[str, Any], seconds: float) -> None:
        limits, size = self._limits, len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        self._came += size
        self._waited += seconds
        if self._came > self._most:
            raise RefusalError(
                413, f"A body of at most {self._most} bytes was expected, it has more.",
                headers=CLOSE,
            )  # fmt: skip
        self._in_window += size
        self._window_waited += seconds
        if self._window_waited >= limits.window:
            if self._in_window < limits.window_bytes and not self.complete:
                raise RefusalError(408, "The request came too slowly.", headers=CLOSE)
            self._in_window, self._window_waited = 0, 0.0

    async def form_token(self, content_type: str) -> str | None:
        """The field `csrf` of a form: of a multipart one the first field. The body stays whole."""
        kind = content_type.split(";", 1)[0].strip().lower()
        if kind == "application/x-www-form-urlencoded":
            data = await self._look(min(self._most, BODY), None)  # an upload is no such form
            try:
                found = parse_qs(data.decode("ascii"), max_num_fields=100).get("csrf", [])
            except ValueError:
                return None
            return found[0] if len(found) == 1 else None
        if kind == "multipart/form-data":
            boundary = re.search(r'boundary="?([0-9A-Za-z\'()+_,./:=?-]{1,70})"?', content_type)
            if boundary is None:
                return None
            end = b"\r\n--" + boundary[1].encode()
            data = b"\r\n" + await self._look(_FIRST_PART, end)
            field = re.match(
                re.escape(end) + rb"\r\n(?i:content-disposition): form-data; "
                rb'name="csrf"\r\n\r\n([A-Za-z0-9_-]{1,100})' + re.escape(end),
                data,
            )
            return field[1].decode() if field else None
        return None

    async def _look(self, most: int, until: bytes | None) -> bytes:
        data = b""
        while not self.complete and len(data) < most and (until is None or until not in data):
            message = await self._next()
            if message["type"] != "http.request":
                break
            self._held.append(message)
            data += message.get("body", b"")
        return data

    async def drain(self, most: int = 1 << 20) -> None:
        """Read on for a moment: who still sends can then read the answer."""
        end, came = time.monotonic() + self._limits.drain, 0
        while not self.complete and came < most and (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    message = await self._receive()
            except TimeoutError:
                return
            if message["type"] != "http.request":
                return
            came += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)


CLOSE = {"Connection": "close"}
