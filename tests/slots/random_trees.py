"""Random trees of all kinds of nodes, and small names that git itself would refuse."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hypothesis import strategies as st

# Few names, so that two random trees meet in the same paths with other kinds.
_NAMES = [b"a", b"b", b"a.b", b"a b", b"new\nline", b"\xff", b".git", b".abu%x", b"~", b"-"]
_KINDS = ["file", "folder", "link", "fifo", "device", "hard link"]

nodes = st.tuples(
    st.sampled_from(_KINDS),
    st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3).map(b"/".join),
    st.sampled_from([0o644, 0o755, 0o4755, 0o600, 0o1777]),
    st.sampled_from([0, 1000]),
    st.one_of(st.just(b""), st.binary(max_size=40), st.just(b"z" * 300_000)),
    st.booleans(),
    st.integers(0, 2_000_000_000_000_000_000),
)
trees = st.lists(nodes, max_size=14)

Node = tuple[str, bytes, int, int, bytes, bool, int]


def build(top: Path, tree: list[Node]) -> None:
    """Make a tree; nodes that do not fit what is there already are left out."""
    top.mkdir(exist_ok=True)
    files: list[bytes] = []
    root = os.fsencode(top)
    for kind, path, mode, owner, content, attribute, time in tree:
        full = root + b"/" + path
        parent = os.path.dirname(full)  # noqa: PTH120 - raw bytes
        if os.path.lexists(full) or not _folders(root, parent):
            continue
        if kind == "file":
            Path(os.fsdecode(full)).write_bytes(content)
            files.append(full)
        elif kind == "folder":
            os.mkdir(full)  # noqa: PTH102
        elif kind == "link":
            os.symlink(content[:30].replace(b"\0", b"0") or b"../../../etc/passwd", full)  # noqa: PTH211
        elif kind == "fifo":
            os.mkfifo(full)
        elif kind == "device":
            os.mknod(full, stat.S_IFBLK | 0o600, os.makedev(7, owner % 256))
        elif files:
            os.link(files[len(content) % len(files)], full)
            continue
        else:
            continue
        os.chown(full, owner, owner, follow_symlinks=False)
        if kind != "link":
            os.chmod(full, mode)  # noqa: PTH101
        if attribute and kind in ("file", "folder"):
            os.setxattr(full, b"user.note", content[:20])
        os.utime(full, ns=(time, time), follow_symlinks=False)


def _folders(root: bytes, path: bytes) -> bool:
    """Make the folders of a path; False when something else is in the way, or a link."""
    if path == root:
        return True
    if not _folders(root, os.path.dirname(path)):  # noqa: PTH120
        return False
    if os.path.lexists(path):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    os.mkdir(path)  # noqa: PTH102
    return True
