"""A folder on a disk with a volatile cache, in place of the `os` that a module calls.

What was not fsynced may be on the disk after a power cut, or not: sector by
sector, in any of the versions since the last fsync, and a sector that was never
written may hold what another file left there. An entry of the folder becomes
durable with the fsync of the folder; that of a renamed file needs one of the
file too, which is how vfat does it. A file system's own check is taken to have
run after the cut: two names for one file are two files.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from abupdate.errors import DeviceFaultError

SECTOR = 512
Content = bytes | None
# An I/O error; or what this call can do wrong and call right: a short write, an
# fsync that keeps nothing, a read that gives other bytes.
Fault = Literal["error", "odd"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class PowerCut(BaseException):
    """Nothing of the writer runs after it."""


@dataclass(eq=False)
class _File:
    """`cache` is what the kernel shows; `disk` what may be there, the last fsynced one first."""

    cache: bytes
    disk: list[bytes]

    def change(self, content: bytes) -> None:
        self.cache = content
        self.disk.append(content)


@dataclass(eq=False)
class _Entry:
    """What a name may refer to after a cut, the durable one first; and the fsyncs it waits for."""

    files: list[_File | None]
    waits_for: set[str] = field(default_factory=set)

    def change(self, file: _File | None, *waits_for: str) -> None:
        self.files.append(file)
        self.waits_for |= set(waits_for)

    def synced(self, what: str) -> None:
        self.waits_for.discard(what)
        if not self.waits_for:
            self.files = self.files[-1:]


class Disk:
    """Give it to a module as its `os` and `fcntl`.

    `stale` is what may be in sectors that were never written. `pick` decides
    what is left of a failed fsync.
    """

    def __init__(self, root: Path, files: Mapping[str, Content], stale: bytes) -> None:
        self.root = root
        self.stale = stale
        self.pick: Callable[[Sequence[bytes]], bytes] = lambda found: found[0]
        self.read_only = True
        self._calls: list[str] = []
        self._cut_at: int | None = None
        self._faults: Mapping[int, Fault] = {}
        self._holder: int | None = None
        self._entries = {name: _durable(content) for name, content in files.items()}
        self._open: dict[int, _File | None] = {}
        self._numbers = itertools.count(100)

    # What the tests ask

    def contents(self) -> dict[str, bytes]:
        """What a reader finds on the disk now, when nothing else happens."""
        files = {name: entry.files[-1] for name, entry in self._entries.items()}
        return {name: file.disk[-1] for name, file in files.items() if file}

    def put(self, name: str, content: Content) -> None:
        """Somebody else wrote this, and it is on the disk."""
        self._entries[name] = _durable(content)

    def possible(self, name: str) -> list[Content]:
        """Everything that the name may hold when the power goes now."""
        entry = self._entries.get(name) or _durable(None)
        found: dict[Content, None] = {}
        for file in entry.files:
            found |= dict.fromkeys(self._contents(file) if file else [None])
        return list(found)

    def after_cut(
        self, left: Mapping[str, Content], pick: Callable[[Sequence[Content]], Content]
    ) -> Disk:
        """The disk at the next boot: `left`, and what `pick` chooses for the other names."""
        chosen = {
            name: left[name] if name in left else pick(self.possible(name))
            for name in sorted(self._entries)
        }
        return Disk(self.root, chosen, self.stale)

    @contextmanager
    def trouble(self, cut_at: int | None, faults: Mapping[int, Fault]) -> Iterator[list[str]]:
        """The power goes before call `cut_at`, counted from 0. Gives the calls that were made."""
        calls: list[str] = []
        self._calls = calls
        self._cut_at, self._faults = cut_at, faults
        try:
            yield calls
        finally:
            self._calls, self._cut_at, self._faults = [], None, {}

    def locked(self) -> bool:
        return self._holder is not None

    @contextmanager
    def made_writable(self) -> Iterator[None]:
        """The `writable` of a boot partition that is mounted read-only."""
        self._remount(read_only=False)
        try:
            yield
        finally:
            self._remount(read_only=True)

    def _remount(self, *, read_only: bool) -> None:
        if self._call("remount") == "error":
            raise DeviceFaultError("mount failed")
        self.read_only = read_only

    def _contents(self, file: _File) -> list[bytes]:
        """Any length with any version of each sector."""
        found: dict[bytes, None] = {}
        for length in {len(content) for content in file.disk}:
            starts = range(0, length, SECTOR)
            sectors = [self._versions(file, start) for start in starts]
            for chosen in itertools.product(*sectors):
                found[b"".join(chosen)[:length]] = None
        return list(found)

    def _versions(self, file: _File, start: int) -> set[bytes]:
        versions = [content[start : start + SECTOR] for content in file.disk]
        if not versions[0]:
            versions[0] = self.stale[start : start + SECTOR]
        return {version.ljust(SECTOR, b"\0") for version in versions if version}

    # What the module calls

    def __getattr__(self, name: str) -> int:
        if name.startswith(("O_", "POSIX_FADV_", "LOCK_")):
            constant: int = getattr(fcntl if name.startswith("LOCK_") else os, name)
            return constant
        raise AttributeError(f"the simulated disk has no {name}")

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        fault = self._call(f"open {path.name}")
        if fault == "error":
            raise _error(errno.EIO)
        file: _File | None = None
        if path == self.root:
            assert flags & os.O_DIRECTORY
        else:
            file = self._opened(self._name(path), flags)
        number = next(self._numbers)
        self._open[number] = file
        return number

    def _opened(self, name: str, flags: int) -> _File:
        if flags & _WRITES:
            self._may_write()
        entry = self._entries.get(name) or _durable(None)
        file = entry.files[-1]
        if file is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT)
            file = _File(b"", [b""])
            self._entries[name] = entry
            entry.change(file, "folder")
        elif flags & os.O_TRUNC:
            file.change(b"")
        return file

    def close(self, number: int) -> None:
        self._call("close")
        del self._open[number]
        if self._holder == number:
            self._holder = None

    def flock(self, number: int, operation: int) -> None:
        self._call("flock")
        assert self._open[number] is None and operation == fcntl.LOCK_EX and not self.locked()
        self._holder = number

    def pwrite(self, number: int, raw: bytes, offset: int) -> int:
        fault = self._call("pwrite")
        file = self._file(number)
        self._may_write()
        if fault == "error":
            raise _error(errno.ENOSPC)
        # The kernel copies what is within a page at once: never a part of a sector.
        raw = raw[:SECTOR] if fault == "odd" else raw
        content = file.cache.ljust(offset, b"\0")
        file.change(content[:offset] + raw + content[offset + len(raw) :])
        return len(raw)

    def ftruncate(self, number: int, length: int) -> None:
        self._call("ftruncate")
        self._may_write()
        file = self._file(number)
        file.change(file.cache[:length].ljust(length, b"\0"))

    def fsync(self, number: int) -> None:
        fault = self._call("fsync")
        file = self._open[number]
        if fault == "error":
            if file:  # the kernel takes it as written, whatever reached the disk
                file.disk = [self.pick(self._contents(file))]
            raise _error(errno.EIO)
        if file is None:
            for entry in self._entries.values():
                entry.synced("folder")
            return
        file.disk = file.disk[:1] if fault == "odd" else file.disk[-1:]
        for entry in self._entries.values():
            if entry.files[-1] is file:
                entry.synced("file")

    def replace(self, old: Path, new: Path) -> None:
        if self._call("replace") == "error":
            raise _error(errno.EIO)
        self._may_write()
        source = self._entries[self._name(old)]
        target = self._entries.setdefault(self._name(new), _durable(None))
        target.change(source.files[-1], "folder", "file")
        source.change(None, "folder")

    def unlink(self, path: Path) -> None:
        if self._call("unlink") == "error":
            raise _error(errno.EIO)
        self._may_write()
        self._entries[self._name(path)].change(None, "folder")

    def preadv(self, number: int, buffers: Sequence[Any], offset: int) -> int:
        fault = self._call("preadv")
        if fault == "error":
            raise _error(errno.EIO)
        raw = self._file(number).disk[-1][offset : offset + len(buffers[0])]
        if fault == "odd":
            raw = bytes(byte ^ 1 for byte in raw)
        buffers[0][: len(raw)] = raw
        return len(raw)

    def pread(self, number: int, length: int, offset: int) -> bytes:
        """From the page cache."""
        self._call("pread")
        return self._file(number).cache[offset : offset + length]

    def posix_fadvise(self, number: int, offset: int, length: int, advice: int) -> None:
        """A hint, which may have no effect."""
        self._call("posix_fadvise")

    def _call(self, what: str) -> Fault | None:
        number = len(self._calls)
        if self._cut_at is not None and number >= self._cut_at:
            raise PowerCut
        self._calls.append(what)
        return self._faults.get(number)

    def _may_write(self) -> None:
        assert self.locked(), "written without the lock"
        if self.read_only:
            raise _error(errno.EROFS)

    def _name(self, path: Path) -> str:
        assert path.parent == self.root
        return path.name

    def _file(self, number: int) -> _File:
        file = self._open[number]
        assert file is not None
        return file


def _durable(content: Content) -> _Entry:
    return _Entry([None if content is None else _File(content, [content])])


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
