"""Bytes that come from somewhere, to be read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

CHUNK = 256 * 1024


class Readable(Protocol):
    """A source of bytes that need not be seekable; `b""` is its end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        ...


def chunks(source: Readable) -> Iterator[bytes]:
    """All of a source, piece by piece."""
    while chunk := source.read(CHUNK):
        yield chunk
