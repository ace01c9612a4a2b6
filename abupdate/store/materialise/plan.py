"""What must be done to make a slot equal to a commit; made before anything is written.

Paths of the release are held as offsets of their lines in its manifest: a plan
of 200,000 paths then takes a few megabytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from abupdate.store import manifest
from abupdate.store.changes import Change
from abupdate.store.manifest import Checks, Entry, Kind
from abupdate.store.outputs import NOTHING, Outputs

if TYPE_CHECKING:
    from abupdate.store.content import CommitContent


class Offsets:
    """Entries of a manifest, by where their lines begin."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._offsets = array("Q")

    def append(self, offset: int) -> None:
        """Add the entry whose line begins there."""
        self._offsets.append(offset)

    def fill(self, offsets: Iterable[int]) -> None:
        """Become these, sorted by path and each once."""
        self._offsets = array("Q", sorted(set(offsets)))

    def offsets(self) -> Iterable[int]:
        """Where the lines begin."""
        return self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Entry:
        return manifest.parse_line(manifest.line_at(self._text, self._offsets[index]))

    def __iter__(self) -> Iterator[Entry]:
        return (self[index] for index in range(len(self)))


class Files(Offsets):
    """Files and symlinks to write, with their blobs and sizes."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self._oids = bytearray()
        self._oid_size = 32
        self.sizes = array("Q")

    def add(self, offset: int, oid: str, size: int) -> None:
        """Add a file, the id of its blob, and its bytes."""
        raw = bytes.fromhex(oid)
        self._oid_size = len(raw)
        self.append(offset)
        self._oids += raw
        self.sizes.append(size)

    def oid(self, index: int) -> str:
        """The id of a file's blob."""
        return self._oids[index * self._oid_size : (index + 1) * self._oid_size].hex()


class Plan:
    """The steps of a materialise, in the order in which they are done.

    `remove` are paths to take away with all that is below, and after that
    `folders` are made, `files` written, `nodes` and hard `links` made, `mend`ed
    what may stay but for its owner, mode, attributes or time, `retime`d what may
    stay but for its time alone, and last the folders of `finish` get theirs.
    """

    def __init__(self, content: CommitContent) -> None:
        text = content.manifest
        self.manifest, self.release_toml, self.date = text, content.release_toml, content.date
        self.commit = content.commit
        self.remove: list[bytes] = []
        self.folders, self.files, self.nodes = Offsets(text), Files(text), Offsets(text)
        self.links, self.mend, self.retime = Offsets(text), Offsets(text), Offsets(text)
        self.finish = Offsets(text)
        self.checks = Checks()
        self._touched: set[bytes] = {b""}
        self._removed_folders: set[bytes] = set()

    @property
    def size(self) -> int:
        """The bytes of all files and symlinks to write."""
        return sum(self.files.sizes)

    @property
    def kept(self) -> int:
        """How many paths of the release are there already."""
        made = len(self.folders) + len(self.files) + len(self.nodes) + len(self.links)
        return self.manifest.count(b"\n") - 1 - made

    def changed(self) -> Offsets:
        """All that is made, written or mended, sorted by path."""
        every = Offsets(self.manifest)
        groups = (
            self.folders, self.files, self.nodes, self.links, self.mend, self.retime, self.finish,
        )  # fmt: skip
        every.fill(chain.from_iterable(group.offsets() for group in groups))
        return every

    def take(self, changes: Iterable[Change]) -> Plan:
        """Add all changes; the plan is complete then."""
        for change in changes:
            self._add(change)
        known = self.checks.directories
        self.finish.fill(known[path] for path in self._touched if path in known)
        return self

    def touched(self, folders: Iterable[bytes]) -> Iterator[Entry]:
        """Folders of the release that got new times after the plan was done: finish them again."""
        offsets = [self.checks.directories[path] for path in folders]
        self.finish.fill(chain(self.finish.offsets(), offsets))
        for offset in offsets:
            yield manifest.parse_line(manifest.line_at(self.manifest, offset))

    def _add(self, change: Change) -> None:
        old, new = change.old, change.new
        if old is not None and (new is None or change.fresh):
            self._remove(old)
        if new is None:
            return
        if change.fresh and new.path != b"":  # the root is always there
            self._touch(new.path)
            self._make(new, change)
        elif new.kind is Kind.DIR:
            self._touched.add(new.path)
        elif new.kind is not Kind.HARDLINK:  # its file is mended
            only_time = old is not None and old._replace(mtime=new.mtime) == new
            (self.retime if only_time else self.mend).append(change.offset)

    def _remove(self, old: Entry) -> None:
        self._touch(old.path)
        if old.kind is Kind.DIR:
            self._removed_folders.add(old.path)
        if old.path.rpartition(b"/")[0] not in self._removed_folders or old.path == b"":
            self.remove.append(old.path)

    def _touch(self, path: bytes) -> None:
        self._touched.add(path.rpartition(b"/")[0])

    def _make(self, new: Entry, change: Change) -> None:
        if new.kind is Kind.DIR:
            self._touched.add(new.path)
            self.folders.append(change.offset)
        elif new.kind is Kind.HARDLINK:
            self.links.append(change.offset)
        elif change.oid is not None:
            self.files.add(change.offset, change.oid, new.size or 0)
        else:
            self.nodes.append(change.offset)


def plan_from(old: CommitContent | None, new: CommitContent, outputs: Outputs = NOTHING) -> Plan:
    """The plan for a slot that holds exactly `old` apart from `outputs`, or nothing.

    Nothing of the slot is looked at. Raises `NotTrustedError`.
    """
    plan = Plan(new)
    changes = new.changes(old, plan.checks, outputs.by_path)
    return plan.take(_from_what_is_there(changes, outputs) if outputs else changes)


def _from_what_is_there(changes: Iterable[Change], outputs: Outputs) -> Iterator[Change]:
    """Changes between two commits, for a slot where outputs of fixups lie over the first.

    Whatever such a path became in the new release, it is made from there; what
    neither release has is removed.
    """
    left = dict(outputs.by_path)
    for change in changes:
        path = (change.new or change.old).path  # type: ignore[union-attr]
        if path not in left:
            yield change
            continue
        now, new = left.pop(path), change.new
        if new is None:
            if now is not None:
                yield change._replace(old=now)
            continue
        # A folder that is one stays: what is below it is told by itself.
        stays = now is not None and now.kind is Kind.DIR and new.kind is Kind.DIR
        yield change._replace(old=now, fresh=not stays)
    for now in left.values():
        if now is not None:
            yield Change(now, None)
