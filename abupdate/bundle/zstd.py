"""A bundle in zstd: smaller, since the compressor sees all objects of its pack at once.

In zstd's own terms the file is a frame that decompressors pass over, with the first bytes of
the bundle, and then the bundle, whose objects lie open. So `zstd -d` makes of it a bundle that
git takes, and a device knows who has signed it from its first kilobytes. There the objects are
deflated again on their way to the store. Format: RFC 8878, docs/release-format.md.

zstd and the script that deflates run as the user of the store, within its limits. Other
formats that the program knows are not taken; what it needs for them is bounded, too.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from abupdate.bundle import recode
from abupdate.bundle.header import CountedSource
from abupdate.errors import (
    OUT_OF_MEMORY_HINT,
    DeviceFaultError,
    NoSpaceError,
    ProgramError,
    SourceError,
)
from abupdate.run import Argument, Sandbox, Stream, require_programs, stream
from abupdate.store.readable import Readable

MAX_BEGINNING = 64 * 1024

MAGIC_SIZE = 4
_MAGIC, _FRAME = b"\x50\x2a\x4d\x18", b"\x28\xb5\x2f\xfd"
_OPENING = struct.Struct("<4sI")
_CHUNK = 64 * 1024
_OPEN, _DEFLATED = 0, 6
_LONG = 6 * 3600.0
# Twice that is what a device needs; larger windows win two in a hundred.
_WINDOW_BITS = 24
_MEMORY = 1 << (_WINDOW_BITS + 1)
_LEVEL = 19
_PROGRAMS = ("zstd", "python3")
# The program takes xz and others as well, whatever memory it is told.
_ADDRESSES = 200_000_000


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
def unpacked(source: CountedSource, sandbox: Sandbox | None, limit: int) -> Iterator[Readable]:
    """The bundle, from what is left of `source`; at most `limit` bytes lie open in between.

    Raises `SourceError`, and `NoSpaceError` for more than that, also where it is read.
    """
    require_programs(_PROGRAMS)
    if source.peek(MAGIC_SIZE) != _FRAME:
        raise _damaged("its second frame is none of zstd")
    if sandbox is not None:
        sandbox = replace(sandbox, memory=min(sandbox.memory, _ADDRESSES))
    zstd = ["zstd", "--decompress", "--stdout", "--quiet", f"--memory={_MEMORY}"]
    with (
        stream(zstd, stdin=True, stdout=True, sandbox=sandbox) as opener,
        _recoding(opener.stdout, _DEFLATED, limit, sandbox) as deflater,
        selectors.DefaultSelector() as ready,
    ):
        opener.stdout.close()
        yield _Unpacked(source, opener, deflater, ready, limit)


def pack_up(bundle: IO[bytes], beginning: bytes, out: IO[bytes]) -> None:
    """Write a bundle in zstd; `beginning` are those of its bytes that tell who has signed it."""
    require_programs(_PROGRAMS)
    out.write(_OPENING.pack(_MAGIC, len(beginning)) + beginning)
    out.flush()
    argv: list[Argument] = ["zstd", "--compress", "--stdout", "--quiet", "--threads=0"]
    argv += [f"-{_LEVEL}", f"--long={_WINDOW_BITS}"]
    with (
        _recoding(bundle, _OPEN, 1 << 62, None) as opener,
        stream(argv, stdin=opener.stdout, stdout=out) as zstd,
    ):
        opener.stdout.close()
        try:
            zstd.finish(timeout=_LONG)
        except ProgramError as error:
            if os.strerror(errno.ENOSPC) in error.stderr:
                raise NoSpaceError(
                    "The disk that the bundle is written to is full.", "Free space on that disk."
                ) from error
            raise
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

    def __init__(
        self,
        source: Readable,
        opener: Stream,
        deflater: Stream,
        ready: selectors.BaseSelector,
        limit: int,
    ) -> None:
        self._source = source
        self._opener = opener
        self._deflater = deflater
        self._limit = limit
        self._waiting = b""
        os.set_blocking(opener.stdin.fileno(), False)
        self._ready = ready
        self._ready.register(opener.stdin, selectors.EVENT_WRITE)
        self._ready.register(deflater.stdout, selectors.EVENT_READ)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes. Raises `SourceError`."""
        while True:
            ready = [key.fileobj for key, _ in self._ready.select()]
            if self._deflater.stdout in ready:
                found = os.read(self._deflater.stdout.fileno(), size)
                if not found:
                    self._finish()
                return found
            self._feed()

    def _feed(self) -> None:
        self._waiting = self._waiting or self._source.read(_CHUNK)
        try:
            written = os.write(self._opener.stdin.fileno(), self._waiting)
        except BrokenPipeError:
            self._waiting = b""  # its own words tell why
        else:
            self._waiting = self._waiting[written:]
            if written:
                return
        self._ready.unregister(self._opener.stdin)
        self._opener.stdin.close()

    def _finish(self) -> None:
        """Raise unless both have ended well, and at the end of the source."""
        ended = [
            program.finish(ok=range(-64, 256), timeout=_LONG)
            for program in (self._opener, self._deflater)
        ]
        opened, deflated = ended
        killed = any(one.code < 0 and one.code != -signal.SIGPIPE for one in ended)
        short = "not enough memory" in opened.stderr.lower() or "I/O thread" in opened.stderr
        if killed or short or deflated.code == recode.NO_MEMORY:
            raise DeviceFaultError(
                "Unpacking the bundle was ended, or there is not enough memory for it.",
                OUT_OF_MEMORY_HINT,
            )
        if deflated.code == recode.TOO_LARGE:
            raise NoSpaceError(
                f"The bundle unpacks to more than {self._limit >> 20} MiB, which is more than a "
                "release for this device can have.",
                "Take the bundle that was made for this device.",
            )
        # Who writes to one that has gone has nothing to tell, nor who reads what ends early.
        for one in (opened, deflated):
            if one.code > 0:
                raise _damaged(one.stderr.strip()[-300:] or f"unpacking it ended with {one.code}")
        if self._waiting or not self._opener.stdin.closed or self._source.read(1):
            raise _damaged("it goes on after its end")


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
