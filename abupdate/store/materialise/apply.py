"""Commit → slot: what a plan says, done.

A plan (see `plan`, `audit`) says what to remove, make, write and mend. Paths
are walked from open directories without following links. Nothing is flushed
here: the caller syncs the whole filesystem once, reads it back, and only then
believes it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import DeviceFaultError, NoSpaceError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.store.content import MANIFEST_PATH, RELEASE_PATH, CommitContent
from abupdate.store.manifest import Entry, Kind, escape
from abupdate.store.materialise.audit import plan_for_slot
from abupdate.store.materialise.place import make_node, set_metadata, write_file
from abupdate.store.materialise.plan import Plan
from abupdate.store.materialise.removal import remove, unprotect_file
from abupdate.store.materialise.writers import write_files
from abupdate.store.paths import Directories, directories
from abupdate.store.repository import Repository

# What a path that is missing, or is there, or is of another kind leads to.
_NOT_AS_PLANNED = (
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP,
)  # fmt: skip
OWN_FOLDER = MANIFEST_PATH.rpartition(b"/")[0]


class SlotDiffersError(DeviceFaultError):
    """The slot does not hold what the plan starts from."""


@dataclass(frozen=True)
class Written:
    """What a materialise did: files written, their bytes, paths that were there, paths removed."""

    files: int
    bytes: int
    kept: int
    removed: int


def materialise(
    content: CommitContent, repository: Repository, target: Path, events: Events
) -> Written:
    """Make `target`, the mounted filesystem of a slot, equal to a commit, whatever it holds.

    Raises `NotTrustedError` when the store hands out wrong bytes,
    `NoSpaceError` and `DeviceFaultError` for what the slot's filesystem says.
    """
    with faults_named(target):
        plan = plan_for_slot(target, content, events)
    return apply(plan, repository, target, events)


def apply(plan: Plan, repository: Repository, target: Path, events: Events) -> Written:
    """Do what a plan says. Raises as `materialise` does."""
    with faults_named(target), directories(target) as opened:
        job = _Job(plan, opened, events)
        removed = job.remove()
        job.make_folders()
        job.write(repository, target)
        job.make_nodes_and_links()
        job.mend()
        job.describe_itself()
        job.finish_folders()
    return Written(len(plan.files), plan.size, plan.kept, removed)


@contextmanager
def faults_named(target: Path) -> Iterator[None]:
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
        if error.errno in _NOT_AS_PLANNED:
            raise SlotDiffersError(
                f"The slot is not as its record says{where}: {error.strerror}.",
                "Install again: all of the slot is looked at then.",
            ) from error
        raise DeviceFaultError(
            f"Writing to {target} failed{where}: {error.strerror}.",
            "Run the install again; if it happens twice, the disk is failing.",
        ) from error


class _Job:
    """One plan on one slot; the methods are its phases, in their order."""

    def __init__(self, plan: Plan, opened: Directories, events: Events) -> None:
        self._plan = plan
        self._opened = opened
        self._events = events
        self._done = self._files = 0

    def remove(self) -> int:
        """Take away what the commit has not, or has otherwise; how many paths that were."""
        removed = 0
        for path in self._plan.remove:
            fd, name = self._opened.parent(path)
            removed += remove(fd, name)
        fd, _ = self._opened.parent(b"")
        with suppress(FileNotFoundError):
            remove(fd, OWN_FOLDER)
        return removed

    def make_folders(self) -> None:
        """New folders, for now open to nobody else."""
        for entry in self._plan.folders:
            fd, name = self._opened.parent(entry.path)
            os.mkdir(name, 0o700, dir_fd=fd)

    def write(self, repository: Repository, target: Path) -> None:
        """Files and symlinks."""
        total = self._plan.size

        def progress(size: int, files: int) -> None:
            half = self._done < total // 2 <= self._done + size
            self._done += size
            self._files += files
            self._events.progress(
                self._done, total, files=self._files, files_total=len(self._plan.files)
            )
            if half:
                failpoint("materialise-half")

        self._opened.forget()  # a writer opens its own, and none must hold a folder for us
        write_files(self._plan.files, repository, target, progress)

    def make_nodes_and_links(self) -> None:
        """Devices and fifos; hard links after the files that they point to."""
        for entry in self._plan.nodes:
            make_node(entry, *self._opened.parent(entry.path))
        for entry in self._plan.links:
            assert entry.target is not None
            source, source_name = self._opened.parent(entry.target)
            source = os.dup(source)  # `parent` closes what it no longer needs
            try:
                fd, name = self._opened.parent(entry.path)
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(source)

    def mend(self) -> None:
        """Owner, mode, attributes and time of what stays."""
        for entry in self._plan.mend:
            fd, name = self._opened.parent(entry.path)
            if entry.kind is Kind.FILE:
                unprotect_file(fd, name)
            set_metadata(entry, fd, name)
        for entry in self._plan.retime:
            fd, name = self._opened.parent(entry.path)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)

    def describe_itself(self) -> None:
        """`.abupdate/` in the slot: what this slot is, without asking the store."""
        date = self._plan.date * 1_000_000_000
        fd, _ = self._opened.parent(b"")
        os.mkdir(OWN_FOLDER, 0o755, dir_fd=fd)
        for path, text in (
            (MANIFEST_PATH, self._plan.manifest),
            (RELEASE_PATH, self._plan.release_toml),
        ):
            fd, name = self._opened.parent(path)
            write_file(own_file(path, date), fd, name, [text])
        fd, name = self._opened.parent(OWN_FOLDER)
        set_metadata(own_folder(date), fd, name)

    def finish_folders(self) -> None:
        """Owner, mode and times of folders: last, since making what is in them changes them."""
        for entry in self._plan.finish:
            fd, name = self._opened.parent(entry.path)
            set_metadata(entry, fd, name)


def own_folder(date: int) -> Entry:
    """The slot's own `.abupdate`."""
    return Entry(OWN_FOLDER, Kind.DIR, 0o755, 0, 0, date)


def own_file(path: bytes, date: int) -> Entry:
    """A file in the slot's own `.abupdate`; size and hash are set by who compares it."""
    return Entry(path, Kind.FILE, 0o644, 0, 0, date)
