"""Is a slot equal to its commit? Every byte, attribute, link and device of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from abupdate.events import Events
from abupdate.store.content import MANIFEST_PATH, RELEASE_PATH, CommitContent
from abupdate.store.manifest import Entry, Kind, escape
from abupdate.store.materialise import own_file, own_folder
from abupdate.store.paths import Directories, Found, directories, entry_of, hash_file, walk

_SHOWN = 5

Progress = Callable[[int], None]


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


def compare(target: Path, content: CommitContent, events: Events) -> list[Difference]:
    """Read a mounted slot and compare it with a commit; empty when they are equal.

    A path that the disk cannot read is a difference.
    """
    expected = {entry.path: entry for entry in _whole(content)}
    total = sum(entry.size or 0 for entry in expected.values())
    folders = {path for path, entry in expected.items() if entry.kind is Kind.DIR}
    differences: list[Difference] = []
    unread: list[tuple[bytes, OSError]] = []
    groups: dict[tuple[int, int], bytes] = {}
    read = 0

    def progress(size: int) -> None:
        nonlocal read
        read += size
        events.progress(min(read, total), total)

    with directories(target) as opened:
        for found in walk(target, folders.__contains__, lambda *what: unread.append(what)):
            entry = expected.pop(found.path, None)
            if entry is None:
                differences.append(Difference(found.path, "is not in the release"))
                continue
            first = None
            if found.kind is Kind.FILE and found.status.st_nlink > 1:
                first = groups.setdefault(found.link, found.path)
            again = None if first in (None, found.path) else first
            what = _difference(entry, found, opened, again, progress)
            if what is not None:
                differences.append(Difference(found.path, what))
    events.progress(total, total)
    for path, error in unread:
        differences.append(Difference(path, f"cannot be read ({error.strerror})"))
    # What lies below a folder that cannot be read is not missing, as far as anybody knows.
    hidden = {path for path, _ in unread}
    differences += [
        Difference(path, "is missing") for path in expected if hidden.isdisjoint(_and_above(path))
    ]
    return sorted(differences, key=lambda difference: difference.path)


def _and_above(path: bytes) -> Iterator[bytes]:
    return accumulate(path.split(b"/"), lambda above, name: b"%s/%s" % (above, name))


def _whole(content: CommitContent) -> Iterator[Entry]:
    """The commit's paths and the slot's own description."""
    yield from content.entries()
    date = content.date * 1_000_000_000
    yield own_folder(date)
    for path, text in ((MANIFEST_PATH, content.manifest), (RELEASE_PATH, content.release_toml)):
        digest = hashlib.sha256(text).hexdigest()
        yield replace(own_file(path, date), size=len(text), sha256=digest)


def _difference(
    entry: Entry,
    found: Found,
    opened: Directories,
    first: bytes | None,
    progress: Progress,
) -> str | None:
    if found.kind is None:
        return "is a socket"
    try:
        actual = entry_of(found, opened, partial(_hashed, found, progress), first)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if actual == entry:
        return None
    return "; ".join(_words(entry, actual))


def _hashed(found: Found, progress: Progress, fd: int, name: bytes) -> tuple[int, str]:
    return found.status.st_size, hash_file(fd, name, progress)


def _words(entry: Entry, actual: Entry) -> Iterator[str]:
    if entry.kind is not actual.kind or entry.target != actual.target:
        yield f"should be {_kind(entry)}, found {_kind(actual)}"
        return
    if (entry.size, entry.sha256) != (actual.size, actual.sha256):
        yield "content differs"
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
