"""Root filesystem → commit, faithfully, without git's filters or attributes.

From a directory (as root, to see every file and attribute) or from a tar (as
anybody). The same input gives the same commit id: a root commit with a fixed
author, dated by the newest file unless told otherwise. What the input cannot
say is refused or warned about, never guessed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from abupdate.errors import SourceError
from abupdate.events import Events
from abupdate.run import Stream
from abupdate.store import manifest, names
from abupdate.store.changes import git_mode
from abupdate.store.content import MANIFEST_PATH, RELEASE_PATH
from abupdate.store.manifest import Entry, Kind
from abupdate.store.paths import (
    CHUNK,
    Found,
    directories,
    entry_of,
    open_file,
    walk,
    without_overlay,
)
from abupdate.store.repository import Repository
from abupdate.store.tar import read_tar
from abupdate.store.tree import PLAIN

_BLOCK = 4096
_IDENTITY = b"abupdate <abupdate@localhost>"


@dataclass(frozen=True)
class Totals:
    """What was captured: content in bytes, blocks that it takes up, inodes, newest time in s."""

    content: int
    bytes: int
    inodes: int
    newest: int


@dataclass(frozen=True)
class Captured:
    """A commit in the repository, named by no ref yet."""

    commit: str
    manifest_sha256: str
    tree_digest: str
    totals: Totals
    warnings: tuple[str, ...]


Describe = Callable[[Totals], bytes]


def capture(
    source: Path | IO[bytes],
    repository: Repository,
    describe: Describe,
    events: Events,
    *,
    subject: str,
    date: int | None = None,
) -> Captured:
    """Make a commit of a directory, a tar file or a tar stream.

    `describe` gives the release.toml once the totals are known; `date` is the
    commit's, in seconds since the epoch (default: the newest file's). Raises
    `SourceError` for what cannot be captured faithfully.
    """
    with repository.fast_import() as git, _git_explains(git):
        writer = _Writer(git, events)
        warnings = _take(source, writer)
        entries = writer.finish(warnings)
        totals = _totals(entries)
        lines = b"".join([manifest.HEADER, *(manifest.format_entry(entry) for entry in entries)])
        when = totals.newest if date is None else date
        ref = f"refs/abupdate/capture/{os.getpid()}"
        writer.commit(ref, subject, when, entries, {
            MANIFEST_PATH: lines, RELEASE_PATH: describe(totals),
        })  # fmt: skip
        git.finish(timeout=3600)
    commit = repository.resolve(ref)
    assert commit is not None
    repository.delete_ref(ref)
    return Captured(
        commit=commit,
        manifest_sha256=hashlib.sha256(lines).hexdigest(),
        tree_digest=manifest.tree_digest(entries),
        totals=totals,
        warnings=tuple(warnings),
    )


@contextmanager
def _git_explains(git: Stream) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        git.finish()  # raises with git's own words
        raise


def _take(source: Path | IO[bytes], writer: _Writer) -> list[str]:
    if not isinstance(source, Path):
        return read_tar(source, writer)
    if source.is_dir():
        return _take_directory(source, writer)
    with source.open("rb") as stream:
        return read_tar(stream, writer)


def _take_directory(root: Path, writer: _Writer) -> list[str]:
    warnings: list[str] = []
    first_links: dict[tuple[int, int], bytes] = {}
    with directories(root) as opened:
        for found in walk(root, unreadable=_raise_unreadable):
            if found.kind is None:
                warnings.append(f"{_shown(found.path)}: a socket, left out")
                continue
            warnings += _not_captured(found, root)
            first = None
            if found.kind is Kind.FILE and found.status.st_nlink > 1:
                first = first_links.setdefault(found.link, found.path)
            if found.kind is Kind.LINK:
                fd, name = opened.parent(found.path)
                target = os.readlink(name, dir_fd=fd)
                writer.blob(found.path, len(target), [target])
            store = partial(_store_file, writer, found)
            again = None if first in (None, found.path) else first
            try:
                entry = entry_of(found, opened, store, again)
            except BrokenPipeError:
                raise  # git's
            except OSError as error:
                raise _unreadable(found.path, error) from error
            writer.take(entry._replace(xattrs=without_overlay(entry.xattrs)))
    return warnings


def _not_captured(found: Found, root: Path) -> Iterator[str]:
    if found.kind is Kind.DIR and found.status.st_dev != root.stat().st_dev:
        yield f"{_shown(found.path)}: a mount point, what is mounted there is left out"
    if found.kind not in (Kind.DIR, Kind.FILE) and found.status.st_nlink > 1:
        yield f"{_shown(found.path)}: hard links between anything but files are taken apart"


def _store_file(writer: _Writer, found: Found, fd: int, name: bytes) -> tuple[int, str]:
    with os.fdopen(open_file(fd, name), "rb", buffering=0) as file:
        size = found.status.st_size
        sha256 = writer.blob(found.path, size, iter(lambda: file.read(CHUNK), b""))
        now = os.fstat(file.fileno())
        # Not its time alone, which anybody can put back.
        if (now.st_ino, now.st_ctime_ns) != (found.status.st_ino, found.status.st_ctime_ns):
            raise _changed(found.path)
        return size, sha256


def _raise_unreadable(path: bytes, error: OSError) -> None:
    raise _unreadable(path, error) from error


def _unreadable(path: bytes, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return _changed(path)
    return SourceError(
        f"{_shown(path)} cannot be read: {error.strerror}.",
        "Run this as root, or give a tar of the root filesystem.",
    )


def _changed(path: bytes) -> SourceError:
    return SourceError(
        f"{_shown(path)} changed while it was read.", "Capture a tree that nobody writes to."
    )


class _Writer:
    """Blobs and the commit, through git's bulk writer; the entries as they come."""

    def __init__(self, git: Stream, events: Events) -> None:
        self._git = git
        self._events = events
        self._marks: dict[bytes, int] = {}
        self._next_mark = 1
        self._entries: dict[bytes, Entry] = {}
        self._stored = 0

    def blob(self, path: bytes, size: int, chunks: Iterable[bytes]) -> str:
        """Store the content of `path`; its SHA-256. The chunks must have `size` bytes."""
        mark = self._write_blob(size)
        digest, written = hashlib.sha256(), 0
        for chunk in chunks:
            written += len(chunk)
            if written > size:
                break
            digest.update(chunk)
            self._git.stdin.write(chunk)
        if written != size:
            raise _changed(path)
        self._git.stdin.write(b"\n")
        self._marks[path] = mark
        self._stored += size
        self._events.progress(self._stored, None)
        return digest.hexdigest()

    def take(self, entry: Entry) -> None:
        """Add a path. Content of files was given to `blob` before; links are stored here."""
        if entry.path in self._entries:
            raise SourceError(
                f"{_shown(entry.path)} is there twice.", "Make the tar anew, from one folder."
            )
        try:
            manifest.check_entry(entry)
        except ValueError as error:
            raise SourceError(
                f"{_shown(entry.path)} cannot be in a release: {error}.",
                "Remove it from the root filesystem.",
            ) from error
        before = self._entries.get(entry.target or b"")
        if before is not None and before.target is not None:
            entry = entry._replace(target=before.target)
        self._entries[entry.path] = entry

    def finish(self, warnings: list[str]) -> list[Entry]:
        """All entries in the manifest's order, each hard-link group with its first path as file."""
        groups: dict[bytes, list[bytes]] = {}
        for entry in self._entries.values():
            if entry.target is not None:
                groups.setdefault(entry.target, [entry.target]).append(entry.path)
        for original, paths in groups.items():
            content = self._entries.get(original)
            if content is None or content.kind in (Kind.DIR, Kind.HARDLINK):
                raise SourceError(
                    f"{_shown(paths[-1])} is a hard link to {_shown(original)}, which is no file "
                    "here.",
                    "Make the tar anew, from the whole root filesystem.",
                )
            if content.kind is Kind.FILE:
                self._regroup(content, sorted(paths))
            else:
                self._take_apart(content, paths)
                warnings.append(
                    f"{_shown(original)}: hard links between anything but files are taken apart"
                )
        entries = [self._entries[path] for path in sorted(self._entries)]
        try:
            manifest.check_tree(entries)
        except ValueError as error:
            raise SourceError(
                f"This cannot be a release: {error}.", "Remove it from the root filesystem."
            ) from error
        return entries

    def _take_apart(self, content: Entry, paths: list[bytes]) -> None:
        for path in paths:
            self._entries[path] = content._replace(path=path)
            if content.path in self._marks:
                self._marks[path] = self._marks[content.path]

    def _regroup(self, content: Entry, paths: list[bytes]) -> None:
        mark = self._marks[content.path]
        for path in paths:
            self._marks[path] = mark
            self._entries[path] = (
                content._replace(path=path, links=len(paths))
                if path == paths[0]
                else content._replace(
                    path=path,
                    kind=Kind.HARDLINK,
                    size=None,
                    sha256=None,
                    target=paths[0],
                )
            )

    def commit(
        self,
        ref: str,
        subject: str,
        date: int,
        entries: Iterable[Entry],
        own: dict[bytes, bytes],
    ) -> None:
        """Write the commit with the tree of `entries` and abupdate's own files."""
        own_marks = {path: self._small_blob(content) for path, content in own.items()}
        message = f"{subject}\n".encode()
        lines = [
            b"commit " + ref.encode(),
            b"author %s %d +0000" % (_IDENTITY, date),
            b"committer %s %d +0000" % (_IDENTITY, date),
            b"data %d" % len(message),
            message,
            *self._tree(entries),
            *(_modify(PLAIN, mark, path) for path, mark in own_marks.items()),
            b"",
            b"done",
        ]
        self._git.stdin.write(b"\n".join(lines) + b"\n")

    def _tree(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        for entry in entries:
            if entry.kind in (Kind.FILE, Kind.LINK, Kind.HARDLINK):
                yield _modify(git_mode(entry), self._marks[entry.path], names.stored(entry.path))

    def _small_blob(self, content: bytes) -> int:
        mark = self._write_blob(len(content))
        self._git.stdin.write(content + b"\n")
        return mark

    def _write_blob(self, size: int) -> int:
        mark = self._next_mark
        self._next_mark += 1
        self._git.stdin.write(b"blob\nmark :%d\ndata %d\n" % (mark, size))
        return mark


def _modify(mode: str, mark: int, path: bytes) -> bytes:
    quoted = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'M %s :%d "%s"' % (mode.encode(), mark, quoted)


def _totals(entries: Iterable[Entry]) -> Totals:
    content = blocks = inodes = newest = 0
    for entry in entries:
        newest = max(newest, entry.mtime // 1_000_000_000)
        if entry.kind is Kind.HARDLINK:
            continue
        inodes += 1
        content += entry.size or 0
        in_blocks = -(-(entry.size or 0) // _BLOCK) if entry.kind is Kind.FILE else 1
        blocks += in_blocks * _BLOCK
    return Totals(content, blocks, inodes, newest)


def _shown(path: bytes) -> str:
    return manifest.escape(path).decode() or "."
