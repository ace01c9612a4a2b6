"""Files of the boot partition, written so that a power cut does no harm, and read past the cache.

A file that keeps its length is written over its old bytes: no truncation, no
new clusters, so that nothing of the FAT changes. Where the new bytes differ
from the old ones in one sector only, a cut leaves the old file or the new one.
Any other is made anew beside the old one, read back, and renamed over it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abupdate.errors import DeviceFaultError, NoSpaceError

# What a disk writes as one.
SECTOR = 512
# The longest file that is read here. O_DIRECT wants a multiple of the largest sector there is.
LIMIT = 64 * 1024


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Only one writer in a folder at a time, whichever process it is in."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceFaultError(
            f"{directory} should be the folder of the boot state: {error.strerror}.",
            "Is the boot partition mounted?",
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def put(path: Path, raw: bytes, what: str, *, over: bool) -> None:
    """Write a file and read it back from the disk.

    `over`: its old bytes are written over, see `keeps_length` and `changes_one_sector`. `what` it
    is, for a person. Raises `NoSpaceError`, and `DeviceFaultError` when the disk does not take it
    or gives other bytes back.
    """
    try:
        if over:
            _overwrite(path, raw)
        else:
            _create(path, raw, what)
        # Also for a name that an earlier writer made and was ended before this.
        _sync_folder(path.parent)
        _read_back(path, raw, what)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"The {what} could not be written to {path}: {error.strerror}.",
                f"Free {len(raw)} bytes on the boot partition: what is not in its folders "
                "`EFI` and `grub` is not abupdate's.",
            ) from error
        raise DeviceFaultError(
            f"The {what} could not be written to {path}: {error.strerror}.",
            "Is the boot partition damaged or write-protected?",
        ) from error


def changes_one_sector(path: Path, raw: bytes) -> bool:
    """Whether a file becomes these bytes, or stays, when any of its sectors are written."""
    try:
        old = read_from_disk(path, len(raw) + 1)
    except OSError:
        return False  # missing, a link, or not readable: nothing in it is of use
    return len(old) == len(raw) and old[SECTOR:] == raw[SECTOR:]


def keeps_length(path: Path, raw: bytes) -> bool:
    """Whether there is a file of this length, whatever it holds."""
    try:
        return len(read_from_disk(path, len(raw) + 1)) == len(raw)
    except OSError:
        return False


def _overwrite(path: Path, raw: bytes) -> None:
    """One write over the old bytes: no truncation, no new clusters."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write_whole(fd, raw)
    finally:
        os.close(fd)


def _create(path: Path, raw: bytes, what: str) -> None:
    """Made anew beside the old one, and renamed over it.

    It is read back before the rename already: the old file may be one that GRUB uses.
    """
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(fresh, flags, 0o644)
    try:
        try:
            _write_whole(fd, raw)
            _read_back(fresh, raw, what)
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


def _read_back(path: Path, raw: bytes, what: str) -> None:
    if read_from_disk(path, len(raw) + 1) != raw:
        raise DeviceFaultError(
            f"{path} should hold the {what} that was just written, but the disk gives "
            "other bytes back.",
            "The disk is failing or does not keep what is written to it.",
        )


def read_from_disk(path: Path, limit: int) -> bytes:
    """At most `limit` bytes (`LIMIT` at most) of a file, from the disk and not from the page cache.

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
    buffer = mmap.mmap(-1, LIMIT)
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
