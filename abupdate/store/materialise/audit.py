"""The plan for a slot that holds something: looked at path by path, every file hashed.

What equals the release stays. Nothing is believed of how the slot came to be,
so this mends what was written to it by hand, too.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from abupdate.events import Events
from abupdate.store.changes import Change
from abupdate.store.content import CommitContent
from abupdate.store.manifest import Entry, Kind
from abupdate.store.materialise.plan import Plan
from abupdate.store.materialise.removal import unprotect_folder
from abupdate.store.paths import Directories, Found, directories, hash_file, walk, xattrs


def plan_for_slot(target: Path, content: CommitContent, events: Events) -> Plan:
    """Compare the mounted slot with a commit. Raises `NotTrustedError`, `OSError`.

    Folders that stay are made writable (`chattr -i -a`); nothing else changes.
    """
    plan = Plan(content)
    with directories(target) as opened:
        audit = _Audit(plan, opened, events, os.statvfs(target))
        # Closed here, whatever happens: a folder that is open keeps the slot mounted.
        with closing(walk(target, plan.checks.directories.__contains__)) as found:
            return plan.take(audit.changes(content, found))


class _Audit:
    """One pass over the slot and the release, both sorted by path."""

    def __init__(
        self, plan: Plan, opened: Directories, events: Events, filesystem: os.statvfs_result
    ) -> None:
        self._opened = opened
        self._events = events
        # Progress in bytes of what is there; how much of it is looked at nobody knows before.
        self._looked_at = 0
        self._total = (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize
        # Inodes of files with several names: which were taken for a file of the release, and by
        # the path of that file.
        self._claimed: set[tuple[int, int]] = set()
        self._linked: dict[bytes, tuple[int, int]] = {}
        self._checks = plan.checks

    def changes(self, content: CommitContent, found: Iterator[Found]) -> Iterator[Change]:
        """`found`: a walk that looks into a folder once the release was seen to have it."""
        ahead = next(found, None)
        for wanted in content.changes(None, self._checks):
            assert wanted.new is not None
            while ahead is not None and ahead.path < wanted.new.path:
                yield Change(_as_entry(ahead), None)
                ahead = next(found, None)
            if ahead is None or ahead.path != wanted.new.path:
                yield wanted
                continue
            change = self._compared(wanted, ahead)
            if change is not None:
                yield change
            ahead = next(found, None)
        while ahead is not None:
            yield Change(_as_entry(ahead), None)
            ahead = next(found, None)
        self._events.progress(self._total, self._total)

    def _compared(self, wanted: Change, found: Found) -> Change | None:
        """What must be done about a path that both have; None for nothing."""
        new = wanted.new
        assert new is not None
        fd, name = self._opened.parent(found.path)
        if not self._may_stay(new, found, fd, name):
            return wanted._replace(old=_as_entry(found))
        if new.kind is Kind.DIR:
            unprotect_folder(fd, name)
        if new.kind is Kind.HARDLINK or _is_described(new, found, fd, name):
            return None
        return Change(_as_entry(found), new, offset=wanted.offset)

    def _may_stay(self, new: Entry, found: Found, fd: int, name: bytes) -> bool:
        """Whether kind and content are right."""
        if new.kind is Kind.HARDLINK:
            return found.link == self._linked.get(new.target or b"")
        if found.kind is not new.kind:
            return False
        if new.kind is Kind.DIR:
            return True
        same = (
            found.status.st_nlink == new.links
            and found.link not in self._claimed
            and self._has_content(new, found.status, fd, name)
        )
        if same and new.links > 1:
            self._claimed.add(found.link)
            self._linked[new.path] = found.link
        return same

    def _has_content(self, new: Entry, status: os.stat_result, fd: int, name: bytes) -> bool:
        match new.kind:
            case Kind.LINK:
                return hashlib.sha256(os.readlink(name, dir_fd=fd)).hexdigest() == new.sha256
            case Kind.FILE:
                return status.st_size == new.size and self._hash(fd, name) == new.sha256
            case Kind.CHAR | Kind.BLOCK:
                return new.device == (os.major(status.st_rdev), os.minor(status.st_rdev))
            case _:
                return True

    def _hash(self, fd: int, name: bytes) -> str | None:
        try:
            return hash_file(fd, name, self._progress)
        except OSError:
            return None  # a sector that cannot be read may well be written

    def _progress(self, size: int) -> None:
        self._looked_at += size
        self._events.progress(min(self._looked_at, self._total), self._total)


def _is_described(new: Entry, found: Found, fd: int, name: bytes) -> bool:
    """Whether owner, mode, time and attributes are right."""
    status = found.status
    return (
        (status.st_uid, status.st_gid) == (new.uid, new.gid)
        and (new.kind is Kind.LINK or stat.S_IMODE(status.st_mode) == new.mode)
        and status.st_mtime_ns == new.mtime
        and xattrs(fd, name) == new.xattrs
    )


def _as_entry(found: Found) -> Entry:
    """Enough of a path that is there to remove it; a socket counts as a fifo."""
    return Entry(found.path, found.kind or Kind.FIFO, 0, 0, 0, 0)
