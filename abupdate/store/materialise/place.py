"""Putting one path of a release where it belongs, with all that is known of it.

`fd` is the open folder, `name` the last name; symlinks are never followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from abupdate.errors import NotTrustedError
from abupdate.store.manifest import DEVICES, Entry, Kind, escape
from abupdate.store.paths import by_proc, xattrs

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LARGE = 1 << 16
_NODE_TYPES = {Kind.CHAR: 0o020000, Kind.BLOCK: 0o060000, Kind.FIFO: 0o010000}


def write_file(entry: Entry, fd: int, name: bytes, chunks: Iterable[bytes]) -> None:
    """A new regular file."""
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
        if (entry.size or 0) >= _LARGE:
            # Begin to write it out, so that the disk works while we do; the sync at the end waits.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def make_symlink(entry: Entry, fd: int, name: bytes, chunks: Iterable[bytes]) -> None:
    """A new symlink."""
    target = b"".join(chunks)
    if b"\0" in target:
        raise NotTrustedError(
            f"The release has the symlink {escape(entry.path).decode()} with a NUL byte in it."
        )
    os.symlink(target, name, dir_fd=fd)
    set_metadata(entry, fd, name)


def make_node(entry: Entry, fd: int, name: bytes) -> None:
    """A new device or fifo."""
    device = os.makedev(*entry.device) if entry.kind in DEVICES and entry.device else 0
    os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, device, dir_fd=fd)
    set_metadata(entry, fd, name)


def set_metadata(entry: Entry, fd: int, name: bytes) -> None:
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
