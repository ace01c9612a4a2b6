"""The manifest: what git cannot hold of each path (docs/manifest.md).

Text, one line a path, sorted by the raw bytes of the path; parse and print are
exact inverses. Everything that is read is checked: order, parents, link
targets, sizes of lines and counts, so that a manifest that parses describes one
tree that lies within its root.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from abupdate.errors import NotTrustedError

HEADER = b"abupdate-manifest 1\n"
MAX_LINE = 1 << 20
MAX_ENTRIES = 4_000_000
MAX_COMPONENT = 255
MAX_PATH = 4095
MAX_DEPTH = 256
MAX_XATTR = 65536
# What a root filesystem may not have: abupdate's own names, and what ext4 makes for itself.
RESERVED = (b".abupdate", b".git-fixups", b"lost+found")
_MAX_ID = (1 << 32) - 2
_MAX_SIZE = 1 << 62
_MAX_MTIME = 1 << 64  # the year 2554; ext4 ends in 2446


class Kind(StrEnum):
    """What a path is."""

    DIR = "d"
    FILE = "f"
    LINK = "l"
    CHAR = "c"
    BLOCK = "b"
    FIFO = "p"
    HARDLINK = "h"


DEVICES = (Kind.CHAR, Kind.BLOCK)
WITH_CONTENT = (Kind.FILE, Kind.LINK)


@dataclass(frozen=True, slots=True)
class Entry:
    """One path. `path` is relative, raw bytes, empty for the root.

    `mode` are the twelve permission bits, `mtime` nanoseconds since the epoch
    (may be negative). `size` and `sha256` belong to files and symlinks (the
    target's text), `device` to device nodes, `target` (an earlier path) to hard
    links. `xattrs` are sorted by name.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int | None = None
    sha256: str | None = None
    device: tuple[int, int] | None = None
    target: bytes | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def format_entry(entry: Entry) -> bytes:
    """The line of an entry, with its newline."""
    fields = [
        escape(entry.path) or b".",
        entry.kind.encode(),
        b"%04o" % entry.mode,
        b"%d:%d" % (entry.uid, entry.gid),
        b"%d" % entry.mtime,
    ]
    if entry.device is not None:
        fields.append(b"dev=%d:%d" % entry.device)
    if entry.target is not None:
        fields.append(b"to=" + escape(entry.target))
    if entry.size is not None:
        fields.append(b"size=%d" % entry.size)
    if entry.sha256 is not None:
        fields.append(b"sha256=" + entry.sha256.encode())
    for name, value in entry.xattrs:
        fields.append(b"x." + escape(name).replace(b"=", b"%3d") + b"=" + escape(value))
    return b" ".join(fields) + b"\n"


def read(stream: IO[bytes]) -> Iterator[Entry]:
    """Entries of a manifest, checked as they come. Raises `NotTrustedError` with the line."""
    if stream.readline(len(HEADER) + 1) != HEADER:
        raise NotTrustedError(
            f"A manifest begins with '{HEADER.decode().strip()}'; this one does not.",
            "It may come from a newer abupdate: update in steps.",
        )
    checks = _Checks()
    number = 1
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        try:
            entry = parse_line(line)
            checks.take(entry)
        except ValueError as error:
            raise NotTrustedError(f"Manifest, line {number}: {error}.") from error
        yield entry
    if number == 1:
        raise NotTrustedError("The manifest is empty: not even the root is in it.")


def parse_line(line: bytes) -> Entry:
    """One line, with its newline. Raises `ValueError` when it is not exactly as printed."""
    if not line.endswith(b"\n"):
        raise ValueError("too long or cut off")
    words = line[:-1].split(b" ")
    if len(words) < 5:
        raise ValueError("five fields or more expected")
    fields = dict(_pairs(words[5:]))
    xattrs = tuple(
        (unescape(name[2:]), unescape(value))
        for name, value in fields.items()
        if name.startswith(b"x.")
    )
    uid, _, gid = words[3].partition(b":")
    entry = Entry(
        path=b"" if words[0] == b"." else unescape(words[0]),
        kind=Kind(words[1].decode("ascii", "replace")),
        mode=int(words[2], 8),
        uid=_number(uid, _MAX_ID),
        gid=_number(gid, _MAX_ID),
        mtime=int(words[4]),
        size=_number(fields[b"size"], _MAX_SIZE) if b"size" in fields else None,
        sha256=_sha256(fields[b"sha256"]) if b"sha256" in fields else None,
        device=_device(fields[b"dev"]) if b"dev" in fields else None,
        target=unescape(fields[b"to"]) if b"to" in fields else None,
        xattrs=xattrs,
    )
    check_entry(entry)
    # Printing again catches every second spelling: leading zeros, order, doubles, unknown fields.
    if format_entry(entry) != line:
        raise ValueError("not written the one way that this format allows")
    return entry


def check_tree(entries: Iterable[Entry]) -> None:
    """Raise `ValueError` with the path unless these entries, in this order, are a manifest."""
    checks = _Checks()
    for entry in entries:
        try:
            check_entry(entry)
            checks.take(entry)
        except ValueError as error:
            raise ValueError(f"{escape(entry.path).decode() or '.'}: {error}") from error


def tree_digest(entries: Iterable[Entry]) -> str:
    """SHA-256 of everything but the times: equal for releases that are the same."""
    digest = hashlib.sha256(HEADER)
    for entry in entries:
        words = format_entry(entry).split(b" ")
        digest.update(b" ".join(words[:4] + words[5:]))
    return digest.hexdigest()


# What may stand in a line as it is: printable ASCII without space and percent.
_PLAIN = bytes(code for code in range(0x21, 0x7F) if code != ord("%"))
_ESCAPES = [bytes([code]) if code in _PLAIN else b"%%%02x" % code for code in range(256)]
_NEEDS_ESCAPE = re.compile(b"[^" + re.escape(_PLAIN) + b"]")
_ESCAPED = re.compile(rb"%([0-9a-f]{2})")


def escape(raw: bytes) -> bytes:
    """Percent-escape what could end a field or hide in a terminal."""
    return _NEEDS_ESCAPE.sub(lambda match: _ESCAPES[match[0][0]], raw)


def unescape(text: bytes) -> bytes:
    """The inverse of `escape`."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text)


class _Checks:
    """What spans lines: order, parents, hard-link targets."""

    def __init__(self) -> None:
        self._last: bytes | None = None
        self._count = 0
        self._directories: set[bytes] = set()
        self._files: dict[bytes, Entry] = {}

    def take(self, entry: Entry) -> None:
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} paths")
        if self._last is None:
            if entry.path != b"" or entry.kind is not Kind.DIR:
                raise ValueError("the first path must be the root, '.', a directory")
        elif entry.path <= self._last:
            raise ValueError("paths must be sorted and be there once")
        elif entry.path.rpartition(b"/")[0] not in self._directories:
            raise ValueError("the path's parent is not a directory of the manifest")
        self._last = entry.path
        if entry.kind is Kind.DIR:
            self._directories.add(entry.path)
        elif entry.kind is Kind.FILE:
            self._files[entry.path] = entry
        elif entry.kind is Kind.HARDLINK:
            self._check_hard_link(entry)

    def _check_hard_link(self, entry: Entry) -> None:
        first = self._files.get(entry.target or b"")
        if first is None:
            raise ValueError("a hard link must point to an earlier file")
        same = (first.mode, first.uid, first.gid, first.mtime, first.xattrs)
        if (entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs) != same:
            raise ValueError("a hard link must have the owner, mode, time and xattrs of its file")


def check_entry(entry: Entry) -> None:
    """Raise `ValueError` unless an entry, by itself, may stand in a manifest."""
    check_path(entry.path)
    if not 0 <= entry.mode <= 0o7777:
        raise ValueError("the mode has more than twelve bits")
    if abs(entry.mtime) > _MAX_MTIME:
        raise ValueError("the time is out of range")
    content = entry.size is not None and entry.sha256 is not None
    if (entry.size is not None or entry.sha256 is not None) and not content:
        raise ValueError("size and sha256 come together")
    if content != (entry.kind in WITH_CONTENT):
        raise ValueError("files and symlinks have size and sha256, others have not")
    if entry.kind is Kind.LINK and not 0 < (entry.size or 0) <= MAX_PATH:
        raise ValueError(f"a symlink's target must have 1 to {MAX_PATH} bytes")
    if (entry.device is not None) != (entry.kind in DEVICES):
        raise ValueError("device nodes have dev=, others have not")
    if (entry.target is not None) != (entry.kind is Kind.HARDLINK):
        raise ValueError("hard links have to=, others have not")
    if list(entry.xattrs) != sorted(dict(entry.xattrs).items()):
        raise ValueError("xattrs must be sorted and be there once")
    if any(not name or b"\0" in name or len(name) > 255 for name, _ in entry.xattrs):
        raise ValueError("an xattr's name must have 1 to 255 bytes")
    if any(len(value) > MAX_XATTR for _, value in entry.xattrs):
        raise ValueError(f"an xattr's value may have {MAX_XATTR} bytes")


def check_path(path: bytes) -> None:
    """Raise `ValueError` unless a path stays below the root and a filesystem can hold it."""
    if path == b"":
        return
    if len(path) > MAX_PATH:
        raise ValueError(f"a path may have {MAX_PATH} bytes")
    if b"\0" in path:
        raise ValueError("a path must not have a NUL byte")
    components = path.split(b"/")
    if components[0] in RESERVED:
        raise ValueError(f"/{components[0].decode()} is reserved")
    if len(components) > MAX_DEPTH:
        raise ValueError(f"a path may have {MAX_DEPTH} components")
    for component in components:
        if component in (b"", b".", b".."):
            raise ValueError("a path must not have empty, '.' or '..' components")
        if len(component) > MAX_COMPONENT:
            raise ValueError(f"a component may have {MAX_COMPONENT} bytes")


def _pairs(words: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for word in words:
        name, equals, value = word.partition(b"=")
        if not equals:
            raise ValueError("fields after the time are name=value")
        yield name, value


def _number(text: bytes, most: int) -> int:
    value = int(text)
    if not 0 <= value <= most:
        raise ValueError("a number is out of range")
    return value


def _sha256(text: bytes) -> str:
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        raise ValueError("sha256 must be 64 hexadecimal digits")
    return text.decode()


def _device(text: bytes) -> tuple[int, int]:
    major, _, minor = text.partition(b":")
    return _number(major, 0xFFFFF), _number(minor, 0xFFFFF)
