"""A folder of settings as a value: what each path is, and where the bytes of its files lie.

Names in it are relative, raw bytes; the folder itself is the empty name. Times do not take
part: what only they tell apart is the same.
"""

from __future__ import annotations

import errno
import filecmp
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

# It went, or became something else, while we looked.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODATA)
# What overlayfs notes for itself.
_OF_THE_OVERLAY = ("trusted.overlay.", "user.overlay.")
_OPAQUE = "trusted.overlay.opaque"


class Kind(StrEnum):
    """What a path is."""

    FILE = "file"
    LINK = "link"
    FOLDER = "folder"
    SPECIAL = "special file"


@dataclass(frozen=True)
class Node:
    """One path. `mode` are the twelve permission bits (0o777 for a link).

    `target`: what a link says, or what kind of special file it is. `content`: a file's
    bytes, or the file that has them.
    """

    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    target: bytes = b""
    content: bytes | Path = b""

    def same(self, other: Node | None) -> bool:
        """Whether nothing tells them apart."""
        return self is other or (
            other is not None and self.about == other.about and self.same_content(other)
        )

    @property
    def about(self) -> tuple[object, ...]:
        """All but a file's bytes."""
        return self.kind, self.mode, self.uid, self.gid, self.xattrs, self.target

    def same_content(self, other: Node) -> bool:
        """Whether both have the same bytes; those of what is no file are none."""
        if self.content == other.content:
            return True
        if self.size != other.size:
            return False
        if isinstance(self.content, Path) and isinstance(other.content, Path):
            return filecmp.cmp(self.content, other.content, shallow=False)
        return self.read() == other.read()

    @cached_property
    def size(self) -> int:
        """Of a file, in bytes."""
        content = self.content
        return content.stat().st_size if isinstance(content, Path) else len(content)

    def read(self) -> bytes:
        """A file's bytes."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


Tree = dict[bytes, Node]


def read_tree(folder: Path) -> Tree:
    """All paths of a folder, which is not followed out of it; none when it is not there."""
    return dict(_walk(folder))


def read_overlay(lower: Tree, upper: Path) -> Tree:
    """What an overlay of a folder on `lower` shows.

    The overlay has no redirected folders and no files without content: our
    initramfs mounts it with `redirect_dir=off,metacopy=off`.
    """
    found = dict(lower)
    for name, node in _walk(upper):
        there = found.get(name)
        if there is not None and there.kind is Kind.FOLDER and name:
            if node.kind is not Kind.FOLDER or _opaque(upper, name):
                for gone in below(found, name):
                    del found[gone]
        elif _is_whiteout(node):
            found.pop(name, None)
        if not _is_whiteout(node):
            found[name] = node
    return found


def below(tree: Tree, name: bytes) -> list[bytes]:
    """A path and all that is in it."""
    return [path for path in tree if path == name or path.startswith(name + b"/")]


def shown(name: bytes) -> str:
    """A path for a person to read, which cannot steer a terminal."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def parent(name: bytes) -> bytes:
    """The folder of a path."""
    return name.rpartition(b"/")[0]


def _walk(folder: Path) -> Iterator[tuple[bytes, Node]]:
    """Folders before what is in them. What goes away meanwhile was not there."""
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        path = folder / os.fsdecode(name)
        try:
            node = _node(path)
            inside = sorted(os.listdir(os.fsencode(path))) if node.kind is Kind.FOLDER else []  # noqa: PTH208 (bytes)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            continue
        yield name, node
        waiting += [name + b"/" + one if name else one for one in reversed(inside)]


def _node(path: Path) -> Node:
    found = path.lstat()
    target = b""
    content: bytes | Path = b""
    if stat.S_ISREG(found.st_mode):
        kind, content = Kind.FILE, path
    elif stat.S_ISDIR(found.st_mode):
        kind = Kind.FOLDER
    elif stat.S_ISLNK(found.st_mode):
        kind, target = Kind.LINK, os.readlink(os.fsencode(path))  # noqa: PTH115 (bytes)
    else:
        kind, target = Kind.SPECIAL, b"%o %d" % (stat.S_IFMT(found.st_mode), found.st_rdev)
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _names(path)}
    mode = stat.S_IMODE(found.st_mode)
    return Node(
        kind, mode, found.st_uid, found.st_gid, tuple(sorted(xattrs.items())), target, content
    )


def _names(path: Path) -> list[str]:
    names = os.listxattr(path, follow_symlinks=False)
    return [name for name in names if not name.startswith(_OF_THE_OVERLAY)]


def _is_whiteout(node: Node) -> bool:
    return node.kind is Kind.SPECIAL and node.target == b"%o 0" % stat.S_IFCHR


def _opaque(upper: Path, name: bytes) -> bool:
    path = upper / os.fsdecode(name)
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
