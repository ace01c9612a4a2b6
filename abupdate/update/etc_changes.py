"""What the owner has changed in /etc of the booted slot: looked at, put back, settled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from abupdate.errors import NothingToDoError, RefusedError, UsageError
from abupdate.etc.merge import BESIDE, changes, fits
from abupdate.etc.patch import patch
from abupdate.etc.tree import Kind, Tree, below, parent, read_overlay, read_tree
from abupdate.etc.upper import describe, write_node
from abupdate.store.manifest import escape
from abupdate.update.carried import Told, carried, overlay, settle
from abupdate.update.slots import Machine, require_root

_PREFIX = b"etc"
_READABLE, _ENTERED = 0o004, 0o001


@dataclass(frozen=True)
class Changes:
    """Of the booted slot: paths that are new, changed or gone; and what is not settled."""

    slot: Slot
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    findings: tuple[Told, ...]


@dataclass(frozen=True)
class Patch:
    """A patch in pieces, and the paths that it leaves out, which not everybody may read."""

    pieces: tuple[bytes, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Trees:
    slot: Slot
    release: Tree
    owner: Tree

    @property
    def changed(self) -> list[bytes]:
        return changes(self.release, self.owner)

    def of(self, asked: Sequence[str]) -> list[bytes]:
        """The changed paths among those that are asked for, or in them; all when none are."""
        if not asked:
            return self.changed
        names = [_name(text) for text in asked]
        for text, name in zip(asked, names, strict=True):
            if name not in self.release and name not in self.owner:
                raise UsageError(f"{text}: a path in /etc was expected, there is none.")
        wanted = {one for name in names for tree in (self.release, self.owner)
                  for one in (below(tree, name) if name else tree)}  # fmt: skip
        return [name for name in self.changed if name in wanted]


def look(machine: Machine) -> Changes:
    """What the owner changed, and what the last install could not merge."""
    with _trees(machine) as trees:
        known = carried(machine.paths, trees.slot)
        changed, owner = trees.changed, trees.owner

        def those(wanted: Callable[[bytes], bool]) -> tuple[str, ...]:
            return tuple(_shown(name) for name in changed if wanted(name))

        return Changes(
            slot=trees.slot,
            added=those(lambda name: name not in trees.release),
            changed=those(lambda name: name in trees.release and name in owner),
            removed=those(lambda name: name not in owner),
            findings=known.findings if known else (),
        )


def as_patch(machine: Machine, asked: Sequence[str], *, secrets: bool = False) -> Patch:
    """The changes of these paths, of all when none are given; `secrets`: of each file."""
    with _trees(machine) as trees:
        names = trees.of(asked)
        hidden = {name for name in names if not secrets and _is_secret(trees, name)}
        shown = [name for name in names if name not in hidden]
        pieces = tuple(patch(trees.release, trees.owner, shown, _PREFIX))
        return Patch(pieces, tuple(_shown(name) for name in sorted(hidden)))


def reset(machine: Machine, asked: Sequence[str]) -> tuple[str, ...]:
    """Make these paths, and what is in them, as the release has them; those that changed.

    Raises `NothingToDoError` when they are so already.
    """
    with _trees(machine) as trees:
        names = trees.of(asked)
        top = machine.paths.root / "etc"
        for name in names:
            _refuse_elsewhere(trees, name, set(names))
            _refuse_mounts(top / os.fsdecode(name))
        for name in reversed(names):
            old, new = trees.owner.get(name), trees.release.get(name)
            if old is not None and (new is None or old.kind is not new.kind):
                _remove(top / os.fsdecode(name))
        for name in names:
            node = trees.release.get(name)
            if node is None:
                continue
            path = top / os.fsdecode(name)
            if node.kind is Kind.FOLDER and path.is_dir():
                describe(path, node)
                continue
            beside = path.with_name(f".{path.name[:100]}.abupdate-reset")
            _remove(beside)
            try:
                write_node(beside, node)
                beside.rename(path)
            except OSError:
                _remove(beside)
                raise
        for name in names:
            if fits(name + BESIDE):
                _remove(top / os.fsdecode(name + BESIDE))
        os.sync()
        shown = tuple(_shown(name) for name in names)
        settle(machine.paths, trees.slot, {_shown(_name(text)) for text in asked} | set(shown))
    if not names:
        raise NothingToDoError("What the release has is there already.")
    return shown


def resolve(machine: Machine, asked: Sequence[str]) -> None:
    """A person has looked at these conflicts: what the release has beside them goes."""
    require_root()
    slot = _booted(machine)
    known = carried(machine.paths, slot)
    names = {_shown(_name(text)) for text in asked}
    told = {one.path for one in known.findings} if known else set()
    if missing := sorted(names - told):
        raise NothingToDoError(f"Nothing is to be settled about {', '.join(missing)}.")
    for name in map(_name, asked):
        if fits(name + BESIDE):
            _remove(machine.paths.root / "etc" / os.fsdecode(name + BESIDE))
    settle(machine.paths, slot, names)


@contextmanager
def _trees(machine: Machine) -> Iterator[_Trees]:
    require_root()
    slot = _booted(machine)
    machine.paths.runtime.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="etc-", dir=machine.paths.runtime) as name:
        point = Path(name, "booted")
        with filesystem.bound(machine.paths.root, point) as running:
            release = read_tree(running / "etc")
            yield _Trees(
                slot, release, read_overlay(release, overlay(machine.paths, slot) / "upper")
            )


def _booted(machine: Machine) -> Slot:
    slot = machine.booted().slot
    if slot is None:
        raise RefusedError("Rescue runs, which keeps no changes in /etc.", "Boot slot A or B.")
    return slot


def _name(text: str) -> bytes:
    """A path as a person gives it, below /etc."""
    path = os.path.normpath(text)
    name = os.path.relpath(path, "/etc") if os.path.isabs(path) else path  # noqa: PTH117
    if name.startswith(".."):
        raise UsageError(f"{text}: a path in /etc was expected.")
    return os.fsencode("" if name == "." else name)


def _shown(name: bytes) -> str:
    return escape(name).decode()


def _is_secret(trees: _Trees, name: bytes) -> bool:
    """Whether somebody may not read it, or not get to it."""
    for tree in (trees.release, trees.owner):
        node, above = tree.get(name), name
        if node is not None and node.kind is Kind.FILE and not node.mode & _READABLE:
            return True
        while node is not None and above:
            above = parent(above)
            if not tree[above].mode & _ENTERED:
                return True
    return False


def _refuse_elsewhere(trees: _Trees, name: bytes, names: set[bytes]) -> None:
    """Nothing is written through a link, or into what is no folder."""
    above = parent(name)
    while above:
        node = trees.owner.get(above)
        if (node is None or node.kind is not Kind.FOLDER) and above not in names:
            raise RefusedError(
                f"/etc/{_shown(above)} should be a folder, as the release has it.",
                f"Reset that: abupdate etc reset /etc/{_shown(above)}",
            )
        above = parent(above)


def _refuse_mounts(path: Path) -> None:
    for entry in filesystem.mounts():
        if entry.target == str(path) or entry.target.startswith(f"{path}/"):
            raise RefusedError(
                f"Something is mounted at {entry.target}, which would be removed with it.",
                f"Unmount it first: umount {entry.target}",
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
