"""One `Grubenv.write` on the simulated disk, and everything that must hold wherever it ends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from abupdate.boot import grubenv, inplace
from abupdate.boot.envblock import SIGNATURE
from abupdate.boot.grubenv import BACKUP, PRIMARY, Grubenv, LostError, Reading, decode
from abupdate.boot.state import BootState, Ustate, provision
from abupdate.errors import DeviceFaultError, NoSpaceError
from tests.unit.boot_states import block
from tests.unit.simulated_disk import Content, Disk, Fault, PowerCut

ROOT = Path("/simulated/grub")
COPIES = (PRIMARY, BACKUP)

# A copy of long ago: sound, and nothing in it is true any more.
STALE = block(provision(9, 9)).replace(b"slot=A\ngood=Ax", b"slot=B\ngood=AB")

DAMAGE: dict[str, Callable[[bytes], Content]] = {
    "missing": lambda raw: None,
    "empty": lambda raw: b"",
    "43 bytes": lambda raw: raw[:43],
    "short, usable": lambda raw: raw[:300],
    "long, usable": lambda raw: raw + b"#",
    "zeros": lambda raw: bytes(1024),
    "garbage": lambda raw: bytes(range(256)) * 4,
    "bad value": lambda raw: raw.replace(b"limit=", b"limit=-"),
    # Usable, but in the second sector.
    "far": lambda raw: SIGNATURE + b"#" * 500 + b"\n" + raw[len(SIGNATURE) :][: 1024 - 526],
    # With a new first sector before it, this would be a state that nobody wrote.
    "bad value, state behind": lambda raw: (
        raw[:512].replace(b"end=1", b"end=0") + b"\nslot=B\ngood=AB\n".ljust(512, b"#")
    ),
}


def new_disk(primary: Content, backup: Content) -> Disk:
    return Disk(ROOT, {PRIMARY: primary, BACKUP: backup}, STALE)


@functools.cache
def state_in(content: Content) -> BootState | None:
    """The state, None where GRUB takes it as lost."""
    try:
        return None if content is None else decode(content)
    except LostError:
        return None


@contextmanager
def simulated(disk: Disk) -> Iterator[Grubenv]:
    with (
        patch.multiple(inplace, os=disk, fcntl=disk),
        patch.multiple(grubenv, encode=block),
    ):
        yield Grubenv(ROOT, disk.made_writable)


def read(disk: Disk) -> Reading:
    """What `Grubenv.read` says, which must be what GRUB finds."""
    found = [state_in(disk.contents().get(name)) for name in COPIES]
    with simulated(disk) as copies:
        reading = copies.read()
    assert reading.state == (found[0] or found[1])
    assert reading.source == ("primary" if found[0] else "backup" if found[1] else None)
    for name, state in zip(COPIES, found, strict=True):
        regular = state is not None and disk.contents().get(name) == block(state)
        told = [text for text in reading.problems if text.startswith(f"{ROOT / name}: ")]
        assert len(told) == (0 if regular else 1), reading.problems
    return reading


@dataclass(frozen=True)
class Outcome:
    """How a write ended, and the calls that it made."""

    kind: Literal["done", "failed", "cut"]
    calls: Sequence[str]


def attempt(
    disk: Disk,
    new: BootState,
    *,
    backup_first: bool = False,
    cut_at: int | None = None,
    faults: Mapping[int, Fault] | None = None,
) -> Outcome:
    """Write, with the power cut and the faults at calls of these numbers, and look at the disk."""
    before = {name: disk.possible(name) for name in COPIES}
    names = set(disk.contents())
    kind: Literal["done", "failed", "cut"] = "done"
    with simulated(disk) as copies, disk.trouble(cut_at, faults or {}) as calls:
        try:
            copies.write(new, backup_first=backup_first)
        except PowerCut:
            kind = "cut"
        except (DeviceFaultError, NoSpaceError):
            kind = "failed"
    after = {name: disk.possible(name) for name in COPIES}
    order = (BACKUP, PRIMARY) if backup_first else (PRIMARY, BACKUP)
    for name in COPIES:
        _assert_old_new_or_lost_before(before[name], after[name], new, is_backup=name == BACKUP)
    _assert_order(before, after, order, new)
    if kind != "cut":
        assert not disk.locked()
        cleaning_up_failed = any(calls[at] == "unlink" for at in faults or {} if at < len(calls))
        assert set(disk.contents()) <= names | set(COPIES) or cleaning_up_failed
    if kind == "done":
        assert after[PRIMARY] == [block(new)] and len(after[BACKUP]) == 1
        assert read(disk) == Reading(new, "primary", ())
    return Outcome(kind, calls)


def _assert_old_new_or_lost_before(
    before: Sequence[Content], after: Sequence[Content], new: BootState, *, is_backup: bool
) -> None:
    old = {state_in(content) for content in before}
    for content in after:
        found = state_in(content)
        if found in old:
            continue  # a copy that was lost is in here as None
        assert found is not None, f"a sound copy was lost: {content!r}"
        if is_backup:
            _assert_no_trial(found, new)
        else:
            assert found == new


def _assert_no_trial(backup: BootState, new: BootState) -> None:
    """The new backup: all of the new state but for the trial."""
    assert backup.ustate != Ustate.INSTALLED
    if new.ustate != Ustate.INSTALLED:
        assert backup == new
    else:
        assert (backup.trial, backup.countdown) == ("x", new.limit)
        assert (backup.slot, backup.good, backup.failed) == (new.slot, new.good, new.failed)


def _assert_order(
    before: dict[str, list[Content]],
    after: dict[str, list[Content]],
    order: tuple[str, str],
    new: BootState,
) -> None:
    """The second copy is as it was until the first is on the disk for good."""
    first, second = order
    if set(after[second]) != set(before[second]):
        assert len(after[first]) == 1
        state = state_in(after[first][0])
        assert state is not None
        if first == PRIMARY:
            assert state == new
        else:
            _assert_no_trial(state, new)
