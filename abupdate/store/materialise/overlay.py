"""What was written over a slot in an overlay: found, and taken into the slot by us.

Fixups never write to a slot: they write to the upper folder of an overlay over it
(its format: kernel docs, filesystems/overlayfs). So nothing that they did not
declare can get there, and what gets there was hashed first. Nothing here follows
a symlink, and nothing else writes while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from abupdate.store.manifest import Entry, Kind, check_entry
from abupdate.store.materialise.apply import faults_named
from abupdate.store.materialise.place import make_node, make_symlink, set_metadata, write_file
from abupdate.store.materialise.plan import Plan
from abupdate.store.materialise.removal import remove
from abupdate.store.outputs import MAX_OUTPUTS, Outputs, make_outputs
from abupdate.store.paths import (
    CHUNK,
    OF_THE_FILESYSTEM,
    Directories,
    Found,
    directories,
    entry_of,
    hash_file,
    kind_of,
    open_file,
    walk,
    without_overlay,
    xattrs,
)

# What the inodes of an ext4 can say (kernel docs, ext4, inode timestamps), in nanoseconds.
_EARLIEST, _LATEST = -(1 << 31) * 10**9, ((1 << 34) - (1 << 31) - 1) * 10**9
_OPAQUE = (b"trusted.overlay.opaque", b"y")


@dataclass
class Seen:
    """What an overlay changed: `found` by path, and `refused` in words what may not be."""

    found: dict[bytes, Entry | None] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)

    @property
    def outputs(self) -> Outputs:
        """All that was found, sorted."""
        return make_outputs(self.found)


def make_upper(upper: Path, slot: Path) -> None:
    """An upper folder to begin with: nothing in it, and itself like the slot's root."""
    upper.mkdir()
    with directories(upper) as above, directories(slot) as below:
        fd, name = below.parent(b"")
        root = Found(b"", Kind.DIR, os.stat(name, dir_fd=fd))
        entry = entry_of(root, below, lambda _fd, _name: (0, ""))
        set_metadata(entry._replace(xattrs=without_overlay(entry.xattrs)), *above.parent(b""))


def look(upper: Path, slot: Path, declared: Callable[[bytes], bool], space: int) -> Seen:
    """Compare the upper folder of an overlay with the slot below it.

    What is as it was, though written again, counts as not written, and so does
    the time of a folder in which something else changed. `space`: bytes that all files
    may have, holes counted (nothing larger is read). Raises `DeviceFaultError`.
    """
    with faults_named(slot), directories(upper) as above, directories(slot) as below:
        looking = _Looking(above, below, slot, space)
        for path in walk(upper):
            looking.at(path)
            if looking.left < 0:
                looking.seen.refused[path.path] = f"is more than {space >> 20} MiB in all"
                break
            if len(looking.seen.found) > MAX_OUTPUTS:
                looking.seen.refused[path.path] = f"is one more than {MAX_OUTPUTS} paths"
                break
    seen = looking.seen
    if os.path.lexists(upper / os.fsdecode(OF_THE_FILESYSTEM)):
        seen.refused[OF_THE_FILESYSTEM] = "was written"
    for place, entry in seen.found.items():
        if place == b"" or not declared(place):
            seen.refused[place] = "was removed" if entry is None else "was written"
    return seen


class _Looking:
    def __init__(self, above: Directories, below: Directories, slot: Path, space: int) -> None:
        self.seen = Seen()
        self.left = space
        self._above, self._below, self._slot = above, below, slot
        self._new_folders: set[bytes] = set()

    def at(self, path: Found) -> None:
        """One path of the upper folder; they come sorted, folders before what is in them."""
        seen = self.seen
        hidden = path.path.rpartition(b"/")[0] in self._new_folders and path.path != b""
        was = None if hidden else self._lower(path.path)
        if path.kind is Kind.CHAR and path.status.st_rdev == 0:  # a whiteout: it was removed
            if was is not None:
                self._gone(was)
            return
        if path.kind not in (Kind.DIR, Kind.FILE, Kind.LINK, Kind.FIFO):
            seen.refused[path.path] = "is a socket or a device"
            return
        if not _EARLIEST <= path.status.st_mtime_ns <= _LATEST:
            seen.refused[path.path] = "has a time that a slot cannot hold"
            return
        if path.kind is Kind.FILE:
            self.left -= path.status.st_size
            if self.left < 0:
                return
        entry = self._entry(path, self._above)
        if path.kind is Kind.DIR:
            merged = was is not None and was.kind is Kind.DIR and not self._opaque(path.path)
            if was is not None and merged:
                before = self._entry(was, self._below)
                if entry._replace(mtime=before.mtime) != before:
                    seen.found[path.path] = entry._replace(mtime=before.mtime)
                return
            self._new_folders.add(path.path)
        if was is not None:
            if path.kind is not Kind.DIR and self._as_before(was, entry):
                return
            self._gone(was)
        try:
            check_entry(entry)
        except ValueError as error:
            seen.refused[path.path] = str(error)
        seen.found[path.path] = entry

    def _gone(self, was: Found) -> None:
        """A path of the slot was removed or replaced, with all below it."""
        if was.kind is not Kind.DIR:
            self._not_one_name(was)
            self.seen.found[was.path] = None
            return
        inside = b"%s/" % was.path
        for path in walk(self._slot, lambda folder: _on_the_way(folder, inside)):
            if path.path == was.path or path.path.startswith(inside):
                self._not_one_name(path)
                self.seen.found[path.path] = None

    def _not_one_name(self, was: Found) -> None:
        if was.kind is not Kind.DIR and was.status.st_nlink > 1:
            self.seen.refused[was.path] = "is one of several names of a file"

    def _lower(self, path: bytes) -> Found | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            fd, name = self._below.parent(path)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            return Found(path, kind_of(status), status)
        return None

    def _as_before(self, was: Found, entry: Entry) -> bool:
        same = was.kind in (Kind.FILE, Kind.LINK, Kind.FIFO)
        return same and self._entry(was, self._below) == entry

    def _opaque(self, path: bytes) -> bool:
        return _OPAQUE in xattrs(*self._above.parent(path))

    def _entry(self, path: Found, opened: Directories) -> Entry:
        def hashed(fd: int, name: bytes) -> tuple[int, str]:
            return path.status.st_size, hash_file(fd, name)

        entry = entry_of(path, opened, hashed)
        return entry._replace(xattrs=without_overlay(entry.xattrs))


def _on_the_way(folder: bytes, inside: bytes) -> bool:
    """Whether a walk must look into a folder to see what is below another."""
    return folder.startswith(inside) or inside.startswith(b"%s/" % folder)


def take(outputs: Outputs, upper: Path, slot: Path, plan: Plan) -> None:
    """Bring what was found in an upper folder into the mounted slot that `plan` made.

    Raises as `apply` does: `NoSpaceError`, `DeviceFaultError`.
    """
    with faults_named(slot), directories(upper) as above, directories(slot) as opened:
        folders = []
        for path, entry in outputs.by_path.items():
            try:
                fd, name = opened.parent(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed with the folder that it was in
            there = _kind_at(fd, name)
            if entry is not None and entry.kind is Kind.DIR:
                folders.append(entry)
                if there is Kind.DIR:
                    continue  # what it no longer holds is removed path by path
            if there is not None:
                remove(fd, name)
            if entry is not None:
                _make(entry, above, fd, name)
        # Last, since making what is in them changes them; the deepest first.
        parents = {path.rpartition(b"/")[0] for path in outputs.by_path}
        kept = sorted(parents & plan.checks.directories.keys() - outputs.by_path.keys())
        for entry in reversed([*plan.touched(kept), *folders]):
            set_metadata(entry, *opened.parent(entry.path))


def _kind_at(fd: int, name: bytes) -> Kind | None:
    try:
        return kind_of(os.stat(name, dir_fd=fd, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _make(entry: Entry, above: Directories, fd: int, name: bytes) -> None:
    match entry.kind:
        case Kind.DIR:
            os.mkdir(name, 0o700, dir_fd=fd)
        case Kind.FILE:
            with os.fdopen(open_file(*above.parent(entry.path)), "rb", buffering=0) as file:
                write_file(entry, fd, name, iter(lambda: file.read(CHUNK), b""))
        case Kind.LINK:
            source, source_name = above.parent(entry.path)
            make_symlink(entry, fd, name, [os.readlink(source_name, dir_fd=source)])
        case _:
            make_node(entry, fd, name)
