"""What the owner changed, as a patch that `git apply` and `patch -p1` take.

Owners and xattrs, which neither has words for, are said in lines that both pass over.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from abupdate.etc.tree import Kind, Node, Tree
from abupdate.run import run

_SECONDS = 60.0
_DIFFERENT = 1
_NOBODY = Node(Kind.FILE, uid=0, gid=0)
_TYPES = {Kind.FILE: stat.S_IFREG, Kind.LINK: stat.S_IFLNK}


def patch(old: Tree, new: Tree, names: list[bytes], prefix: bytes) -> Iterator[bytes]:
    """The changes of these paths, a piece each. `prefix`: where the trees are in the root."""
    with tempfile.TemporaryDirectory(prefix="abupdate-") as folder:
        for name in names:
            yield _one(prefix + b"/" + name, old.get(name), new.get(name), Path(folder))


def _one(path: bytes, old: Node | None, new: Node | None, folder: Path) -> bytes:
    before, after = (node if node is not None and node.kind in _TYPES else None
                     for node in (old, new))  # fmt: skip
    quoted = _quoted(path)
    lines = _comments(quoted, old, new)
    if (before is None and after is None) or (before and after and before.kind is not after.kind):
        shown = (node.kind if node is not None else "nothing" for node in (old, new))
        lines.append(b"# %s: %s" % (quoted, " is now ".join(shown).encode()))
        return b"".join(line + b"\n" for line in lines)
    left, right = _quoted(b"a/" + path), _quoted(b"b/" + path)
    lines.append(b"diff --git %s %s" % (left, right))
    if before is None and after is not None:
        lines.append(b"new file mode %o" % _mode(after))
    elif after is None and before is not None:
        lines.append(b"deleted file mode %o" % _mode(before))
    elif before is not None and after is not None and _mode(before) != _mode(after):
        lines += [b"old mode %o" % _mode(before), b"new mode %o" % _mode(after)]
    hunks = _difference(before, after, left, right, folder)
    if hunks is None:
        return b"# %s: no text, and not in this patch\n" % quoted
    return b"".join(line + b"\n" for line in lines) + hunks


def _difference(
    before: Node | None, after: Node | None, left: bytes, right: bytes, folder: Path
) -> bytes | None:
    files = []
    for number, node in enumerate((before, after)):
        files.append(folder / str(number))
        content = b"" if node is None else node.target or node.read()
        files[number].write_bytes(content)
    done = run(["diff", "--unified", *files], timeout=_SECONDS, ok=(0, _DIFFERENT, 2))
    if not done.stdout.startswith(b"--- "):
        return None if done.code else b""
    hunks = done.stdout.split(b"\n", 2)[2]
    names = (b"/dev/null" if node is None else name
             for node, name in ((before, left), (after, right)))  # fmt: skip
    return b"--- %s\n+++ %s\n" % tuple(names) + hunks


def _comments(path: bytes, old: Node | None, new: Node | None) -> list[bytes]:
    if new is None:
        return []
    was, found = old or _NOBODY, []
    if (was.uid, was.gid) != (new.uid, new.gid):
        found.append(b"# %s: owner %d:%d" % (path, new.uid, new.gid))
    if was.xattrs != new.xattrs:
        names = ", ".join(name for name, _ in new.xattrs) or "none"
        found.append(b"# %s: xattrs: %s" % (path, names.encode()))
    plain = new.mode in (0o644, 0o755) if new.kind is Kind.FILE else new.kind is Kind.LINK
    if new.mode != (old.mode if old is not None else None) and not plain:
        found.append(b"# %s: mode %o" % (path, new.mode))
    return found


def _mode(node: Node) -> int:
    """As git has them: 120000, 100755 or 100644."""
    if node.kind is Kind.LINK:
        return _TYPES[node.kind]
    return _TYPES[node.kind] | (0o755 if node.mode & 0o100 else 0o644)


def _quoted(name: bytes) -> bytes:
    """In quotes, as git writes names that hold more than letters (core.quotePath)."""
    if all(0x20 < byte < 0x7F and byte not in b'"\\' for byte in name):
        return name
    return (
        b'"'
        + b"".join(
            bytes([byte]) if 0x20 <= byte < 0x7F and byte not in b'"\\' else b"\\%03o" % byte
            for byte in name
        )
        + b'"'
    )
