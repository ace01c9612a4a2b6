"""A form with one file, taken as it comes: for browsers without JavaScript.

Fields first, the file last, as this page's form has them (RFC 7578). Its size follows from
Content-Length, so that space is looked at before anything is received, and nothing is held in
memory but the fields.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

_MOST = 64 << 10  # bytes before the file
_NAME = re.compile(r"[^\w.+~ -]")


class MultipartError(Exception):
    """The form is not as this page sends it."""


@dataclass
class OneFile:
    """The fields, and the file: its `name` as the client calls it, and `size` in bytes."""

    fields: dict[str, str]
    name: str
    size: int
    body: AsyncIterator[bytes]


async def one_file(content_type: str, length: int, stream: AsyncIterator[bytes]) -> OneFile:
    """Read up to the file. Its `body` raises `MultipartError` where the form ends elsewhere."""
    boundary = _boundary(content_type)
    mark, end = b"--" + boundary, b"\r\n--" + boundary + b"--\r\n"
    held, used = b"", 0
    fields: dict[str, str] = {}
    async for piece in stream:
        held += piece
        while (part := _part(held, mark)) is not None:
            headers, after = part
            name, file = _named(headers)
            if file is not None:
                size = length - used - after - len(end)
                if size < 0:
                    raise MultipartError("The form is shorter than it says.")
                return OneFile(fields, file, size, _body(held[after:], stream, size, end))
            stop = held.find(b"\r\n" + mark, after)
            if stop < 0:
                break
            fields[name] = held[after:stop].decode("utf-8", "replace")
            used, held = used + stop + 2, held[stop + 2 :]
        if used + len(held) > _MOST and part is None:
            raise MultipartError("A file is expected in the first 64 KiB of the form.")
    raise MultipartError("No file was chosen.")


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise MultipartError("A form with a file is expected (multipart/form-data).")
    if not 1 <= len(boundary) <= 70:
        raise MultipartError("The form's boundary is not one.")
    return boundary.encode("ascii", "replace")


def _part(held: bytes, mark: bytes) -> tuple[Message, int] | None:
    """The headers of the part that begins here, and where its content does."""
    if len(held) > len(mark) and not held.startswith(mark):
        raise MultipartError("The form does not begin with its boundary.")
    stop = held.find(b"\r\n\r\n")
    if stop < 0:
        return None
    text = held[len(mark) + 2 : stop].decode("utf-8", "replace")
    return HeaderParser().parsestr(text), stop + 4


def _named(headers: Message) -> tuple[str, str | None]:
    name = headers.get_param("name", header="content-disposition")
    file = headers.get_param("filename", header="content-disposition")
    if not isinstance(name, str):
        raise MultipartError("A field without a name.")
    shown = _NAME.sub("_", file)[-100:] if isinstance(file, str) else None
    return name, shown


async def _body(
    first: bytes, stream: AsyncIterator[bytes], size: int, end: bytes
) -> AsyncIterator[bytes]:
    """Exactly `size` bytes; the last is given out when the form was seen to end behind it."""
    held, left = first, size
    async for piece in stream:
        if left > len(held):
            left -= len(held)
            yield held
            held = piece
        else:
            held += piece
        if len(held) > left + len(end):
            break
    if held[left:] != end:
        raise MultipartError("The file is cut off, or something follows it.")
    if left:
        yield held[:left]
