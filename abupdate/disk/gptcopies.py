"""The two copies of a partition table (GPT): which is whole, and writing one from the other.

A GPT has a header and its entries at the start of the disk, and both again at its end; each
has checksums. A protective MBR in the first sector says to who knows no GPT that the disk is
taken; without it the kernel looks for no GPT at all. The kernel, GRUB and most firmware go by
the first copy alone, so it is the one that is right where both are whole and differ.

Format: UEFI specification 2.10, 5.2.3 and 5.3. Nothing here tells the kernel: what is written
is what it knows already, and so it may be written while partitions are in use.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.disk.gpt import ENTRY, HEADER, Copy, DamagedTableError, read_copy
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.failpoints import failpoint

FIRST, SECOND = "first", "second"

_BLKSSZGET = 0x1268
_BLKFLSBUF = 0x1261
_MBR_TABLE, _MBR_ENTRIES, _MBR_END = 0x1BE, 4, 0x1FE
_MBR_MARK = b"\x55\xaa"
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_GPT_PROTECTIVE = 0xEE
_LARGEST = 0xFFFFFFFF
_NAME_IN_ENTRY = 56


@dataclass(frozen=True)
class Copies:
    """What a disk has of its table. `first`, `second`: None where that copy is not whole.

    `faults`: what is wrong, by the copy or `mbr`; of two that differ it is the second's.
    `foreign`: the MBR has partitions, and none of them says that there is a GPT.
    """

    disk: Path
    sector: int
    sectors: int
    first: Copy | None
    second: Copy | None
    faults: dict[str, str]
    foreign: bool = False

    @property
    def whole(self) -> Copy | None:
        """The copy to go by."""
        return self.first or self.second


def sector_size(disk: Path) -> int:
    """What a disk counts in, in bytes; 512 for a plain file."""
    fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            return 512
        return int.from_bytes(fcntl.ioctl(fd, _BLKSSZGET, bytes(4)), "little")
    finally:
        os.close(fd)


def look(disk: Path, sector: int | None = None) -> Copies:
    """Read both copies, from the disk and not from a cache; nothing is written."""
    size = sector or sector_size(disk)
    with disk.open("rb", buffering=0) as file:
        fd = file.fileno()
        _forget(fd)
        sectors = os.lseek(fd, 0, os.SEEK_END) // size
        faults: dict[str, str] = {}
        first = _try(lambda: read_copy(fd, size, 1, FIRST), FIRST, faults)
        second = _second(fd, size, sectors, first, faults)
        mbr = os.pread(fd, 512, 0)
    entries = [one for one in _mbr_entries(mbr) if any(one)]
    protective = _GPT_PROTECTIVE in _kinds(entries)
    if mbr[_MBR_END:] != _MBR_MARK or not protective:
        faults["mbr"] = "there is no protective MBR"
    elif not any(_protects(one) for one in entries):
        faults["mbr"] = "the protective MBR does not begin at sector 1"
    marked = mbr[_MBR_END:] == _MBR_MARK
    return Copies(disk, size, sectors, first, second, faults, marked and _others(entries))


def _second(
    fd: int, sector: int, sectors: int, first: Copy | None, faults: dict[str, str]
) -> Copy | None:
    """The copy that the first one names; else the one at the end of the disk."""
    place = first.other if first is not None else sectors - 1
    if place >= sectors:
        faults[SECOND] = "its second copy lies behind the end of the disk"
        return None
    found = _try(lambda: read_copy(fd, sector, place, SECOND), SECOND, faults)
    if first is not None and found is not None and not _same(first, found):
        faults[SECOND] = "its second copy says something else than the first"
        return None
    return found


def _same(first: Copy, second: Copy) -> bool:
    return first.table == second.table and second.other == first.own


def _try(look_at: Callable[[], Copy], which: str, faults: dict[str, str]) -> Copy | None:
    try:
        return look_at()
    except DamagedTableError as error:
        faults[which] = str(error)
    except OSError as error:
        faults[which] = f"its {which} copy cannot be read: {error.strerror}"
    return None


def write_first(copies: Copies) -> None:
    """Write the first copy again from the second.

    A power cut is harmless: the second one stays as it is, and until the header is written,
    which is one sector and comes last, the first one is as bad as it was.
    """
    whole = copies.second
    if whole is None:
        raise _both_lost(copies)
    at, entries = 2, _sectors(copies, whole)
    if at + entries > whole.first_usable:
        raise RefusedError(
            f"The first copy of the table of {copies.disk} should have {entries} sectors before "
            f"sector {whole.first_usable}, where partitions begin, and they are not there.",
            "Make the table again with a program for that, from a list of its partitions.",
        )
    _write(copies, whole, 1, whole.own, at)


def write_second(copies: Copies) -> None:
    """Write the second copy again from the first.

    A power cut is harmless: nothing that boots reads it, and the first one stays as it is.
    """
    whole = copies.first
    if whole is None:
        raise _both_lost(copies)
    entries = _sectors(copies, whole)
    at = whole.other - entries
    if whole.other >= copies.sectors or at <= whole.last_usable:
        raise RefusedError(
            f"The second copy of the table of {copies.disk} should have room behind sector "
            f"{whole.last_usable}, where partitions end, and sector {copies.sectors} ends the "
            "disk.",
            "Was it copied to a smaller one? Copy it to one that is large enough.",
        )
    _write(copies, whole, whole.other, whole.own, at)


def write_protective(copies: Copies) -> None:
    """Write the protective MBR; the boot code beside it stays. It is one sector, so whole or not.

    Raises `RefusedError` where the MBR has partitions of somebody's.
    """
    if copies.foreign:
        raise RefusedError(
            f"The MBR of {copies.disk} should say no more than that there is a GPT, and has "
            "partitions of its own.",
            "Remove them, if they are nobody's: sgdisk --zap would remove the GPT as well, "
            "`sfdisk --label-nested dos` shows them.",
        )
    length = min(_LARGEST, copies.sectors - 1)
    entry = _MBR_ENTRY.pack(0, b"\0\2\0", _GPT_PROTECTIVE, b"\xff\xff\xff", 1, length)
    with copies.disk.open("r+b", buffering=0) as file:
        fd = file.fileno()
        raw = bytearray(os.pread(fd, copies.sector, 0))
        raw[_MBR_TABLE:_MBR_END] = entry.ljust(_MBR_END - _MBR_TABLE, b"\0")
        raw[_MBR_END : _MBR_END + 2] = _MBR_MARK
        _put(fd, copies.disk, bytes(raw), 0)


def rename(copies: Copies, number: int, name: str) -> None:
    """Give a partition its name in both copies; the kernel hears of it when it boots.

    The second copy is written first. A power cut between them leaves two that differ, of which
    the first one is right: it is as before.
    """
    first, second = copies.first, copies.second
    if first is None or second is None:
        raise _both_lost(copies)
    raw = bytearray(first.raw)
    at = (number - 1) * first.entry_size + _NAME_IN_ENTRY
    length = ENTRY.size - _NAME_IN_ENTRY
    raw[at : at + length] = name.encode("utf-16-le").ljust(length, b"\0")[:length]
    new = replace(first, raw=bytes(raw))
    entries = _sectors(copies, new)
    _write(copies, new, second.own, first.own, second.own - entries)
    failpoint("gpt-half-written")
    _write(copies, new, first.own, second.own, 2)


@contextmanager
def table_kept(disk: Path) -> Iterator[None]:
    """In the block udev does not have the kernel read the table anew when somebody has written.

    It would take each partition away for a moment. It asks for a lock of the whole disk first
    (systemd, BLOCK_DEVICE_LOCKING), and looks at what changed all the same.
    """
    fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(BlockingIOError):  # then somebody else keeps it
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _write(copies: Copies, says: Copy, own: int, other: int, entries_at: int) -> None:
    """Entries, flushed; then the header, flushed; each read back from the disk."""
    sector = copies.sector
    entries = says.raw.ljust(_sectors(copies, says) * sector, b"\0")
    header = says.header(own, other, entries_at)
    with copies.disk.open("r+b", buffering=0) as file:
        fd = file.fileno()
        _put(fd, copies.disk, entries, entries_at * sector)
        failpoint("gpt-entries-written")
        _put(fd, copies.disk, header.ljust(sector, b"\0"), own * sector)


def _put(fd: int, disk: Path, data: bytes, at: int) -> None:
    if os.pwrite(fd, data, at) != len(data):
        raise DeviceFaultError(f"Writing {len(data)} bytes to {disk} wrote less of them.")
    os.fsync(fd)
    _forget(fd)
    if os.pread(fd, len(data), at) != data:
        raise DeviceFaultError(
            f"{disk} should hold the partition table that was written at byte {at}, and does not.",
            "The disk does not keep what is written to it.",
        )


def _forget(fd: int) -> None:
    """What is read next comes from the disk."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        with suppress(OSError):  # as somebody who may not
            fcntl.ioctl(fd, _BLKFLSBUF, 0)


def _sectors(copies: Copies, says: Copy) -> int:
    return -(-len(says.raw) // copies.sector)


def _mbr_entries(mbr: bytes) -> Iterator[bytes]:
    for number in range(_MBR_ENTRIES):
        at = _MBR_TABLE + number * _MBR_ENTRY.size
        yield mbr[at : at + _MBR_ENTRY.size]


def _protects(entry: bytes) -> bool:
    """As the kernel asks (block/partitions/efi.c): type EE, from sector 1 on."""
    _, _, kind, _, start, _ = _MBR_ENTRY.unpack(entry)
    return bool(kind == _GPT_PROTECTIVE and start == 1)


def _others(entries: list[bytes]) -> bool:
    return bool(entries) and _GPT_PROTECTIVE not in _kinds(entries)


def _kinds(entries: list[bytes]) -> list[int]:
    return [one[4] for one in entries]  # the fifth byte of an entry


def _both_lost(copies: Copies) -> RefusedError:
    told = "; ".join(copies.faults.values())
    return RefusedError(
        f"A copy of the partition table of {copies.disk} should be whole, found none: {told}.",
        "Install the device anew; or make the table again exactly as it was, from a list of "
        "where its partitions begin and end (`sfdisk --dump` of another such device).",
    )


assert HEADER.size == 92
