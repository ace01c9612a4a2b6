"""Paths of a root filesystem as they really are: kind, owner, mode, times, xattrs, content.

Every step is relative to an open directory and follows no symlink, so that a
tree with hostile links is read and written within its root. Nodes are never
opened, except for regular files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.store.manifest import MAX_DEPTH, Entry, Kind

CHUNK = 256 * 1024
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME

# What the filesystem makes for itself at its root.
OF_THE_FILESYSTEM = b"lost+found"


class Directories:
    """Open directories below a root; the last way down is kept open."""

    def __init__(self, root: Path) -> None:
        self._fds = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._names: list[bytes] = []

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The open parent of a path, and the path's last name ('.' for the root)."""
        *names, last = path.split(b"/")
        common = 0
        while common < min(len(names), len(self._names)) and names[common] == self._names[common]:
            common += 1
        self._back_to(common)
        for name in names[common:]:
            self._fds.append(os.open(name, DIRECTORY, dir_fd=self._fds[-1]))
            self._names.append(name)
        return self._fds[-1], last or b"."

    def _back_to(self, depth: int) -> None:
        while len(self._names) > depth:
            os.close(self._fds.pop())
            self._names.pop()

    def forget(self) -> None:
        """Close all but the root: directories may have been replaced."""
        self._back_to(0)

    def close(self) -> None:
        """Close all."""
        self._back_to(0)
        os.close(self._fds.pop())


@contextmanager
def directories(root: Path) -> Iterator[Directories]:
    """`Directories` below `root` for the time of the block."""
    opened = Directories(root)
    try:
        yield opened
    finally:
        opened.close()


@dataclass(frozen=True, slots=True)
class Found:
    """One path that exists. `link` identifies the file behind hard links."""

    path: bytes
    kind: Kind | None
    status: os.stat_result

    @property
    def link(self) -> tuple[int, int]:
        """Device and inode."""
        return self.status.st_dev, self.status.st_ino


_KINDS = {
    stat.S_IFDIR: Kind.DIR,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


def kind_of(status: os.stat_result) -> Kind | None:
    """The kind of a path by its status, None for a socket."""
    return _KINDS.get(stat.S_IFMT(status.st_mode))


def _raise(path: bytes, error: OSError) -> None:
    raise error


def walk(
    root: Path,
    into: Callable[[bytes], bool] = lambda path: True,
    unreadable: Callable[[bytes, OSError], None] = _raise,
) -> Generator[Found, None, None]:
    """All paths below a root (itself first), sorted by raw path; `kind` is None for a socket.

    `into` says which folders are looked into, when their turn comes; none deeper
    than a manifest can say is. `unreadable` hears of a path that the disk cannot
    read (default: raise). The filesystem's own `lost+found` at the root is left out.
    """
    with directories(root) as opened:
        fd, name = opened.parent(b"")
        top = os.stat(name, dir_fd=fd)
        yield Found(b"", Kind.DIR, top)
        yield from _Walker(top.st_dev, into, unreadable).look_into(fd, b"", 1)


@dataclass(frozen=True)
class _Walker:
    device: int
    into: Callable[[bytes], bool]
    unreadable: Callable[[bytes, OSError], None]

    def look_into(self, fd: int, above: bytes, depth: int) -> Iterator[Found]:
        """What is in an open folder; `above` is its path with a slash."""
        try:
            children = self._children(fd, above)
        except OSError as error:
            self.unreadable(above[:-1], error)
            return
        for key, found in children:
            if not key.endswith(b"/"):
                yield found
            elif depth <= MAX_DEPTH and self.into(found.path):
                try:
                    inner = os.open(key[:-1], DIRECTORY, dir_fd=fd)
                except OSError as error:
                    self.unreadable(found.path, error)
                    continue
                try:
                    yield from self.look_into(inner, above + key, depth + 1)
                finally:
                    os.close(inner)

    def _children(self, fd: int, above: bytes) -> list[tuple[bytes, Found]]:
        """Paths by name, and folders once more where what they hold belongs: `a`, `a-b`, `a/`."""
        children = []
        for name in map(os.fsencode, os.listdir(fd)):
            path = above + name
            if path == OF_THE_FILESYSTEM:
                continue
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                self.unreadable(path, error)
                continue
            found = Found(path, kind_of(status), status)
            children.append((name, found))
            # Another filesystem mounted inside is not part of this one.
            if found.kind is Kind.DIR and status.st_dev == self.device:
                children.append((name + b"/", found))
        return sorted(children, key=lambda child: child[0])


def hash_file(fd: int, name: bytes, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a regular file, in hexadecimal."""
    digest = hashlib.sha256()
    with os.fdopen(open_file(fd, name), "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def open_file(fd: int, name: bytes) -> int:
    """Open a regular file for reading, without changing its access time where that is allowed."""
    try:
        return os.open(name, FILE, dir_fd=fd)
    except PermissionError:
        return os.open(name, FILE & ~os.O_NOATIME, dir_fd=fd)


def xattrs(fd: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """All extended attributes of a path itself, sorted by name."""
    path = by_proc(fd, name)
    names = (os.fsencode(item) for item in os.listxattr(path, follow_symlinks=False))
    return tuple((item, os.getxattr(path, item, follow_symlinks=False)) for item in sorted(names))


def without_overlay(found: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Sorted xattrs without an overlay's own: those describe a mount and not the file."""
    return tuple(sorted(item for item in found if not item[0].startswith(b"trusted.overlay.")))


def by_proc(fd: int, name: bytes) -> bytes:
    """A path for calls that know no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (fd, name)


def entry_of(
    found: Found,
    opened: Directories,
    hashed: Callable[[int, bytes], tuple[int, str]],
    first: bytes | None = None,
) -> Entry:
    """The manifest's line for a path that exists.

    `hashed` gives size and SHA-256 of a regular file; `first` is the earlier
    path when this is another hard link to it.
    """
    assert found.kind is not None
    fd, name = opened.parent(found.path)
    kind, status = found.kind, found.status
    size: int | None = None
    sha256: str | None = None
    if first is not None:
        kind = Kind.HARDLINK
    elif kind is Kind.FILE:
        size, sha256 = hashed(fd, name)
    elif kind is Kind.LINK:
        target = os.readlink(name, dir_fd=fd)
        size, sha256 = len(target), hashlib.sha256(target).hexdigest()
    device = None
    if kind in (Kind.CHAR, Kind.BLOCK):
        device = os.major(status.st_rdev), os.minor(status.st_rdev)
    return Entry(
        path=found.path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode) if kind is not Kind.LINK else 0o777,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=size,
        sha256=sha256,
        device=device,
        target=first,
        xattrs=xattrs(fd, name),
    )
