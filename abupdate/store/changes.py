"""In what two commits differ: their sorted manifests merged line by line, and their trees.

Nothing is held of what both have. Every line of the new manifest that the old
one has not is parsed and checked, all lines are checked for their order and
their parents, and manifest and tree must tell the same of every path that one
of them changes (and so of every path, for the old commit was looked at in the
same way, back to one that was compared with nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from abupdate.errors import NotTrustedError
from abupdate.store import manifest
from abupdate.store.manifest import WITH_CONTENT, Checks, Entry, Kind
from abupdate.store.tree import EXECUTABLE, PLAIN, SYMLINK, File, TreeChange

_HINT = "Make releases with `abupdate publish commit`."
WITH_BLOB = (Kind.FILE, Kind.LINK, Kind.HARDLINK)


class Change(NamedTuple):
    """One path of two commits; `old` or `new` is None where it is not there.

    `fresh`: what is there cannot stay, it is made anew. `oid` is then the blob of
    a file or symlink. `offset` is where the line of `new` begins in its manifest.
    """

    old: Entry | None
    new: Entry | None
    fresh: bool = False
    oid: str | None = None
    offset: int = -1


def git_mode(entry: Entry) -> str:
    """The mode of a file or link in the tree."""
    if entry.kind is Kind.LINK:
        return SYMLINK
    return EXECUTABLE if entry.mode & 0o100 else PLAIN


def same_content(old: Entry | None, new: Entry) -> bool:
    """Whether what is there of a path can stay but for owner, mode, attributes and time."""
    return old is not None and (old.kind, old.sha256, old.device, old.target) == (
        new.kind,
        new.sha256,
        new.device,
        new.target,
    )


def changes(
    old: Iterator[bytes],
    new: bytes,
    checks: Checks,
    tree: Iterator[TreeChange],
    find: Callable[[bytes], File | None],
    unknown: Container[bytes] = frozenset(),
) -> Iterator[Change]:
    """The changes between two manifests (`old` as lines, `new` whole), sorted by path.

    `tree`: in what their trees differ, sorted by path. `find` looks a path of
    the new tree up; it is called after the last line of `old` was taken. `checks`
    then knows the new manifest's folders. A path of `unknown` that one of them has is
    told in any case, as one to make anew. Raises `NotTrustedError`.
    """
    merged = _Merged(tree, unknown)
    try:
        yield from merged.take(_lines(old, new, checks, unknown))
    except ValueError as error:
        raise NotTrustedError(f"Manifest, {error}.", _HINT) from error
    yield from merged.late(find)


class _Merged:
    """Both sides of one pass, and what the pass must remember of a path for later ones."""

    def __init__(self, tree: Iterator[TreeChange], unknown: Container[bytes]) -> None:
        self._tree = tree
        self._known_to_differ = unknown
        self._ahead = next(tree, None)
        self._unknown: list[Change] = []
        # Files with several names that are written anew (their names then must be made anew as
        # well), and the blobs of such files where they are known.
        self._rewritten: set[bytes] = set()
        self._blobs: dict[bytes, str] = {}
        self._to_compare: list[tuple[bytes, str]] = []

    def take(self, pairs: Iterator[_Pair]) -> Iterator[Change]:
        for pair in pairs:
            change = self._of(pair)
            if change is not None:
                yield change
        if self._ahead is not None:
            raise disagree(self._ahead.path)

    def _of(self, pair: _Pair) -> Change | None:
        old, new = pair.old, pair.new
        path = (new or old).path  # type: ignore[union-attr]
        stored = self._stored(path)
        if new is None:
            assert old is not None
            gone = stored is not None and stored.new is None
            if gone != (old.kind in WITH_BLOB) or (stored is not None and not gone):
                raise disagree(path)
            return Change(old, None)
        blob = stored.new if stored is not None else None
        self._compare(old, new, stored, blob)
        if new.kind is Kind.HARDLINK:
            assert new.target is not None
            self._compare_link(new.path, new.target, blob)
            fresh = new.target in self._rewritten or not same_content(old, new)
            return None if old == new and not fresh else Change(old, new, fresh, None, pair.offset)
        differs = path in self._known_to_differ
        fresh = differs or not same_content(old, new)
        oid = blob.oid if blob is not None else None
        if new.links > 1:
            if oid is not None:
                self._blobs[path] = oid
            if fresh:
                self._rewritten.add(path)
        if old == new and not differs:
            return None
        change = Change(old, new, fresh, oid if fresh else None, pair.offset)
        if fresh and oid is None and new.kind in WITH_CONTENT:
            self._unknown.append(change)
            return None
        return change

    def _stored(self, path: bytes) -> TreeChange | None:
        """What the trees say of a path; the pass has reached it."""
        found = self._ahead
        if found is None or found.path > path:
            return None
        if found.path < path:
            raise disagree(found.path)
        self._ahead = next(self._tree, None)
        return found

    def _compare(
        self, old: Entry | None, new: Entry, stored: TreeChange | None, blob: File | None
    ) -> None:
        """Raise unless manifest and tree tell the same of what a path became."""
        has, had = new.kind in WITH_BLOB, old is not None and old.kind in WITH_BLOB
        if stored is None:
            # The trees have nothing new here, so that it must be what it was.
            agree = has == had and (not has or old is None or git_mode(old) == git_mode(new))
            linked = Kind.HARDLINK in (new.kind, old.kind if old else None)
            agree = agree and (linked or not has or same_content(old, new))
        else:
            agree = (blob is not None) == has
            agree = agree and (blob is None or blob.mode == git_mode(new))
            modes = old is not None and has and had and git_mode(old) == git_mode(new)
            same = new.kind is not Kind.HARDLINK and same_content(old, new)
            agree = agree and not (modes and same)
        if not agree:
            raise disagree(new.path)

    def _compare_link(self, path: bytes, target: bytes, blob: File | None) -> None:
        """A hard link has the blob of its file, as far as the trees tell of either."""
        known = self._blobs.get(target)
        if blob is None and known is None:
            return  # both as they were
        if blob is not None and known is not None:
            if blob.oid != known:
                raise disagree(path)
            return
        self._to_compare.append((path, blob.oid if blob is not None else known or ""))
        self._to_compare.append((target, blob.oid if blob is not None else known or ""))

    def late(self, find: Callable[[bytes], File | None]) -> Iterator[Change]:
        """What needs the whole tree: a link that became a file with its old content, say."""
        for path, oid in self._to_compare:
            found = find(path)
            if found is None or found.oid != oid:
                raise disagree(path)
        for change in self._unknown:
            assert change.new is not None
            found = find(change.new.path)
            if found is None or found.mode != git_mode(change.new):
                raise disagree(change.new.path)
            yield change._replace(oid=found.oid)


class _Pair(NamedTuple):
    """One path of both manifests; equal lines come only where links need to be followed."""

    old: Entry | None
    new: Entry | None
    offset: int


class _Old:
    """The old manifest's line that the pass has come to."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.line: bytes | None = None
        self._path: bytes | None = None
        if next(lines, manifest.HEADER) != manifest.HEADER:
            raise ValueError("the old one does not begin with its format")
        self.step()

    def step(self) -> None:
        self.line, self._path = next(self._lines, None), None

    def is_before(self, path: bytes) -> bool:
        if self.line is None:
            return False
        if self._path is None:
            self._path = manifest.path_of(self.line)
        return self._path < path

    def take(self) -> Entry:
        """Its entry; and on to the next."""
        assert self.line is not None
        entry = manifest.parse_line(self.line)
        self.step()
        return entry


def _lines(
    old_lines: Iterator[bytes], new: bytes, checks: Checks, unknown: Container[bytes]
) -> Iterator[_Pair]:
    """Merge two manifests. Raises `ValueError` with the line's number in the new one."""
    old, number, offset = _Old(old_lines), 1, manifest.check_header(new)
    try:
        while offset < len(new):
            number += 1
            line = manifest.line_at(new, offset)
            same = line == old.line and not (unknown and manifest.path_of(line) in unknown)
            if same and checks.take_line(line, offset):
                old.step()
            else:
                entry = manifest.parse_line(line)
                checks.take(entry, offset)
                while old.is_before(entry.path):
                    yield _Pair(old.take(), None, -1)
                same_path = old.line is not None and manifest.path_of(old.line) == entry.path
                yield _Pair(old.take() if same_path else None, entry, offset)
            offset += len(line)
        checks.end()
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    while old.line is not None:
        yield _Pair(old.take(), None, -1)


def disagree(path: bytes) -> NotTrustedError:
    """Manifest and tree of one release tell different things about a path."""
    return NotTrustedError(
        f"Manifest and tree of the release disagree about {manifest.shown(path)}.",
        _HINT,
    )
