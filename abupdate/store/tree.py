"""git's trees, hashed here: which files they name, and in what two of them differ.

Trees come from git level by level, many at a time, and are kept as they are;
what two have in common is never read. Paths come out true (see `names`), in
the manifest's order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from abupdate.errors import NotTrustedError
from abupdate.store import manifest, names
from abupdate.store.reader import ObjectReader

TREE, PLAIN, EXECUTABLE, SYMLINK = "40000", "100644", "100755", "120000"

_HINT = "Make releases with `abupdate publish commit`."
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
            found = self._child_of(oid, folder + b"/")
            if found is None:
                return None
            oid = found.oid
        self._read([oid])
        child = self._child_of(oid, last)
        return File(child.mode, child.oid) if child is not None else None

    def _child_of(self, oid: str, key: bytes) -> _Child | None:
        return next((c for c in map(_child, self._records(oid)) if c.key == key), None)

    def _load(self, old: str | None, new: str) -> None:
        level: set[tuple[str | None, str | None]] = {(old, new)} if old != new else set()
        seen = 0
        for _ in range(manifest.MAX_DEPTH + 2):
            if not level:
                return
            self._read(oid for pair in level for oid in pair if oid is not None)
            below: set[tuple[str | None, str | None]] = set()
            for pair in level:
                for _, one, other in self._pairs(*pair, only=TREE.encode()):
                    below.add((one and one.oid, other and other.oid))
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
        self, old: str | None, new: str | None, only: bytes = b""
    ) -> Iterator[tuple[bytes, _Child | None, _Child | None]]:
        """What differs between the children of two trees, side by side, sorted.

        `only`: how the mode of the children begins that are wanted.
        """
        if old == new:
            return
        ones, others = self._records(old), self._records(new)
        one, other = _by_key(ones - others, only), _by_key(others - ones, only)
        for key in sorted(one.keys() | other.keys()):
            yield key, one.get(key), other.get(key)

    def _records(self, oid: str | None) -> set[tuple[bytes, bytes, bytes]]:
        """Mode, name and id of all children, as they are."""
        if oid is None:
            return set()
        raw, size = self._raw[oid], len(oid) // 2
        found = _RECORDS[size].findall(raw)
        if sum(len(mode) + len(name) + size + 2 for mode, name, _ in found) != len(raw):
            raise NotTrustedError("The release has a tree that is not whole.")
        return set(found)


def _by_key(records: set[tuple[bytes, bytes, bytes]], only: bytes) -> dict[bytes, _Child]:
    wanted = [_child(record) for record in records if record[0].startswith(only)]
    found = {child.key: child for child in wanted}
    if len(found) != len(wanted):
        raise NotTrustedError("The release has a tree with the same name twice.")
    return found


def _child(record: tuple[bytes, bytes, bytes]) -> _Child:
    mode, name, oid = record[0].decode(), record[1], record[2].hex()
    try:
        key = names.true(name)
    except ValueError as error:
        raise NotTrustedError(f"The release's tree: {error}.", _HINT) from error
    if mode == TREE:
        key += b"/"
    elif mode not in (PLAIN, EXECUTABLE, SYMLINK):
        raise NotTrustedError(
            f"The release's tree has {manifest.shown(name)} with the mode "
            f"{mode}, which is no file, link or folder.",
            _HINT,
        )
    return _Child(key, mode, oid)


# The lines of a tree, by the size of an object's id in bytes.
_RECORDS = {
    size: re.compile(rb"([0-7]{5,6}) ([^\0/]+)\0(.{%d})" % size, re.DOTALL) for size in (20, 32)
}
