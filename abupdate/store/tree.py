"""git's trees, hashed here: which files they name, and in what two of them differ.

Trees come from git level by level, many at a time, and are kept as they are;
what two have in common is never read. Paths come out true (see `names`), in
the manifest's order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from abupdate.errors import NotTrustedError
from abupdate.store import manifest, names
from abupdate.store.repository import ObjectReader

TREE, PLAIN, EXECUTABLE, SYMLINK = "40000", "100644", "100755", "120000"

_MAX_TREE = 64 * 1024 * 1024


class File(NamedTuple):
    """A file or link of a tree."""

    mode: str
    oid: str


class TreeChange(NamedTuple):
    """A path where two trees differ: what is there in the one and in the other."""

    path: bytes
    old: File | None
    new: File | None


class _Child(NamedTuple):
    """`key` sorts as the manifest does: a folder stands where the paths in it do."""

    key: bytes
    mode: str
    oid: str


class Trees:
    """Trees of one repository, by id, as far as they were needed."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._raw: dict[str, bytes] = {}

    def differences(self, old: str | None, new: str) -> Iterator[TreeChange]:
        """Where a tree differs from another (or from none), sorted by path.

        All trees are read before this returns. Raises `NotTrustedError` for a
        tree that no release has.
        """
        self._load(old, new)
        return self._walk(b"", old, new)

    def find(self, root: str, path: bytes) -> File | None:
        """The file or link at a path."""
        oid = root
        *folders, last = path.split(b"/")
        for folder in folders:
            self._read([oid])
            found = next((c for c in self._children(oid) if c.key == folder + b"/"), None)
            if found is None:
                return None
            oid = found.oid
        self._read([oid])
        return next((File(c.mode, c.oid) for c in self._children(oid) if c.key == last), None)

    def _load(self, old: str | None, new: str) -> None:
        level: set[tuple[str | None, str | None]] = {(old, new)} if old != new else set()
        seen = 0
        for _ in range(manifest.MAX_DEPTH + 2):
            if not level:
                return
            self._read(oid for pair in level for oid in pair if oid is not None)
            below: set[tuple[str | None, str | None]] = set()
            for one, other in level:
                below.update(
                    (a and a.oid, b and b.oid)
                    for _, a, b in self._pairs(one, other)
                    if (a or b) is not None and (a or b).key.endswith(b"/")  # type: ignore[union-attr]
                )
            level = below
            seen += len(level)
            if seen > manifest.MAX_ENTRIES:
                raise NotTrustedError(f"The release has more than {manifest.MAX_ENTRIES} folders.")
        raise NotTrustedError(f"The release's tree is deeper than {manifest.MAX_DEPTH}.")

    def _read(self, oids: Iterable[str]) -> None:
        wanted = [oid for oid in dict.fromkeys(oids) if oid not in self._raw]
        for oid, raw in self._reader.read_all(wanted, "tree", _MAX_TREE):
            self._raw[oid] = raw

    def _walk(self, above: bytes, old: str | None, new: str | None) -> Iterator[TreeChange]:
        for key, one, other in self._pairs(old, new):
            if key.endswith(b"/"):
                yield from self._walk(above + key, one and one.oid, other and other.oid)
            else:
                yield TreeChange(
                    above + key,
                    one and File(one.mode, one.oid),
                    other and File(other.mode, other.oid),
                )

    def _pairs(
        self, old: str | None, new: str | None
    ) -> Iterator[tuple[bytes, _Child | None, _Child | None]]:
        """The children of two trees that are not equal, side by side, sorted."""
        if old == new:
            return
        ones, others = iter(self._children(old)), iter(self._children(new))
        one, other = next(ones, None), next(others, None)
        while one is not None or other is not None:
            if other is None or (one is not None and one.key < other.key):
                assert one is not None
                yield one.key, one, None
                one = next(ones, None)
            elif one is None or other.key < one.key:
                yield other.key, None, other
                other = next(others, None)
            else:
                if one != other:
                    yield one.key, one, other
                one, other = next(ones, None), next(others, None)

    def _children(self, oid: str | None) -> list[_Child]:
        if oid is None:
            return []
        raw, size = self._raw[oid], len(oid) // 2
        children, position = [], 0
        for match in _record(size).finditer(raw):
            if match.start() != position:
                break
            position = match.end()
            mode, name, child = match[1].decode(), match[2], match[3].hex()
            try:
                key = names.true(name)
            except ValueError as error:
                raise NotTrustedError(f"The release's tree: {error}.") from error
            if mode == TREE:
                key += b"/"
            elif mode not in (PLAIN, EXECUTABLE, SYMLINK):
                raise NotTrustedError(
                    f"The release's tree has {manifest.escape(name).decode()} with the mode "
                    f"{mode}, which is no file, link or folder."
                )
            children.append(_Child(key, mode, child))
        if position != len(raw):
            raise NotTrustedError("The release has a tree that is not whole.")
        children.sort()
        if any(one.key == other.key for one, other in pairwise(children)):
            raise NotTrustedError("The release has a tree with the same name twice.")
        return children


_RECORDS = {size: re.compile(rb"([0-7]{5,6}) ([^\0/]+)\0(.{%d})" % size, re.DOTALL)
            for size in (20, 32)}  # fmt: skip


def _record(size: int) -> re.Pattern[bytes]:
    """One line of a tree; `size` of an object id in bytes."""
    return _RECORDS[size]
