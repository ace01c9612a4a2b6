"""Releases that are here: a file, standard input, or one that the store has."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.bundle.candidate import Signed, stored
from abupdate.bundle.read import Incoming
from abupdate.errors import SourceError
from abupdate.release.tag import Statement
from abupdate.release.version import Version
from abupdate.source.source import Arriving, Into
from abupdate.store.readable import Readable


@dataclass(frozen=True)
class FileSource:
    """A bundle that is a file here. `told`: its name for people, where the path says nothing."""

    path: Path
    told: str = ""

    @property
    def name(self) -> str:
        return self.told or str(self.path)

    @contextmanager
    def opened(self, into: Into) -> Iterator[Arriving]:
        """Begin to read it. Raises `SourceError`."""
        try:
            file = self.path.open("rb")
            told = os.fstat(file.fileno())
        except OSError as error:
            raise SourceError(
                f"A bundle should be readable at {self.path}: {error.strerror}.",
                "Give the path of a bundle file, an address, - for standard input, or "
                "release/VERSION.",
            ) from error
        with file:
            size = told.st_size if stat.S_ISREG(told.st_mode) else None
            yield Incoming(file, into.store, into.max_bytes, into.events, size, into.room)


@dataclass(frozen=True)
class StreamSource:
    """A bundle that is read once, front to back: standard input where nothing else is given."""

    stream: Readable | None = None
    name: str = "-"

    @contextmanager
    def opened(self, into: Into) -> Iterator[Arriving]:
        """Begin to read it. Raises `SourceError`."""
        stream = self.stream or sys.stdin.buffer
        yield Incoming(stream, into.store, into.max_bytes, into.events, room=into.room)


@dataclass(frozen=True)
class StoredSource:
    """A release that an earlier install left in the store."""

    version: Version

    @property
    def name(self) -> str:
        return self.version.tag

    @contextmanager
    def opened(self, into: Into) -> Iterator[Arriving]:
        """Find it. Raises `SourceError`."""
        yield _Kept(stored(into.store, self.version))


@dataclass(frozen=True)
class _Kept:
    candidate: Signed

    @property
    def statement(self) -> Statement:
        return self.candidate.statement

    @property
    def channel(self) -> None:
        return None

    @property
    def branch(self) -> None:
        return None

    def receive(self) -> Signed:
        return self.candidate
