"""The two copies of the boot state on the boot partition. Nothing else writes them.

A write must be whole or not there at all, wherever the power goes:
`grub-editenv` edits a scratch copy (its own `set` truncates the file first, so
that a cut leaves an empty one), and the finished 1024 bytes go over the old
ones with one write in place. Every variable lies within the first 512 bytes,
and values never change their width, so that the change is one sector. A copy
where it would be more than that (missing, of another length, something behind
the first sector) is made anew beside the old one, and renamed over it. Then
the file is read back from the disk, past the page cache, and compared
(`inplace`).

The copies are written one after the other; the second never holds a trial
(see `state.backup_of`). When writing one fails, the other stays as it is: GRUB
then has the old state, or the new one, and doing it again ends well.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from abupdate.boot import inplace
from abupdate.boot.envblock import SIZE, parse_block
from abupdate.boot.inplace import SECTOR
from abupdate.boot.state import BootState, Ustate, backup_of
from abupdate.errors import DeviceFaultError
from abupdate.failpoints import failpoint
from abupdate.run import run_small

PRIMARY = "grubenv"
BACKUP = "grubenv.bak"

# Every value that may be, in the order of the file. GRUB's rules check the same.
VALUES: Mapping[str, str] = {
    "fmt": "1",
    "slot": "[AB]",
    "good": "AB|Ax|xB|xx",
    "trial": "[ABx]",
    "ustate": "[013]",
    "countdown": "[0-9]",
    "tries": "[1-9]",
    "limit": "[0-9]",
    "failed": "[ABx]",
    "once": "[Rx]",
    "seen": "[ABRx]",
    "end": "1",
}


class LostError(DeviceFaultError):
    """A copy of the boot state is not whole; GRUB does not use it either."""


@dataclass(frozen=True)
class Reading:
    """What GRUB would use now.

    `source` is "primary" or "backup"; it and `state` are None when both are
    lost. `problems` says what is wrong with either copy, for a person.
    """

    state: BootState | None
    source: str | None
    problems: tuple[str, ...]


def decode(raw: bytes) -> BootState:
    """The state in the bytes of a copy. Raises `LostError` exactly where GRUB takes it as lost."""
    found = parse_block(raw)
    if found is None:
        raise LostError(f"not a GRUB environment block ({len(raw)} bytes)")
    for name, pattern in VALUES.items():
        value = found.get(name)
        if value is None:
            raise LostError(f"'{name}' is missing")
        if not re.fullmatch(pattern, value):
            raise LostError(f"'{name}' should be {pattern}, found {value[:40]!r}")
    return BootState(
        slot=found["slot"],
        good=found["good"],
        trial=found["trial"],
        ustate=Ustate(int(found["ustate"])),
        countdown=int(found["countdown"]),
        tries=int(found["tries"]),
        limit=int(found["limit"]),
        failed=found["failed"],
        once=found["once"],
        seen=found["seen"],
    )


def encode(state: BootState) -> bytes:
    """The 1024 bytes of a copy, made by `grub-editenv`."""
    values = {"fmt": "1", **_variables(state), "end": "1"}
    try:
        with tempfile.TemporaryDirectory(dir=_scratch_parent()) as name:
            scratch = Path(name) / PRIMARY
            run_small("grub-editenv", scratch, "create")
            words = (f"{key}={text}" for key, text in values.items())
            run_small("grub-editenv", scratch, "set", *words)
            raw = scratch.read_bytes()
    except OSError as error:
        raise DeviceFaultError(
            f"The boot state should be made in a scratch folder, but {error}.",
            "Is there space in /run?",
        ) from error
    fault = _layout_fault(raw)
    if fault or decode(raw) != state:
        raise DeviceFaultError(
            f"grub-editenv should have made a file with {values}, "
            f"found {fault or parse_block(raw)}.",
            "Is this GRUB's own grub-editenv?",
        )
    return raw


def _variables(state: BootState) -> dict[str, str]:
    return {
        "slot": str(state.slot),
        "good": state.good,
        "trial": str(state.trial),
        "ustate": str(int(state.ustate)),
        "countdown": str(state.countdown),
        "tries": str(state.tries),
        "limit": str(state.limit),
        "failed": str(state.failed),
        "once": state.once,
        "seen": state.seen,
    }


def _layout_fault(raw: bytes) -> str | None:
    """Why these bytes could not be changed in one sector, None when they can."""
    if len(raw) != SIZE:
        return f"{len(raw)} bytes instead of {SIZE}"
    found = parse_block(raw)
    # What the first sector alone says, as if the rest were never written.
    if found is None or parse_block(raw[:SECTOR]) != found or raw[SECTOR:].strip(b"#"):
        return f"variables beyond the first {SECTOR} bytes"
    if list(found) != list(VALUES):
        return f"variables {' '.join(found)} instead of {' '.join(VALUES)}"
    return None


class Grubenv:
    """Both copies, in `directory` (`grub/` of the boot partition).

    `writable` is entered for the time of a write, for a boot partition that is
    mounted read-only.
    """

    def __init__(
        self,
        directory: Path,
        writable: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._directory = directory
        self._writable = writable

    def read(self) -> Reading:
        """What GRUB would use now. Never writes; a copy that is lost is a problem, not an error."""
        problems: list[str] = []
        primary = self._read_copy(PRIMARY, problems)
        backup = self._read_copy(BACKUP, problems)
        if primary is not None:
            return Reading(primary, "primary", tuple(problems))
        return Reading(backup, "backup" if backup else None, tuple(problems))

    def write(self, state: BootState, *, backup_first: bool = False) -> None:
        """Make this the state, in both copies, read back from the disk.

        `backup_first` is for `begin`, whose backup may not name the slot that
        is about to be written for one moment longer than the primary. Raises
        `DeviceFaultError` when a copy is not what it should be afterwards;
        GRUB then uses the old state or the new one, never a mixture. When the
        first copy fails, the second is not touched; when the second fails, the
        first is not put back: old or new, each is one that may boot.
        """
        with self._locked(), self._writable():
            first, second = encode(state), encode(backup_of(state, self._settled_before()))
            if backup_first:
                self._put(BACKUP, second)
                failpoint("begin-backup-written")
                self._put(PRIMARY, first)
                failpoint("state-primary-written")
            else:
                self._put(PRIMARY, first)
                failpoint("state-primary-written")
                self._put(BACKUP, second)
                failpoint("state-backup-written")

    def _read_copy(self, name: str, problems: list[str]) -> BootState | None:
        path = self._directory / name
        try:
            raw = inplace.read_from_disk(path, inplace.LIMIT)
            state = decode(raw)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            return None
        except LostError as error:
            problems.append(f"{path}: {error.message}")
            return None
        fault = _layout_fault(raw)
        if fault:
            problems.append(f"{path}: usable, but {fault}")
        return state

    def _settled_before(self) -> Ustate:
        """The `ustate` that stood before a trial was armed: what the backup is to say."""
        ignored: list[str] = []
        for name in (PRIMARY, BACKUP):
            state = self._read_copy(name, ignored)
            if state is not None and state.ustate != Ustate.INSTALLED:
                return state.ustate
        return Ustate.OK

    def _locked(self) -> AbstractContextManager[None]:
        """Only one writer at a time, whichever process it is in."""
        return inplace.locked(self._directory)

    def _put(self, name: str, raw: bytes) -> None:
        path = self._directory / name
        inplace.put(path, raw, "boot state", over=inplace.changes_one_sector(path, raw))


def _scratch_parent() -> str | None:
    """/run is writable on a device whose root and /tmp are not; of a confined unit, our folder.

    None, which is $TMPDIR, where that is set: who builds a disk as nobody in particular is told
    that /run is writable, and it is not.
    """
    if os.environ.get("TMPDIR"):
        return None
    return next((path for path in ("/run", "/run/abupdate") if os.access(path, os.W_OK)), None)
