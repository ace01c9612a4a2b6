"""ext4 filesystems of slots: superblock, label, check, mount, sync, cache.

Devices are block devices (or loop devices in tests), never found here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import signal
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import DeviceFaultError, ProgramError, RefusedError
from abupdate.run import run

_SUPERBLOCK_OFFSET = 1024
_MAGIC = 0xEF53
_BLKFLSBUF = 0x1261
_BLKROGET = 0x125E

# A label and UUID can then be changed with one superblock write: checksums do
# not hang on the UUID. GRUB reads all of these.
FEATURES = "metadata_csum_seed,64bit,^orphan_file"

# One inode for that many bytes: a Debian root filesystem has files of 20 KB on average.
INODE_RATIO = 8192

_CHECK_SECONDS = 1800.0
_MAKE_SECONDS = 600.0


@dataclass(frozen=True)
class Superblock:
    """What is needed of an ext4 superblock. Sizes in bytes; format: kernel docs, ext4.

    `fingerprint` is a hash of all of it: time and count of mounts for writing
    are in it, so that it stays the same only while nobody writes through ext4.
    """

    label: str
    uuid: str
    size: int
    capacity: int
    inodes: int
    fingerprint: str


def read_superblock(device: Path, offset: int = 0) -> Superblock | None:
    """The superblock of an ext filesystem, None where there is none (or no permission).

    `offset`: where the filesystem begins in a file, in bytes.
    """
    try:
        with device.open("rb", buffering=0) as file:
            file.seek(offset + _SUPERBLOCK_OFFSET)
            raw = file.read(1024)
    except OSError:
        return None
    if len(raw) < 1024 or int.from_bytes(raw[56:58], "little") != _MAGIC:
        return None

    def number(at: int) -> int:
        return int.from_bytes(raw[at : at + 4], "little")

    block = 1024 << min(number(24), 6)
    blocks = number(4) + (number(336) << 32)
    # s_overhead_clusters is 0 until somebody computed it: assume 3 % then.
    overhead = number(584) or blocks * 3 // 100
    return Superblock(
        label=raw[120:136].split(b"\0")[0].decode("utf-8", "replace"),
        uuid=str(uuid.UUID(bytes=raw[104:120])),
        size=blocks * block,
        capacity=(blocks - overhead) * block,
        inodes=number(0),
        fingerprint=hashlib.sha256(raw).hexdigest(),
    )


def relabel(device: Path, label: str, *, fresh_uuid: bool = False) -> None:
    """Set the label (and a new random UUID) of an unmounted ext4, flushed to the device.

    Raises `DeviceFaultError` when the device does not hold the label afterwards.
    """
    uuid_argument = ["-U", "random"] if fresh_uuid else []
    with _of_the_disk():
        run(["tune2fs", "-L", label, *uuid_argument, device])
    flush(device)
    drop_cache(device)
    found = read_superblock(device)
    if found is None or found.label != label:
        raise DeviceFaultError(
            f"{device} should have the label '{label}' after writing it, "
            f"found {found.label if found else 'no filesystem'}.",
            "The disk does not keep what is written to it.",
        )


def make(device: Path, label: str, inode_ratio: int | None = None) -> None:
    """A fresh ext4, everything on it lost. `inode_ratio`: bytes for which there is one inode."""
    ratio = ["-i", str(inode_ratio)] if inode_ratio else []
    words = ["mke2fs", "-t", "ext4", "-F", "-q", "-m", "0", *ratio, "-O", FEATURES, "-L", label]
    with _of_the_disk():
        run([*words, device], timeout=_MAKE_SECONDS)
    flush(device)


def repair(device: Path) -> bool:
    """Replay the journal and mend what is safe; False when the filesystem is not usable."""
    try:
        run(["e2fsck", "-p", device], ok=(0, 1), timeout=_CHECK_SECONDS)
    except ProgramError as error:
        if error.code is None or error.code < 0:
            raise
        return False
    return True


def check(device: Path) -> None:
    """Read-only check of an unmounted ext4. Raises `DeviceFaultError` with its findings."""
    try:
        run(["e2fsck", "-f", "-n", device], timeout=_CHECK_SECONDS)
    except ProgramError as error:
        raise DeviceFaultError(
            f"The filesystem on {device} should be clean: {error.message}",
            "Run the install again; if it happens twice, the disk is failing.",
        ) from error


def flush(device: Path) -> None:
    """fsync the block device."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def drop_cache(device: Path) -> None:
    """Forget what the kernel holds of an unmounted device, so that reads come from the disk."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            fcntl.ioctl(fd, _BLKFLSBUF, 0)
    finally:
        os.close(fd)


def syncfs(fd: int) -> None:
    """Write all of a filesystem to its device, errors included.

    `fd` must have been opened before the first write: the kernel reports a
    write-back error once to each open file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise DeviceFaultError(
            f"Writing to the slot failed: {os.strerror(number)}.",
            "The slot stays unarmed; the disk may be failing.",
        )


@dataclass(frozen=True)
class MountEntry:
    """One line of /proc/self/mountinfo."""

    device_number: str
    root: str
    target: str
    options: tuple[str, ...]
    filesystem: str


def mounts() -> list[MountEntry]:
    """All mounts of this mount namespace."""
    entries = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        target = fields[4].encode("latin-1").decode("unicode_escape")
        entries.append(
            MountEntry(fields[2], fields[3], target, tuple(fields[5].split(",")), right.split()[0])
        )
    return entries


def takes_writes(device: Path) -> bool:
    """Whether a block device may be written: no write protection of it or of its disk."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(fd, _BLKROGET, bytes(4))
    finally:
        os.close(fd)
    return not any(answer)


def refuse_if_in_use(device: Path) -> None:
    """Raise `RefusedError` when the device is mounted or anything else has a hold of it.

    The kernel knows more than our mounts: those of other mount namespaces (a
    container's), swap, RAID and device-mapper each claim a device alone.
    """
    number = device.stat().st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for entry in mounts():
        if entry.device_number == wanted:
            raise RefusedError(
                f"{device} must not be in use, but it is mounted at {entry.target}.",
                f"Unmount it first: umount {entry.target}",
            )
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise RefusedError(
            f"{device} must not be in use, but something has a hold of it that is not among "
            "the mounts seen from here.",
            f"A container, swap, RAID or device-mapper? `lsblk {device}` and "
            f"`grep {wanted} /proc/*/mountinfo` tell.",
        ) from error


def unmount_leftover(target: Path) -> None:
    """Unmount what a killed run of ours left at `target`; the caller holds the lock."""
    if any(entry.target == str(target) for entry in mounts()):
        run(["umount", target], timeout=_CHECK_SECONDS)


@contextmanager
def mounted(device: Path, target: Path, options: str) -> Iterator[Path]:
    """Mount an ext4 at `target` (made when missing) for the time of the block."""
    with _mounted("ext4", options, device, target):
        yield target


@contextmanager
def mounted_readonly(device: Path, kind: str, target: Path) -> Iterator[Path]:
    """Mount somebody else's medium for the time of the block; not a byte of it is written.

    `kind`: its filesystem. An ext4 that says "panic" of its errors is not obeyed.
    """
    more = ",noload,errors=continue" if kind == "ext4" else ""
    with _mounted(kind, f"ro,nosuid,nodev,noexec{more}", device, target):
        yield target


@contextmanager
def bound(folder: Path, target: Path) -> Iterator[Path]:
    """A filesystem a second time, read-only, without what is mounted in it."""
    with _mounted("none", "bind,ro", folder, target):
        yield target


@contextmanager
def _mounted(kind: str, options: str, what: str | Path, target: Path) -> Iterator[None]:
    """A signal that stops us is heard before it or after it.

    What was mounted, also in the very moment when the signal came, is unmounted. An error
    of the block is told even where that fails: the next run unmounts it.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        with _of_the_disk() if kind == "ext4" else nullcontext():
            run(["mount", "-t", kind, "-o", options, what, target], timeout=_CHECK_SECONDS)
        yield
    except BaseException:
        with _signals_wait(), suppress(ProgramError):
            unmount_leftover(target)
        raise
    with _signals_wait():
        unmount_leftover(target)


@contextmanager
def _of_the_disk() -> Iterator[None]:
    """What a program says of a disk, with what to do."""
    try:
        yield
    except ProgramError as error:
        error.hint = error.hint or "Run it again; if it happens twice, the disk is failing."
        raise


@contextmanager
def _signals_wait() -> Iterator[None]:
    """What would stop us comes after the block.

    By handlers and not by a mask: that is one thread's, and another one may take the
    signal for which Python then stops this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs here
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signaled in came:
            signal.raise_signal(signaled)


@contextmanager
def in_memory(target: Path, size: int) -> Iterator[Path]:
    """An empty filesystem in memory at `target` (made when missing), `size` bytes at most."""
    options = f"size={size},mode=0700,nosuid,nodev,noexec"
    with _mounted("tmpfs", options, "tmpfs", target):
        yield target


@contextmanager
def overlaid(lower: Path, upper: Path, work: Path, target: Path) -> Iterator[Path]:
    """An overlay at `target`: what is written there goes to `upper`, and `lower` stays as it is.

    Programs may be run there. `upper` then holds whole files and folders, and never says
    that one was moved or changed in part.
    """
    work.mkdir(exist_ok=True)
    folders = f"lowerdir={lower},upperdir={upper},workdir={work}"
    options = f"{folders},redirect_dir=nofollow,metacopy=off,index=off,xino=off,nosuid,nodev"
    with _mounted("overlay", options, "overlay", target):
        yield target


@contextmanager
def writable(mountpoint: Path) -> Iterator[None]:
    """Make a read-only mount writable for the time of the block.

    A directory that is no mountpoint, or a writable one, stays as it is.
    """
    if not _read_only(mountpoint):
        yield
        return
    try:
        try:
            run(["mount", "-o", "remount,rw", mountpoint])
        except ProgramError as error:
            error.hint = error.hint or "`abupdate doctor` looks at the boot partition."
            raise
        yield
    finally:
        with _signals_wait():
            if not _read_only(mountpoint):
                run(["mount", "-o", "remount,ro", mountpoint])


def _read_only(mountpoint: Path) -> bool:
    entry = next((e for e in reversed(mounts()) if e.target == str(mountpoint)), None)
    return entry is not None and "ro" in entry.options
