"""Is a slot equal to its commit? Every byte, attribute, link and device of it."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import accumulate, chain
from pathlib import Path
from typing import Protocol, TypeVar

from abupdate.events import Events
from abupdate.store import manifest
from abupdate.store.content import MANIFEST_PATH, RELEASE_PATH
from abupdate.store.manifest import Entry, Kind, escape
from abupdate.store.materialise.apply import own_file, own_folder
from abupdate.store.materialise.plan import Plan
from abupdate.store.outputs import NOTHING, Outputs
from abupdate.store.paths import (
    Directories,
    Found,
    directories,
    entry_of,
    hash_file,
    kind_of,
    open_file,
    walk,
)
from abupdate.store.workers import WORKERS, Progress, share

_SHOWN = 5
# How far the disk is asked ahead of what is read: enough to keep it busy, and little memory.
_AHEAD_FILES = 32
_AHEAD_BYTES = 1 << 20
# Paths that one process reads before it leaves the next ones to another.
_PIECE = 256


@dataclass(frozen=True)
class Difference:
    """A path and, in words, what is not as the commit has it."""

    path: bytes
    what: str

    def __str__(self) -> str:
        return f"{escape(self.path).decode() or '.'}: {self.what}"


def describe(differences: Sequence[Difference]) -> str:
    """The first few differences in one line."""
    told = "; ".join(str(difference) for difference in differences[:_SHOWN])
    more = len(differences) - _SHOWN
    return f"{told}; and {more} more" if more > 0 else told


def compare(
    target: Path, content: Described, events: Events, outputs: Outputs = NOTHING
) -> list[Difference]:
    """Read a mounted slot and compare it with a commit; empty when they are equal.

    `outputs` are what fixups left over the commit. A path that the disk cannot read
    is a difference.
    """
    folders: set[bytes] = set()
    unread: dict[bytes, OSError] = {}
    missing, differences = [], []
    progress = _Progress(events, _used(target))
    with (
        directories(target) as opened,
        directories(target) as ahead,
        # A folder is looked into once the release was seen to have it.
        closing(walk(target, folders.__contains__, unread.__setitem__)) as found,
    ):
        reading = _Reading(opened, progress.add)
        for entry, path in _asked_ahead(_beside(_whole(content, outputs, folders), found), ahead):
            if entry is None:
                assert path is not None
                differences.append(Difference(path.path, "is not in the release"))
            elif path is None:
                missing.append(entry.path)
            elif (what := reading.difference(entry, path)) is not None:
                differences.append(Difference(entry.path, what))
    progress.end()
    for place, error in unread.items():
        differences.append(Difference(place, f"cannot be read ({error.strerror})"))
    # What lies below a folder that cannot be read is not missing, as far as anybody knows.
    differences += [
        Difference(path, "is missing")
        for path in missing
        if unread.keys().isdisjoint(_and_above(path))
    ]
    return sorted(differences, key=_by_path)


def compare_changed(
    target: Path, plan: Plan, events: Events, outputs: Outputs = NOTHING
) -> list[Difference]:
    """`compare` for what a plan wrote, made or mended, and the outputs of fixups, only."""
    changed = plan.changed()
    pieces = [range(at, min(at + _PIECE, len(changed))) for at in range(0, len(changed), _PIECE)]
    work = [
        _but(outputs, (changed[index] for piece in pieces[number::WORKERS] for index in piece))
        for number in range(min(WORKERS, len(pieces)))
    ]
    progress = _Progress(events, plan.size)
    # What `work` leaves out of it: the fixups' own, and what no manifest tells of.
    own = partial(_differences, target, merge(_own(plan), outputs.entries(), key=_by_path))
    found = share(
        [own, *(partial(_differences, target, entries) for entries in work)],
        lambda size, _: progress.add(size),
    )
    progress.end()
    return sorted(chain(_still_there(target, outputs), *found), key=_by_path)


def _but(outputs: Outputs, entries: Iterator[Entry]) -> Iterator[Entry]:
    return (entry for entry in entries if entry.path not in outputs.by_path)


def _still_there(target: Path, outputs: Outputs) -> Iterator[Difference]:
    """What fixups removed and is there nevertheless."""
    with directories(target) as opened:
        for path in outputs.removed():
            with suppress(FileNotFoundError, NotADirectoryError):
                fd, name = opened.parent(path)
                os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield Difference(path, "should have been removed by a fixup, and is there")


def _differences(target: Path, entries: Iterable[Entry], done: Progress) -> list[Difference]:
    """What of these paths is not as it should be; they are in the order in which folders lie."""
    differences = []
    with directories(target) as opened, directories(target) as ahead:
        reading = _Reading(opened, lambda size: done(size, 0))
        for entry, _ in _asked_ahead(((entry, None) for entry in entries), ahead):
            try:
                if entry.target is not None:
                    reading.know(entry.target)
                fd, name = opened.parent(entry.path)
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                differences.append(Difference(entry.path, "is missing"))
                continue
            except OSError as error:
                differences.append(Difference(entry.path, f"cannot be read ({error.strerror})"))
                continue
            what = reading.difference(entry, Found(entry.path, kind_of(status), status))
            if what is not None:
                differences.append(Difference(entry.path, what))
    return differences


_Pair = tuple[Entry | None, Found | None]
_P = TypeVar("_P", bound=_Pair)


def _beside(expected: Iterator[Entry], found: Iterator[Found]) -> Iterator[_Pair]:
    """What is expected with what was found at the same path; both are sorted by path."""
    wanted = next(expected, None)
    for path in found:
        while wanted is not None and wanted.path < path.path:
            yield wanted, None
            wanted = next(expected, None)
        if wanted is None or wanted.path != path.path:
            yield None, path
            continue
        yield wanted, path
        wanted = next(expected, None)
    while wanted is not None:
        yield wanted, None
        wanted = next(expected, None)


def _asked_ahead(pairs: Iterable[_P], opened: Directories) -> Iterator[_P]:
    """The same, with the beginnings of the next files asked of the disk: it is slower than we.

    `opened` is for nothing else, since it goes ahead.
    """
    waiting: deque[_P] = deque()
    for pair in pairs:
        entry = pair[0]
        if entry is not None and entry.kind is Kind.FILE:
            with suppress(OSError):  # told where it is read
                file = open_file(*opened.parent(entry.path))
                try:
                    os.posix_fadvise(file, 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(file)
        waiting.append(pair)
        if len(waiting) > _AHEAD_FILES:
            yield waiting.popleft()
    yield from waiting


def _used(target: Path) -> int:
    filesystem = os.statvfs(target)
    return (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize


class _Progress:
    """Adds up what was read, and tells it."""

    def __init__(self, events: Events, total: int) -> None:
        self._events = events
        self._total = total
        self._read = 0

    def add(self, size: int) -> None:
        """So many bytes more; of files that changed meanwhile it may be too many."""
        self._read += size
        self._events.progress(min(self._read, self._total), self._total)

    def end(self) -> None:
        """All was read."""
        self._events.progress(self._total, self._total)


class Described(Protocol):
    """A commit as its slot describes it: `CommitContent`, or a `Plan` that was made of one."""

    @property
    def manifest(self) -> bytes:
        """The manifest as it is."""

    @property
    def release_toml(self) -> bytes:
        """The release.toml as it is."""

    @property
    def date(self) -> int:
        """The commit's date, in seconds since the epoch."""


def _and_above(path: bytes) -> Iterator[bytes]:
    return accumulate(path.split(b"/"), lambda above, name: b"%s/%s" % (above, name))


def _whole(content: Described, outputs: Outputs, folders: set[bytes]) -> Iterator[Entry]:
    """The slot's paths and its own description, sorted; `folders` as far as it got."""
    expected = outputs.over(manifest.read(content.manifest))
    for entry in merge(expected, _own(content), key=_by_path):
        if entry.kind is Kind.DIR:
            folders.add(entry.path)
        yield entry


def _by_path(entry: Entry | Difference) -> bytes:
    return entry.path


def _own(content: Described) -> Iterator[Entry]:
    date = content.date * 1_000_000_000
    yield own_folder(date)
    for path, text in ((MANIFEST_PATH, content.manifest), (RELEASE_PATH, content.release_toml)):
        digest = hashlib.sha256(text).hexdigest()
        yield own_file(path, date)._replace(size=len(text), sha256=digest)


class _Reading:
    """Reads paths of a slot and says what is not as it should be."""

    def __init__(self, opened: Directories, tell: Callable[[int], None]) -> None:
        self._opened = opened
        self._tell = tell
        self._first: dict[tuple[int, int], bytes] = {}

    def know(self, path: bytes) -> None:
        """Take note of the first of several names, which need not be read itself."""
        fd, name = self._opened.parent(path)
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        self._first.setdefault((status.st_dev, status.st_ino), path)

    def difference(self, entry: Entry, found: Found) -> str | None:
        """In words, None when they are equal."""
        if found.kind is None:
            return "is a socket"
        first = None
        if found.kind is Kind.FILE and found.status.st_nlink > 1:
            first = self._first.setdefault(found.link, found.path)
        again = None if first in (None, found.path) else first
        try:
            actual = entry_of(found, self._opened, self._hashed(found), again)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if actual.kind is Kind.FILE:
            actual = actual._replace(links=found.status.st_nlink)
        if actual == entry:
            return None
        return "; ".join(_words(entry, actual))

    def _hashed(self, found: Found) -> Callable[[int, bytes], tuple[int, str]]:
        return lambda fd, name: (found.status.st_size, hash_file(fd, name, self._tell))


def _words(entry: Entry, actual: Entry) -> Iterator[str]:
    if entry.kind is not actual.kind or entry.target != actual.target:
        yield f"should be {_kind(entry)}, found {_kind(actual)}"
        return
    if (entry.size, entry.sha256) != (actual.size, actual.sha256):
        yield "content differs"
    if entry.links != actual.links:
        yield f"names {entry.links} expected, {actual.links} found"
    if (entry.uid, entry.gid) != (actual.uid, actual.gid):
        yield f"owner {entry.uid}:{entry.gid} expected, {actual.uid}:{actual.gid} found"
    if entry.mode != actual.mode:
        yield f"mode {entry.mode:04o} expected, {actual.mode:04o} found"
    if entry.mtime != actual.mtime:
        yield "time differs"
    if entry.device != actual.device:
        yield f"device {entry.device} expected, {actual.device} found"
    if entry.xattrs != actual.xattrs:
        changed = {name for name, _ in set(entry.xattrs) ^ set(actual.xattrs)}
        yield f"attributes differ: {', '.join(sorted(escape(n).decode() for n in changed))}"


_KIND_WORDS = {
    Kind.DIR: "a folder",
    Kind.FILE: "a file of its own",
    Kind.LINK: "a symlink",
    Kind.CHAR: "a character device",
    Kind.BLOCK: "a block device",
    Kind.FIFO: "a fifo",
    Kind.HARDLINK: "a hard link",
}


def _kind(entry: Entry) -> str:
    words = _KIND_WORDS[entry.kind]
    return f"{words} to {escape(entry.target).decode()}" if entry.target is not None else words
