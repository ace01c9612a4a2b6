"""Partition tables (GPT), made with libparted. Works on a disk and on a plain file.

Sizes and offsets are bytes. Partitions begin at multiples of 1 MiB, in the
order of the list, each right behind the one before; where partitions of before
are kept, in the gaps between them.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from abupdate.disk.layout import MIB, PartitionSpec
from abupdate.errors import DeviceFaultError, NoSpaceError

# The second copy of the table: 33 sectors of at most 4096 bytes.
_TAIL = MIB

# What libparted takes for the sectors of a plain file.
_SECTOR_SIZE = "PARTED_SECTOR_SIZE"

# UEFI specification 2.10, 5.3.2 and 5.3.3.
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_HEADER_SUM, _GUID_IN_ENTRY = 16, 16


@dataclass(frozen=True)
class Extent:
    """Where a partition is: bytes from the start of the disk, and how many."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class TableEntry:
    """A partition that a table has. `name` is GPT's, empty in other tables; `esp`: UEFI's own.

    `encrypted`: it is known to hold LUKS. `partuuid`: GPT's, as the kernel writes it.
    """

    number: int
    name: str
    extent: Extent
    esp: bool = False
    encrypted: bool = False
    partuuid: str = ""


def plan(
    disk_size: int,
    specs: Sequence[PartitionSpec],
    kept: Sequence[Extent] = (),
    usable: Extent | None = None,
) -> list[Extent]:
    """Where each partition goes. Raises `NoSpaceError` when they do not fit.

    Nothing of `kept` is touched; `usable`: where the table that has it lets partitions be. Without
    it, what has no size gets all that is left; else
    what is left of the largest gap.
    """
    gaps = _gaps(disk_size, kept, usable)
    sized: dict[int, Extent] = {}
    for index, spec in enumerate(specs):
        if spec.size is None and not kept:
            # All in one gap, in the order of the list: what comes behind it ends at the end.
            behind = sum(one.size or 0 for one in specs[index + 1 :])
            free = gaps[0].size if gaps else 0
            size = max(0, free - behind) // MIB * MIB
        elif spec.size is None:
            continue
        else:
            size = spec.size
        place = next((gap for gap in gaps if gap.size >= size > 0), None)
        if place is None:
            raise _too_small(disk_size, specs, kept)
        sized[index] = Extent(place.start, size)
        gaps[gaps.index(place)] = Extent(place.start + size, place.size - size)
    for index, spec in enumerate(specs):
        if spec.size is None and kept:
            largest = max(gaps, key=lambda gap: gap.size, default=Extent(0, 0))
            if largest.size < MIB:
                raise _too_small(disk_size, specs, kept)
            sized[index] = largest
            gaps.remove(largest)
    return [sized[index] for index in range(len(specs))]


def _gaps(disk_size: int, kept: Sequence[Extent], usable: Extent | None = None) -> list[Extent]:
    """What is free, in whole MiB."""
    gaps = []
    position, last = MIB, disk_size - _TAIL
    if usable is not None:
        position, last = max(position, usable.start), min(last, usable.end)
    for taken in [*sorted(kept, key=lambda one: one.start), Extent(last, 0)]:
        start, end = -(-position // MIB) * MIB, taken.start // MIB * MIB
        if end > start:
            gaps.append(Extent(start, end - start))
        position = max(position, taken.end)
    return gaps


def _too_small(
    disk_size: int, specs: Sequence[PartitionSpec], kept: Sequence[Extent]
) -> NoSpaceError:
    fixed = sum(spec.size or MIB for spec in specs)
    told = ", ".join(f"{spec.name} {(spec.size or MIB) >> 20}" for spec in specs)
    if kept:
        free = ", ".join(f"{gap.size >> 20} MiB" for gap in _gaps(disk_size, kept)) or "nothing"
        return NoSpaceError(
            f"The partitions need {fixed >> 20} MiB and more ({told}), and free beside what is "
            f"kept is {free}.",
            "Keep less, or take smaller slots or another disk.",
        )
    return NoSpaceError(
        f"The partitions need {(fixed + MIB + _TAIL) >> 20} MiB and more ({told}), and the disk "
        f"has {disk_size >> 20} MiB.",
        "Take a larger disk, or smaller slots.",
    )


def read_table(disk: Path, sector: int | None = None) -> list[TableEntry]:
    """The partitions of a table that is no GPT (`gpt.read`); none where there is no table."""
    import _ped
    import parted

    with _device(disk, sector) as device:
        try:
            table = parted.newDisk(device)
        except (_ped.PartedException, parted.DiskException):
            return []
        return [
            TableEntry(
                partition.number,
                "",
                Extent(
                    partition.geometry.start * device.sectorSize,
                    partition.geometry.length * device.sectorSize,
                ),
            )
            for partition in table.partitions
        ]


def make_table(
    disk: Path,
    specs: Sequence[PartitionSpec],
    sector: int | None = None,
    *,
    keep: Sequence[TableEntry] = (),
    extents: Sequence[Extent] | None = None,
    guid: Callable[[str], UUID] | None = None,
) -> list[Extent]:
    """Write the partition table; gives where each new partition is: at `extents`, else as planned.

    Of what the disk has, only the partitions of `keep` stay, under their numbers.
    `disk` exists and has its full size. `sector`: 512 or 4096 bytes, which the
    table counts in; None is what a disk has itself, and 512 for a plain file.
    `guid`: the ids of the disk (by the name `disk`) and of each partition, instead of
    random ones. The kernel is told where it is a disk.

    Raises `DeviceFaultError` when libparted refuses or the disk has other
    sectors, `NoSpaceError` when the partitions do not fit.
    """
    import _ped
    import parted

    try:
        with _device(disk, sector) as device:
            size = device.length * device.sectorSize
            if extents is None:
                extents = plan(size, specs, [entry.extent for entry in keep])
            if keep:
                table = parted.newDisk(device)
                numbers = {entry.number for entry in keep}
                for partition in list(table.partitions):
                    if partition.number not in numbers:
                        table.deletePartition(partition)
            else:
                table = parted.freshDisk(device, "gpt")
            _add_all(table, specs, extents)
            table.commitToDevice()
            if guid is not None:
                named = {spec.number: guid(spec.name) for spec in specs}
                _set_guids(disk, device.sectorSize, guid("disk"), named)
            if stat.S_ISBLK(disk.stat().st_mode):
                table.commitToOS()
    except (_ped.PartedException, parted.PartitionException, parted.DiskException) as error:
        raise DeviceFaultError(f"No partition table could be made on {disk}: {error}") from error
    return list(extents)


@contextmanager
def _device(disk: Path, sector: int | None) -> Iterator[Any]:
    """libparted's view of a disk, or of a plain file as a disk with such sectors.

    For the latter it has a variable and no function (init_file in
    libparted/arch/linux.c); sectors of a real disk come from the kernel.
    """
    import parted

    before = os.environ.pop(_SECTOR_SIZE, None)
    try:
        if sector is not None:
            os.environ[_SECTOR_SIZE] = str(sector)
        device = parted.getDevice(str(disk))
        try:
            if sector not in (None, device.sectorSize):
                raise DeviceFaultError(
                    f"{disk} should have sectors of {sector} bytes, found {device.sectorSize}.",
                    "Leave the choice to the disk.",
                )
            yield device
        finally:
            # libparted remembers size and sectors of a path, whatever is there next time.
            device.removeFromCache()
    finally:
        os.environ.pop(_SECTOR_SIZE, None)
        if before is not None:
            os.environ[_SECTOR_SIZE] = before


def _add_all(table: Any, specs: Sequence[PartitionSpec], extents: Sequence[Extent]) -> None:
    """Add them by number. libparted gives the lowest that is free, so those between are held."""
    import parted

    held: list[Any] = []
    for spec, extent in sorted(zip(specs, extents, strict=True), key=lambda pair: pair[0].number):
        taken = {partition.number for partition in table.partitions}
        for _ in set(range(1, spec.number)) - taken:
            # Before the first MiB, where no partition of ours begins.
            sector = MIB // table.device.sectorSize - 1 - len(held)
            geometry = parted.Geometry(device=table.device, start=sector, length=1)
            held.append(parted.Partition(table, parted.PARTITION_NORMAL, geometry=geometry))
            table.addPartition(held[-1], parted.Constraint(exactGeom=geometry))
        _add(table, spec, extent)
    for partition in held:
        table.deletePartition(partition)


def _add(table: object, spec: PartitionSpec, extent: Extent) -> None:
    import parted

    disk: parted.Disk = table
    sector = disk.device.sectorSize
    geometry = parted.Geometry(
        device=disk.device, start=extent.start // sector, length=extent.size // sector
    )
    # A file system kind makes libparted choose the right GPT type.
    kind = {"vfat": "fat32", "ext4": "ext4"}.get(spec.filesystem or "")
    partition = parted.Partition(
        disk=disk,
        type=parted.PARTITION_NORMAL,
        geometry=geometry,
        fs=parted.FileSystem(type=kind, geometry=geometry) if kind else None,
    )
    disk.addPartition(partition=partition, constraint=parted.Constraint(exactGeom=geometry))
    partition.set_name(spec.name)
    if spec.flag == "esp":
        # libparted's name for an EFI system partition on GPT.
        partition.setFlag(parted.PARTITION_BOOT)
    elif spec.flag == "bios_grub":
        partition.setFlag(parted.PARTITION_BIOS_GRUB)
    if partition.number != spec.number:
        raise DeviceFaultError(
            f"Partition '{spec.name}' should have number {spec.number}, got {partition.number}.",
            "The number is taken by a partition that is kept.",
        )


def _set_guids(disk: Path, sector: int, disk_guid: UUID, guids: dict[int, UUID]) -> None:
    """Give disk and partitions these ids, in both copies of the table. libparted cannot."""
    with disk.open("r+b", buffering=0) as file:
        fd = file.fileno()
        last = os.lseek(fd, 0, os.SEEK_END) // sector - 1
        for place in (last, 1):
            words = list(_HEADER.unpack(os.pread(fd, _HEADER.size, place * sector)))
            first_entry, count, size = words[10] * sector, words[11], words[12]
            entries = bytearray(os.pread(fd, count * size, first_entry))
            for number, guid in guids.items():
                at = (number - 1) * size + _GUID_IN_ENTRY
                entries[at : at + 16] = guid.bytes_le
            words[9], words[13] = disk_guid.bytes_le, zlib.crc32(entries)
            words[3] = 0
            words[3] = zlib.crc32(_HEADER.pack(*words))
            os.pwrite(fd, entries, first_entry)
            os.pwrite(fd, _HEADER.pack(*words), place * sector)
        os.fsync(fd)
