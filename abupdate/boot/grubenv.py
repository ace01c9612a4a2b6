"""The two copies of the boot state on the boot partition. Nothing else writes them.

A write must be whole or not there at all, wherever the power goes:
`grub-editenv` edits a scratch copy (its own `set` truncates the file first, so
that a cut leaves an empty one), and the finished 1024 bytes go over the old
ones with one write in place. Every variable lies within the first 512 bytes,
and values never change their width, so that the change is one sector. A copy
where it would be more than that (missing, of another length, something behind
the first sector) is made anew beside the old one, and renamed over it. Then
the file is read back from the disk, past the page cache, and compared.

The copies are written one after the other; the second never holds a trial
(see `state.backup_of`). When writing one fails, the other stays as it is: GRUB
then has the old state, or the new one, and doing it again ends well.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from abupdate.boot.envblock import SIZE, parse_block
from abupdate.boot.state import BootState, Ustate, backup_of
from abupdate.errors import DeviceFaultError, NoSpaceError
from abupdate.failpoints import failpoint
from abupdate.run import run_small

PRIMARY = "grubenv"
BACKUP = "grubenv.bak"

# What a disk writes as one: all variables must be in it.
SECTOR = 512
# Enough for a file that has grown; more is not ours. O_DIRECT wants a multiple
# of the largest sector there is.
_READ_LIMIT = 64 * 1024

# Every value that may be, in the order of the file. `grub.cfg` checks the same.
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
            raw = read_from_disk(path, _READ_LIMIT)
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

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one writer at a time, whichever process it is in."""
        try:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceFaultError(
                f"{self._directory} should be the folder of the boot state: {error.strerror}.",
                "Is the boot partition mounted?",
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _put(self, name: str, raw: bytes) -> None:
        path = self._directory / name
        try:
            if _differs_in_one_sector(path, raw):
                _overwrite(path, raw)
            else:
                _create(path, raw)
            # Also for a name that an earlier writer made and was ended before this.
            _sync_folder(self._directory)
            _read_back(path, raw)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpaceError(
                    f"The boot state could not be written to {path}: {error.strerror}.",
                    f"Free {SIZE} bytes on the boot partition: what is not in its folders "
                    "`EFI` and `grub` is not abupdate's.",
                ) from error
            raise DeviceFaultError(
                f"The boot state could not be written to {path}: {error.strerror}.",
                "Is the boot partition damaged or write-protected?",
            ) from error


def _differs_in_one_sector(path: Path, raw: bytes) -> bool:
    """Whether the old copy becomes these bytes, or stays, when any of its sectors are written."""
    try:
        old = read_from_disk(path, SIZE + 1)
    except OSError:
        return False  # missing, a link, or not readable: nothing in it is of use
    return len(old) == SIZE and old[SECTOR:] == raw[SECTOR:]


def _overwrite(path: Path, raw: bytes) -> None:
    """One write over the old bytes: no truncation, no new clusters."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write_whole(fd, raw)
    finally:
        os.close(fd)


def _create(path: Path, raw: bytes) -> None:
    """A copy that cannot be changed in one sector: made anew beside it, and renamed over it.

    It is read back before the rename already: the old copy may be one that GRUB uses.
    """
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(fresh, flags, 0o644)
    try:
        try:
            _write_whole(fd, raw)
            _read_back(fresh, raw)
            os.replace(fresh, path)  # noqa: PTH105 - tests put a simulated disk in the place of `os`
        except (OSError, DeviceFaultError):
            with suppress(OSError):
                os.unlink(fresh)  # noqa: PTH108
            raise
        # ext4 keeps the new name with the directory, vfat with the file
        # (vfat_rename in fs/fat/namei_vfat.c leaves the entry to the inode's own write-out).
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_whole(fd: int, raw: bytes) -> None:
    written = os.pwrite(fd, raw, 0)
    if written != len(raw):
        raise OSError(errno.EIO, f"only {written} of {len(raw)} bytes were written")
    os.fsync(fd)


def _read_back(path: Path, raw: bytes) -> None:
    if read_from_disk(path, SIZE + 1) != raw:
        raise DeviceFaultError(
            f"{path} should hold the boot state that was just written, but the disk gives "
            "other bytes back.",
            "The disk is failing or does not keep what is written to it.",
        )


def read_from_disk(path: Path, limit: int) -> bytes:
    """At most `limit` bytes (64 KiB at most) of a file, from the disk and not from the page cache.

    What GRUB will find, that is, also after a write that failed. While somebody
    else writes, the kernel lets this wait, so that no half of a write is seen.
    A filesystem that knows no O_DIRECT (tmpfs, which has no disk) is read the
    ordinary way, after the kernel was asked to forget the pages.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _read_uncached(path, limit)
    # Anonymous memory begins at a page: aligned as O_DIRECT wants it.
    buffer = mmap.mmap(-1, _READ_LIMIT)
    try:
        length = os.preadv(fd, [buffer], 0)
        return buffer[: min(length, limit)]
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _read_uncached(path, limit)
    finally:
        buffer.close()
        os.close(fd)


def _read_uncached(path: Path, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, limit, 0)
    finally:
        os.close(fd)


def _scratch_parent() -> str | None:
    """/run is writable on a device whose root and /tmp are not; of a confined unit, our folder."""
    return next((path for path in ("/run", "/run/abupdate") if os.access(path, os.W_OK)), None)
