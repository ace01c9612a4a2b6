"""Commit → slot: write what differs, over whatever the slot holds.

What is there is audited (status, xattrs, and the hash of every file) and kept
where it is equal; the rest is removed or repaired. Paths are walked from open
directories without following links. Nothing is flushed here: the caller syncs
the whole filesystem once, reads it back, and only then believes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import DeviceFaultError, NoSpaceError, NotTrustedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.store.content import MANIFEST_PATH, RELEASE_PATH, CommitContent
from abupdate.store.manifest import DEVICES, Entry, Kind, escape
from abupdate.store.paths import (
    Directories,
    Found,
    by_proc,
    directories,
    hash_file,
    walk,
    xattrs,
)
from abupdate.store.removal import remove, unlink, unprotect_file, unprotect_folder

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODE_TYPES = {Kind.CHAR: 0o020000, Kind.BLOCK: 0o060000, Kind.FIFO: 0o010000}
OWN_FOLDER = MANIFEST_PATH.rpartition(b"/")[0]


@dataclass(frozen=True)
class Written:
    """What a materialise did: files written and kept, bytes written, paths removed."""

    files: int
    bytes: int
    kept: int
    removed: int


def materialise(content: CommitContent, target: Path, events: Events) -> Written:
    """Make `target`, the mounted filesystem of a slot, equal to a commit.

    Raises `NotTrustedError` when the store hands out wrong bytes,
    `NoSpaceError` and `DeviceFaultError` for what the slot's filesystem says.
    """
    expected = list(content.entries())
    with _faults_named(target), directories(target) as opened:
        job = _Job(content, target, opened, expected, events)
        removed = job.remove()
        missing = job.audit()
        job.write(missing)
        job.link()
        job.finish_directories()
        job.describe_itself()
    return Written(
        files=len(missing),
        bytes=sum(entry.size or 0 for entry in missing),
        kept=job.kept,
        removed=removed,
    )


@contextmanager
def _faults_named(target: Path) -> Iterator[None]:
    """What the slot's filesystem refuses, as an error of ours."""
    try:
        yield
    except OSError as error:
        name = error.filename
        where = f" at {escape(os.fsencode(name)).decode()}" if name else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"The slot is full{where}.", "Make the release smaller, or the slots larger."
            ) from error
        raise DeviceFaultError(
            f"Writing to {target} failed{where}: {error.strerror}.",
            "Run the install again; if it happens twice, the disk is failing.",
        ) from error


class _Job:
    """One materialise; the methods are its phases, in their order."""

    def __init__(
        self,
        content: CommitContent,
        target: Path,
        opened: Directories,
        expected: list[Entry],
        events: Events,
    ) -> None:
        self._content = content
        self._opened = opened
        self._expected = {entry.path: entry for entry in expected}
        self._found = {found.path: found for found in walk(target, self._is_folder)}
        self._events = events
        self._links = Counter(
            entry.target or entry.path
            for entry in expected
            if entry.kind in (Kind.FILE, Kind.HARDLINK)
        )
        self._claimed: set[tuple[int, int]] = set()
        self.kept = 0

    def _is_folder(self, path: bytes) -> bool:
        entry = self._expected.get(path)
        return entry is not None and entry.kind is Kind.DIR

    def remove(self) -> int:
        """Take away what the commit has not, or has as another kind."""
        removed = 0
        for found in list(self._found.values()):  # sorted: a folder before what is in it
            fd, name = self._opened.parent(found.path)
            if self._may_stay(found):
                if found.kind is Kind.DIR:
                    unprotect_folder(fd, name)
                continue
            removed += remove(fd, name)
            del self._found[found.path]
        return removed

    def _may_stay(self, found: Found) -> bool:
        entry = self._expected.get(found.path)
        if entry is None:
            return False
        kind = Kind.FILE if entry.kind is Kind.HARDLINK else entry.kind
        return found.kind is kind

    def audit(self) -> list[Entry]:
        """Make folders, links and nodes; give the files whose content must be written."""
        missing = []
        total = sum(entry.size or 0 for entry in self._expected.values())
        looked_at = 0
        for entry in self._expected.values():
            looked_at += entry.size or 0
            fd, name = self._opened.parent(entry.path)
            found = self._found.get(entry.path)
            match entry.kind:
                case Kind.DIR if found is None:
                    os.mkdir(name, 0o700, dir_fd=fd)
                case Kind.FILE if found is None or not self._keeps(entry, found, fd, name):
                    missing.append(entry)
                case Kind.LINK if found is None or not _keeps_link(entry, found, fd, name):
                    missing.append(entry)
                case Kind.CHAR | Kind.BLOCK | Kind.FIFO:
                    self._node(entry, found, fd, name)
                case _:
                    pass
            self._events.progress(looked_at, total)
        return missing

    def _keeps(self, entry: Entry, found: Found, fd: int, name: bytes) -> bool:
        """Whether a file can stay; what is wrong about it but its content is mended."""
        status = found.status
        alone = status.st_nlink == self._links[entry.path] and found.link not in self._claimed
        if status.st_size == entry.size and alone and _has_content(entry, fd, name):
            self._claimed.add(found.link)
            _mend(entry, found, fd, name)
            self.kept += 1
            return True
        unlink(fd, name)
        return False

    def _node(self, entry: Entry, found: Found | None, fd: int, name: bytes) -> None:
        if found is not None:
            number = os.major(found.status.st_rdev), os.minor(found.status.st_rdev)
            alone = found.status.st_nlink == 1
            if alone and (entry.kind not in DEVICES or number == entry.device):
                _mend(entry, found, fd, name)
                return
            os.unlink(name, dir_fd=fd)
        device = os.makedev(*entry.device) if entry.device is not None else 0
        os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, device, dir_fd=fd)
        _set_metadata(entry, fd, name)

    def write(self, missing: list[Entry]) -> None:
        """Write files and symlinks, each compared with its hash on the way."""
        total = sum(entry.size or 0 for entry in missing)
        done = 0
        for entry, chunks in self._content.blobs(missing):
            fd, name = self._opened.parent(entry.path)
            if entry.kind is Kind.LINK:
                os.symlink(_link_target(entry, chunks), name, dir_fd=fd)
                _set_metadata(entry, fd, name)
            else:
                _write_file(entry, fd, name, chunks)
            half = done < total // 2 <= done + (entry.size or 0)
            done += entry.size or 0
            self._events.progress(done, total)
            if half:
                failpoint("materialise-half")

    def link(self) -> None:
        """Hard links, after the files that they point to."""
        for entry in self._expected.values():
            if entry.target is None:
                continue
            source, source_name = self._opened.parent(entry.target)
            source = os.dup(source)  # `parent` closes what it no longer needs
            try:
                fd, name = self._opened.parent(entry.path)
                if entry.path in self._found:
                    if _same_file(source, source_name, fd, name):
                        continue
                    unlink(fd, name)
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(source)

    def describe_itself(self) -> None:
        """`.abupdate/` in the slot: what this slot is, without asking the store."""
        date = self._content.date * 1_000_000_000
        root = self._expected[b""]
        for path, text in (
            (MANIFEST_PATH, self._content.manifest),
            (RELEASE_PATH, self._content.release_toml),
        ):
            fd, name = self._opened.parent(path)
            _write_file(own_file(path, date), fd, name, [text])
        folder = own_folder(date)
        for entry in (folder, root):
            fd, name = self._opened.parent(entry.path)
            _set_metadata(entry, fd, name)

    def finish_directories(self) -> None:
        """Owner, mode and times of folders: last, deepest first, since writing changes them."""
        fd, _ = self._opened.parent(b"")
        os.mkdir(OWN_FOLDER, 0o755, dir_fd=fd)
        for entry in sorted(self._expected.values(), key=lambda item: item.path, reverse=True):
            if entry.kind is Kind.DIR:
                fd, name = self._opened.parent(entry.path)
                _set_metadata(entry, fd, name)


def _same_file(fd: int, name: bytes, other_fd: int, other_name: bytes) -> bool:
    one = os.stat(name, dir_fd=fd, follow_symlinks=False)
    other = os.stat(other_name, dir_fd=other_fd, follow_symlinks=False)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def own_folder(date: int) -> Entry:
    """The slot's own `.abupdate`."""
    return Entry(OWN_FOLDER, Kind.DIR, 0o755, 0, 0, date)


def own_file(path: bytes, date: int) -> Entry:
    """A file in the slot's own `.abupdate`; size and hash are set by who compares it."""
    return Entry(path, Kind.FILE, 0o644, 0, 0, date)


def _write_file(entry: Entry, fd: int, name: bytes, chunks: Iterable[bytes]) -> None:
    file = os.open(name, _NEW_FILE, 0o600, dir_fd=fd)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
        # chown drops setuid and capabilities, so it comes first; the time comes last.
        os.fchown(file, entry.uid, entry.gid)
        os.fchmod(file, entry.mode)
        for inherited in os.listxattr(file):  # a default ACL of the folder
            os.removexattr(file, inherited)
        for attribute, value in entry.xattrs:
            os.setxattr(file, attribute, value)
        os.utime(file, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(file)


def _link_target(entry: Entry, chunks: Iterable[bytes]) -> bytes:
    target = b"".join(chunks)
    if b"\0" in target:
        raise NotTrustedError(
            f"The release has the symlink {escape(entry.path).decode()} with a NUL byte in it."
        )
    return target


def _has_content(entry: Entry, fd: int, name: bytes) -> bool:
    try:
        return hash_file(fd, name) == entry.sha256
    except OSError:
        return False  # a sector that cannot be read may well be written


def _keeps_link(entry: Entry, found: Found, fd: int, name: bytes) -> bool:
    alone = found.status.st_nlink == 1
    if alone and hashlib.sha256(os.readlink(name, dir_fd=fd)).hexdigest() == entry.sha256:
        _mend(entry, found, fd, name)
        return True
    os.unlink(name, dir_fd=fd)
    return False


def _mend(entry: Entry, found: Found, fd: int, name: bytes) -> None:
    """Correct what differs about a path whose kind and content are right."""
    status = found.status
    same = (
        (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        and (entry.kind is Kind.LINK or status.st_mode & 0o7777 == entry.mode)
        and status.st_mtime_ns == entry.mtime
        and xattrs(fd, name) == entry.xattrs
    )
    if not same:
        if entry.kind is Kind.FILE:
            unprotect_file(fd, name)
        _set_metadata(entry, fd, name)


def _set_metadata(entry: Entry, fd: int, name: bytes) -> None:
    """Owner, mode, xattrs, time of a path itself, whatever it has now."""
    os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
    if entry.kind is not Kind.LINK:
        # Linux has no chmod that does not follow; this is no link, and nobody else writes here.
        os.chmod(name, entry.mode, dir_fd=fd)
    # Asked now: chown drops capabilities, chmod changes an ACL, a new node inherits one.
    path, wanted, present = by_proc(fd, name), dict(entry.xattrs), dict(xattrs(fd, name))
    for attribute in present.keys() - wanted.keys():
        os.removexattr(path, attribute, follow_symlinks=False)
    for attribute, value in entry.xattrs:
        if present.get(attribute) != value:
            os.setxattr(path, attribute, value, follow_symlinks=False)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)
