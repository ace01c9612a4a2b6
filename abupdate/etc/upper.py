"""Writes an overlay's upper folder: what makes the release's /etc into another tree.

What an overlay knows: a path that lies in the upper folder takes the place of the release's,
a folder joins it, and a device 0/0 of characters hides it (Linux, overlayfs.rst).
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from abupdate.etc.tree import Kind, Node, Tree, parent

_HIDES = stat.S_IFCHR
# xattrs that a path has because somebody gave them to it.
_OURS = ("system.posix_acl_", "security.capability", "user.")


def write_upper(tree: Tree, lower: Tree, upper: Path) -> None:
    """Fill the empty folder `upper` so that an overlay on `lower` shows `tree`."""
    written = {b""}
    describe(upper, tree.get(b"", lower.get(b"", Node(Kind.FOLDER))))
    for name in sorted(tree.keys() | lower.keys()):
        node = tree.get(name)
        if not name or (node is not None and node.same(lower.get(name))):
            continue
        if node is None and parent(name) not in tree:
            continue  # with its folder
        if node is None and tree[parent(name)].kind is not Kind.FOLDER:
            continue  # something else lies there
        _write_folders(parent(name), tree, upper, written)
        written.add(name)
        write_node(upper / os.fsdecode(name), node)


def _write_folders(name: bytes, tree: Tree, upper: Path, written: set[bytes]) -> None:
    if name in written:
        return
    _write_folders(parent(name), tree, upper, written)
    written.add(name)
    write_node(upper / os.fsdecode(name), tree[name])


def write_node(path: Path, node: Node | None) -> None:
    """Make a path that is not there yet; without a node, what hides it in an overlay."""
    if node is None:
        os.mknod(path, _HIDES, os.makedev(0, 0))
        return
    match node.kind:
        case Kind.FOLDER:
            path.mkdir(mode=0o700)
        case Kind.LINK:
            os.symlink(node.target, os.fsencode(path))  # noqa: PTH211 (bytes)
        case Kind.SPECIAL:
            kind, device = node.target.split()
            os.mknod(path, int(kind, 8), int(device))
        case Kind.FILE:
            _write_content(path, node)
    describe(path, node)


def _write_content(path: Path, node: Node) -> None:
    """Nobody else can read it before it has its own mode."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as out:  # noqa: PTH123 (a descriptor)
        if isinstance(node.content, Path):
            with node.content.open("rb") as source:
                shutil.copyfileobj(source, out)
        else:
            out.write(node.content)


def describe(path: Path, node: Node) -> None:
    """Give a path owner, mode, xattrs and times."""
    kept = {name for name, _ in node.xattrs}
    for name in os.listxattr(path, follow_symlinks=False):
        if name not in kept and name.startswith(_OURS):
            os.removexattr(path, name, follow_symlinks=False)
    os.chown(path, node.uid, node.gid, follow_symlinks=False)
    if node.kind is not Kind.LINK:
        path.chmod(node.mode)
    for name, value in node.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)
    if isinstance(node.content, Path):
        source = node.content.lstat()
        times = (source.st_atime_ns, source.st_mtime_ns)
        os.utime(path, ns=times, follow_symlinks=False)
