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
from enum import StrEnum
from typing import NamedTuple

from abupdate.errors import NotTrustedError

HEADER = b"abupdate-manifest 1\n"
MAX_LINE = 1 << 20
MAX_ENTRIES = 4_000_000
MAX_COMPONENT = 255
MAX_PATH = 4095
MAX_DEPTH = 256
MAX_XATTR = 65536
# What a root filesystem may not have: abupdate's own name, and what ext4 makes for itself.
RESERVED = (b".abupdate", b"lost+found")
MAX_LINKS = 65000  # ext4's own limit
_MOST_SHOWN = 200
_MAX_ID = (1 << 32) - 2
_MAX_DEVICE = 0xFFFFF
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


_FOLDER, _HARD_LINK = ord(Kind.DIR), ord(Kind.HARDLINK)
DEVICES = (Kind.CHAR, Kind.BLOCK)
WITH_CONTENT = (Kind.FILE, Kind.LINK)


class Entry(NamedTuple):
    """One path. `path` is relative, raw bytes, empty for the root.

    `mode` are the twelve permission bits, `mtime` nanoseconds since the epoch
    (may be negative). `size` and `sha256` belong to files and symlinks (the
    target's text), `links` (its names in all) to files, `device` to device
    nodes, `target` (an earlier path) to hard links. `xattrs` are sorted by name.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int | None = None
    sha256: str | None = None
    links: int = 1
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
    if entry.links != 1:
        fields.append(b"links=%d" % entry.links)
    if entry.size is not None:
        fields.append(b"size=%d" % entry.size)
    if entry.sha256 is not None:
        fields.append(b"sha256=" + entry.sha256.encode())
    for name, value in entry.xattrs:
        fields.append(b"x." + escape(name).replace(b"=", b"%3d") + b"=" + escape(value))
    return b" ".join(fields) + b"\n"


def read(raw: bytes) -> Iterator[Entry]:
    """Entries of a manifest, checked as they come. Raises `NotTrustedError` with the line."""
    checks, offset, number = Checks(), check_header(raw), 1
    try:
        while offset < len(raw):
            number += 1
            line = line_at(raw, offset)
            entry = parse_line(line)
            checks.take(entry, offset)
            offset += len(line)
            yield entry
        checks.end()
    except ValueError as error:
        raise NotTrustedError(
            f"Manifest, line {number}: {error}.",
            "Make releases with `abupdate publish commit`.",
        ) from error


def check_header(raw: bytes) -> int:
    """Where the first line after the header begins. Raises `NotTrustedError`."""
    if not raw.startswith(HEADER):
        raise NotTrustedError(
            f"A manifest begins with '{HEADER.decode().strip()}'; this one does not.",
            "It may come from a newer abupdate: update in steps.",
        )
    return len(HEADER)


def line_at(raw: bytes, offset: int) -> bytes:
    """The line that begins at an offset, with its newline where it has one."""
    return raw[offset : raw.find(b"\n", offset) + 1 or len(raw)]


def path_of(line: bytes) -> bytes:
    """The path of a line."""
    path = line[: line.find(b" ")]
    if path == b".":
        return b""
    return unescape(path) if b"%" in path else path


# One way to write each number. What `-?` and the widths still allow is refused by `check_entry`.
_NUMBER = rb"(0|[1-9][0-9]{0,18})"
_LINE = re.compile(
    rb"([!-~]++) ([dflcbph]) ([0-7]{4}) %(n)s:%(n)s (0|-?[1-9][0-9]{0,19})"
    rb"(?: dev=%(n)s:%(n)s)?(?: to=([!-~]++))?(?: links=%(n)s)?"
    rb"(?: size=%(n)s sha256=([0-9a-f]{64}))?((?: x\.[!-~]++)*)\n" % {b"n": _NUMBER}
)
_KINDS = {kind.encode(): kind for kind in Kind}


def parse_line(line: bytes) -> Entry:
    """One line, with its newline. Raises `ValueError` when it is not exactly as printed."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("not written the one way that this format allows, or cut off")
    path, kind, mode, uid, gid, mtime, major, minor, target, links, size, sha256, rest = (
        match.groups()
    )
    entry = Entry(
        b"" if path == b"." else _unescaped(path),
        _KINDS[kind],
        int(mode, 8),
        int(uid),
        int(gid),
        int(mtime),
        None if size is None else int(size),
        None if sha256 is None else sha256.decode(),
        1 if links is None else int(links),
        None if major is None else (int(major), int(minor)),
        None if target is None else _unescaped(target),
        _xattrs(rest) if rest else (),
    )
    if links == b"1":
        raise ValueError("one link is not written down")
    check_entry(entry)
    return entry


def _unescaped(text: bytes) -> bytes:
    if b"%" not in text:
        return text
    raw = unescape(text)
    if escape(raw) != text:
        raise ValueError("escaped in a second way")
    return raw


def _xattrs(text: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for word in text[1:].split(b" "):
        name, equals, value = word[2:].partition(b"=")
        if not equals:
            raise ValueError("an attribute is written x.NAME=VALUE")
        raw = unescape(name)
        if escape(raw).replace(b"=", b"%3d") != name:
            raise ValueError("escaped in a second way")
        found.append((raw, _unescaped(value)))
    return tuple(found)


def check_tree(entries: Iterable[Entry]) -> None:
    """Raise `ValueError` with the path unless these entries, in this order, are a manifest."""
    checks = Checks()
    for entry in entries:
        try:
            check_entry(entry)
            checks.take(entry)
        except ValueError as error:
            raise ValueError(f"{escape(entry.path).decode() or '.'}: {error}") from error
    checks.end()


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


def shown(path: bytes) -> str:
    """A path for a person to read: escaped, and cut where nobody reads on."""
    text = escape(path[:_MOST_SHOWN]).decode()
    return text if len(path) <= _MOST_SHOWN else f"{text}…"


def unescape(text: bytes) -> bytes:
    """The inverse of `escape`."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text)


class Checks:
    """What spans lines: order, parents, groups of hard links.

    `directories` has the offset of the line of each folder that was taken.
    """

    def __init__(self) -> None:
        self.directories: dict[bytes, int] = {}
        self._last: bytes | None = None
        self._count = 0
        self._linked: dict[bytes, Entry] = {}
        self._missing: dict[bytes, int] = {}

    def take(self, entry: Entry, offset: int = 0) -> None:
        """The next path. Raises `ValueError`."""
        self._take(entry.path, entry.kind is Kind.DIR, offset)
        if entry.links > 1:
            self._linked[entry.path] = entry
            self._missing[entry.path] = entry.links - 1
        elif entry.kind is Kind.HARDLINK:
            self._check_hard_link(entry)

    def take_line(self, line: bytes, offset: int) -> bool:
        """The next path, of a line that another manifest has as well, without parsing it.

        False, and nothing is done, for a file with several names and for those names.
        """
        space = line.find(b" ")
        kind = line[space + 1]
        if kind == _HARD_LINK or b" links=" in line:
            return False
        path = line[:space]
        if b"%" in path or path == b".":
            path = path_of(line)
        self._take(path, kind == _FOLDER, offset)
        return True

    def _take(self, path: bytes, folder: bool, offset: int) -> None:
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} paths")
        if self._last is None:
            if path != b"" or not folder:
                raise ValueError("the first path must be the root, '.', a directory")
        elif path <= self._last:
            raise ValueError("paths must be sorted and be there once")
        elif path.rpartition(b"/")[0] not in self.directories:
            raise ValueError("the path's parent is not a directory of the manifest")
        self._last = path
        if folder:
            self.directories[path] = offset

    def end(self) -> None:
        """After the last path."""
        if self._last is None:
            raise ValueError("not even the root is in it")
        if self._missing:
            path = next(iter(self._missing))
            raise ValueError(f"not all hard links of {escape(path).decode()} are there")

    def _check_hard_link(self, entry: Entry) -> None:
        path = entry.target or b""
        first = self._linked.get(path)
        if first is None or path not in self._missing:
            raise ValueError("a hard link must point to an earlier file that counts it")
        same = (first.mode, first.uid, first.gid, first.mtime, first.xattrs)
        if (entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs) != same:
            raise ValueError("a hard link must have the owner, mode, time and xattrs of its file")
        self._missing[path] -= 1
        if not self._missing[path]:
            del self._missing[path]


def check_entry(entry: Entry) -> None:
    """Raise `ValueError` unless an entry, by itself, may stand in a manifest."""
    kind, size = entry.kind, entry.size
    check_path(entry.path)
    if not 0 <= entry.mode <= 0o7777:
        raise ValueError("the mode has more than twelve bits")
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        raise ValueError("no such owner or group is possible")
    if not -_MAX_MTIME <= entry.mtime <= _MAX_MTIME:
        raise ValueError("the time is out of range")
    if (size is None) != (entry.sha256 is None):
        raise ValueError("size and sha256 come together")
    if (size is None) == (kind in WITH_CONTENT):
        raise ValueError("files and symlinks have size and sha256, others have not")
    if size is not None and not 0 <= size <= _MAX_SIZE:
        raise ValueError("the size is out of range")
    if kind is Kind.LINK and not 0 < (size or 0) <= MAX_PATH:
        raise ValueError(f"a symlink's target must have 1 to {MAX_PATH} bytes")
    if entry.links != 1 and (kind is not Kind.FILE or not 1 < entry.links <= MAX_LINKS):
        raise ValueError(f"files have links=, up to {MAX_LINKS}, others have not")
    if (entry.device is not None) != (kind in DEVICES):
        raise ValueError("device nodes have dev=, others have not")
    if entry.device is not None and not (
        0 <= entry.device[0] <= _MAX_DEVICE and 0 <= entry.device[1] <= _MAX_DEVICE
    ):
        raise ValueError("no such device is possible")
    if (entry.target is not None) != (kind is Kind.HARDLINK):
        raise ValueError("hard links have to=, others have not")
    if entry.xattrs:
        _check_xattrs(entry.xattrs)


def _check_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
    if list(xattrs) != sorted(dict(xattrs).items()):
        raise ValueError("xattrs must be sorted and be there once")
    if any(not name or b"\0" in name or len(name) > 255 for name, _ in xattrs):
        raise ValueError("an xattr's name must have 1 to 255 bytes")
    if any(len(value) > MAX_XATTR for _, value in xattrs):
        raise ValueError(f"an xattr's value may have {MAX_XATTR} bytes")


# One search over each path instead of a look at each component: manifests are long.
_SUSPICIOUS = re.compile(
    rb"\0|(?:\A|/)(?:\.{0,2}(?:/|\Z)|[^/]{256})|\A(?:%s)(?:/|\Z)"
    % b"|".join(re.escape(name) for name in RESERVED)
)


def check_path(path: bytes) -> None:
    """Raise `ValueError` unless a path stays below the root and a filesystem can hold it."""
    if path == b"" or (len(path) <= MAX_COMPONENT and not _SUSPICIOUS.search(path)):
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
