"""Partition tables (GPT), made with libparted. Works on a disk and on a plain file.

Sizes and offsets are bytes. Partitions begin at multiples of 1 MiB, in the
order of the list, each right behind the one before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abupdate.disk.layout import MIB, PartitionSpec
from abupdate.errors import DeviceFaultError, NoSpaceError

# The second copy of the table: 33 sectors of at most 4096 bytes.
_TAIL = MIB

# What libparted takes for the sectors of a plain file.
_SECTOR_SIZE = "PARTED_SECTOR_SIZE"


@dataclass(frozen=True)
class Extent:
    """Where a partition is: bytes from the start of the disk, and how many."""

    start: int
    size: int


def plan(disk_size: int, specs: Sequence[PartitionSpec]) -> list[Extent]:
    """Where each partition goes. Raises `NoSpaceError` when they do not fit."""
    fixed = sum(spec.size or 0 for spec in specs)
    rest = (disk_size - MIB - _TAIL - fixed) // MIB * MIB
    needs_rest = any(spec.size is None for spec in specs)
    if rest < (MIB if needs_rest else 0):
        raise NoSpaceError(
            f"The partitions need {(fixed + MIB + _TAIL) >> 20} MiB and more, and the disk has "
            f"{disk_size >> 20} MiB.",
            "Take a larger disk, or smaller slots.",
        )
    extents = []
    position = MIB
    for spec in specs:
        size = rest if spec.size is None else spec.size
        extents.append(Extent(position, size))
        position += size
    return extents


def make_table(
    disk: Path, specs: Sequence[PartitionSpec], sector: int | None = None
) -> list[Extent]:
    """Write a new partition table, all others on the disk lost; gives where each partition is.

    `disk` exists and has its full size. `sector`: 512 or 4096 bytes, which the
    table counts in; None is what a disk has itself, and 512 for a plain file.
    Raises `DeviceFaultError` when libparted refuses or the disk has other
    sectors, `NoSpaceError` when the partitions do not fit.
    """
    import _ped
    import parted

    try:
        with _device(disk, sector) as device:
            extents = plan(device.length * device.sectorSize, specs)
            table = parted.freshDisk(device, "gpt")
            for spec, extent in zip(specs, extents, strict=True):
                _add(table, spec, extent)
            table.commitToDevice()
    except (_ped.PartedException, parted.PartitionException, parted.DiskException) as error:
        raise DeviceFaultError(f"No partition table could be made on {disk}: {error}") from error
    return extents


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
            f"Partition '{spec.name}' should have number {spec.number}, got {partition.number}."
        )
