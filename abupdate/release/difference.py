"""What one release has that another has not: packages, and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from abupdate.errors import NotTrustedError
from abupdate.release.packages import LIMIT, packages
from abupdate.store.changes import Change, same_content
from abupdate.store.content import CommitContent
from abupdate.store.manifest import Kind

_MOST = 16 << 20  # bytes of a record of packages that a device reads


@dataclass(frozen=True)
class PackageChange:
    """One package; None where a release has not got it."""

    name: str
    old: str | None
    new: str | None


@dataclass
class Counts:
    """How many paths differ, but for those whose time alone does.

    `attributes`: owner, mode or the like; their content stays.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    attributes: int = 0


@dataclass(frozen=True)
class Differences:
    """What an update from one release to another brings. `files` are counted, not listed."""

    packages: tuple[PackageChange, ...] = ()
    files: Counts = field(default_factory=Counts)


def differences(old: CommitContent, new: CommitContent) -> Differences:
    """Compare two releases that one repository holds. Raises `NotTrustedError`.

    Without packages where their record is too large for a device's memory.
    """
    counts = Counts()
    for change, kind in changed_paths(old, new):
        if change.old and change.new and change.old._replace(mtime=change.new.mtime) == change.new:
            continue
        setattr(counts, kind, getattr(counts, kind) + 1)
    try:
        found = changed_packages(old, new, _MOST)
    except NotTrustedError:
        found = ()
    return Differences(found, counts)


def changed_packages(
    old: CommitContent, new: CommitContent, limit: int = LIMIT
) -> tuple[PackageChange, ...]:
    """The packages that come, go, or have another version; by name. `limit`: see `packages`."""
    before, after = packages(old, limit), packages(new, limit)
    return tuple(
        PackageChange(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def changed_paths(old: CommitContent, new: CommitContent) -> Iterator[tuple[Change, str]]:
    """Each path that differs, with the name of the field of `Counts` that it belongs to."""
    for change in new.changes(old):
        if (kind := _kind(change)) is not None:
            yield change, kind


def _kind(change: Change) -> str | None:
    old, new = change.old, change.new
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if new.kind is Kind.DIR and old._replace(mtime=new.mtime) == new:
        return None
    return "attributes" if same_content(old, new) else "changed"
