"""Names that git refuses in a tree, and how they are stored.

A component is looked at in its parts between backslashes, which git takes for
folders of Windows (most names have one part). A part is stored as `.abu%` +
itself when it begins with `.abu%`, or when it, after dropping what HFS+ ignores
and lower-casing, begins with `.git` or looks like NTFS's short name of it
(`gi…~1`): git's own fsck refuses those, and it is never relaxed. `.gitignore`,
`.gitkeep` and `.git-fixups` stay as they are.
"""

from __future__ import annotations

import re

PREFIX = b".abu%"
_PLAIN = (b".gitignore", b".gitkeep", b".git-fixups")

# Code points that HFS+ ignores in a name, as UTF-8 (git: utf8.c, next_hfs_char).
_IGNORED = re.compile(
    b"|".join(
        re.escape(chr(code).encode())
        for code in (*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF)
    )
)
_AT_START = re.compile(rb"(?<![^/\\])" + re.escape(PREFIX))
# What every name has that is stored otherwise, or was; others may have it too.
_SPECIAL = re.compile(rb"[~\x80-\xff]|\.(?:abu%|git)", re.IGNORECASE)
_SHORT_NAME = re.compile(rb"gi.*~[0-9]", re.DOTALL)


def stored(path: bytes) -> bytes:
    """The path in the tree of a true path."""
    return b"/".join(_stored_component(part) for part in path.split(b"/"))


def true(path: bytes) -> bytes:
    """The true path of one in a tree. Raises `ValueError` when nothing is stored that way."""
    if not _SPECIAL.search(path):
        return path  # as nearly all are
    found = _AT_START.sub(b"", path)
    if stored(found) != path:
        raise ValueError(f"the tree has a name that abupdate does not write: {path[:200]!r}")
    return found


def _stored_component(name: bytes) -> bytes:
    if name in _PLAIN:
        return name
    return b"\\".join(PREFIX + part if _refused(part) else part for part in name.split(b"\\"))


def _refused(part: bytes) -> bool:
    folded = _IGNORED.sub(b"", part).lower()
    return part.startswith(PREFIX) or folded.startswith(b".git") or bool(_SHORT_NAME.match(folded))
