"""A bundle in zstd: smaller, since the compressor sees all objects of its pack at once.

In zstd's own terms the file is a frame that decompressors pass over, with the first bytes of
the bundle, and then the bundle, whose objects lie open. So `zstd -d` makes of it a bundle that
git takes, and a device knows who has signed it from its first kilobytes. There the objects are
deflated again on their way to the store. Format: RFC 8878, docs/release-format.md.

zstd and the script that deflates run as the user of the store, within its limits.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from abupdate.bundle import recode
from abupdate.errors import SourceError
from abupdate.run import Argument, Result, Sandbox, Stream, stream
from abupdate.store.readable import Readable

MAX_BEGINNING = 64 * 1024

MAGIC_SIZE = 4
_MAGIC = b"\x50\x2a\x4d\x18"
_OPENING = struct.Struct("<4sI")
_CHUNK = 64 * 1024
_OPEN, _DEFLATED = 0, 6
_LONG = 6 * 3600.0
# Twice that is what a device needs; larger windows win two in a hundred.
_WINDOW_BITS = 24
_MEMORY = 1 << (_WINDOW_BITS + 1)
_LEVEL = 19


def is_zstd(first: bytes) -> bool:
    """Whether a file that begins so is a bundle in zstd."""
    return first.startswith(_MAGIC)


def read_beginning(source: Readable) -> bytes:
    """The first bytes of the bundle itself. Raises `SourceError`."""
    raw = _exactly(source, _OPENING.size)
    _, size = _OPENING.unpack(raw)
    if size > MAX_BEGINNING:
        raise _damaged(f"its first frame has {size} bytes")
    return _exactly(source, size)


@contextmanager
def unpacked(source: Readable, sandbox: Sandbox | None, limit: int) -> Iterator[Readable]:
    """The bundle, from what is left of `source`; at most `limit` bytes lie open in between."""
    zstd = ["zstd", "--decompress", "--stdout", "--quiet", f"--memory={_MEMORY}"]
    with (
        stream(zstd, stdin=True, stdout=True, sandbox=sandbox) as opener,
        _recoding(opener.stdout, _DEFLATED, limit, sandbox) as deflater,
    ):
        opener.stdout.close()
        yield _Unpacked(source, opener, deflater)


def pack_up(bundle: IO[bytes], beginning: bytes, out: IO[bytes]) -> None:
    """Write a bundle in zstd; `beginning` are those of its bytes that tell who has signed it."""
    out.write(_OPENING.pack(_MAGIC, len(beginning)) + beginning)
    out.flush()
    argv: list[Argument] = ["zstd", "--compress", "--stdout", "--quiet", "--threads=0"]
    argv += [f"-{_LEVEL}", f"--long={_WINDOW_BITS}"]
    with (
        _recoding(bundle, _OPEN, 1 << 62, None) as opener,
        stream(argv, stdin=opener.stdout, stdout=out) as zstd,
    ):
        opener.stdout.close()
        zstd.finish(timeout=_LONG)
        opener.finish(timeout=_LONG)


@contextmanager
def _recoding(
    source: IO[bytes], level: int, limit: int, sandbox: Sandbox | None
) -> Iterator[Stream]:
    """Its text is handed over: that user may not be able to read where abupdate lies."""
    text = Path(recode.__file__).read_text(encoding="utf-8")
    argv = ["python3", "-I", "-S", "-c", text, str(level), str(limit)]
    with stream(argv, stdin=source, stdout=True, sandbox=sandbox) as script:
        yield script


class _Unpacked:
    """What comes out, while what is there is put in."""

    def __init__(self, source: Readable, opener: Stream, deflater: Stream) -> None:
        self._source = source
        self._opener = opener
        self._deflater = deflater
        self._input: int | None = opener.stdin.fileno()
        self._output = deflater.stdout.fileno()
        self._waiting = b""
        os.set_blocking(self._input, False)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes. Raises `SourceError`."""
        while True:
            inputs = [] if self._input is None else [self._input]
            ready, writable, _ = select.select([self._output], inputs, [])
            if ready:
                found = os.read(self._output, size)
                if not found:
                    self._finish()
                return found
            if writable:
                self._feed()

    def _feed(self) -> None:
        assert self._input is not None
        self._waiting = self._waiting or self._source.read(_CHUNK)
        try:
            written = os.write(self._input, self._waiting)
        except BrokenPipeError:
            self._waiting = b""  # its own words tell why
        else:
            self._waiting = self._waiting[written:]
            if written:
                return
        self._opener.stdin.close()
        self._input = None

    def _finish(self) -> None:
        """Raise `SourceError` unless both have ended well, and at the end of the source."""
        ended = [
            program.finish(ok=range(-64, 256), timeout=_LONG)
            for program in (self._opener, self._deflater)
        ]
        # Who is killed for writing to the other has nothing to tell.
        for one in sorted(ended, key=lambda one: one.code < 0):
            if one.code:
                raise _damaged(_said(one))
        if self._waiting or self._input is not None or self._source.read(1):
            raise _damaged("it goes on after its end")


def _said(ended: Result) -> str:
    return ended.stderr.strip()[-300:] or f"unpacking it ended with {ended.code}"


def _exactly(source: Readable, size: int) -> bytes:
    found = b""
    while len(found) < size:
        chunk = source.read(size - len(found))
        if not chunk:
            raise _damaged("it ends too early")
        found += chunk
    return found


def _damaged(what: str) -> SourceError:
    return SourceError(
        f"The bundle should be whole and sound zstd: {what}.", "Get the bundle again."
    )
