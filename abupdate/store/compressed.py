"""A stream that may be compressed, read to its end and checked there.

Not `tarfile`'s own way: that stops at the end of the tar and never compares a
gzip file's checksum, so that a damaged one is taken as it comes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from typing import IO, cast

from abupdate.errors import SourceError

# Told apart so that a person knows what to do.
_NOT_READ = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip"}
_LONGEST = 6


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """What a stream holds, decompressed. Raises `SourceError` for a kind that is not read."""
    head = b""
    while len(head) < _LONGEST and (more := stream.read(_LONGEST - len(head))):
        head += more
    whole = cast(IO[bytes], io.BufferedReader(_Joined(head, stream), 1 << 20))
    for magic, name in _NOT_READ.items():
        if head.startswith(magic):
            raise SourceError(
                f"The tar is compressed with {name}, which is not read; gzip, bzip2 and xz are.",
                f"{name} -dc FILE | abupdate publish commit - …",
            )
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=whole))
    if head.startswith(b"BZh"):
        return cast(IO[bytes], bz2.BZ2File(whole))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast(IO[bytes], lzma.LZMAFile(whole))
    return whole


class _Joined(io.RawIOBase):
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """The beginning first."""
        chunk = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(chunk) :] if self._head else b""
        buffer[: len(chunk)] = chunk
        return len(chunk)
