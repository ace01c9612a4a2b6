"""The disk that booted, and its partitions, from udev.

The walk starts at the device of the mounted root filesystem and looks at its
siblings only: a second disk with the same names or labels is never seen.
Filesystem labels come from the superblocks, because udev's copy may be older
than the last change.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyudev

from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import BootDisk, Partition
from abupdate.errors import RefusedError

# Where the initramfs leaves the number of the partition that rescue was started from, before
# it goes on from memory (initramfs/abupdate-mount).
_BOOT_PARTITION = Path("/run/abupdate/boot-partition")


def boot_disk(root: Path = Path("/")) -> BootDisk:
    """The disk that holds the filesystem mounted at `root`.

    Raises `RefusedError` where that is no partition of a disk (a live medium, a
    container, a machine that abupdate was not installed on).
    """
    context = pyudev.Context()
    number = _in_memory(root) or root.stat().st_dev
    try:
        booted = pyudev.Devices.from_device_number(context, "block", number)
    except pyudev.DeviceNotFoundError as error:
        raise _not_a_partition(root, f"{os.major(number)}:{os.minor(number)}") from error
    disk = booted.find_parent("block", "disk")
    if disk is None:
        raise _not_a_partition(root, str(booted.device_node))
    children = context.list_devices(subsystem="block", DEVTYPE="partition", parent=disk)
    partitions = tuple(
        sorted((_partition(child) for child in children), key=lambda part: part.number)
    )
    by_device = {part.device: part for part in partitions}
    return BootDisk(Path(disk.device_node), partitions, by_device[Path(booted.device_node)])


def _in_memory(root: Path) -> int | None:
    """The partition that a root in memory came from."""
    if root != Path("/") or os.major(root.stat().st_dev) != 0 or not _BOOT_PARTITION.is_file():
        return None
    major, _, minor = _BOOT_PARTITION.read_text().strip().partition(":")
    return os.makedev(int(major), int(minor))


def twins(disk: BootDisk) -> list[Path]:
    """Partitions anywhere with the root's PARTUUID, apart from the root itself.

    The kernel takes `root=PARTUUID=` from any disk, so with a copy of the disk
    attached it may run from one and GRUB from the other.
    """
    wanted = disk.root.partuuid.lower()
    if not wanted:
        return []
    everywhere = pyudev.Context().list_devices(subsystem="block", DEVTYPE="partition")
    found = (Path(part.device_node) for part in everywhere if _partuuid(part).lower() == wanted)
    return sorted(path for path in found if path != disk.root.device)


def with_label(label: str) -> list[tuple[Path, str]]:
    """Block devices of all disks whose filesystem has that label, and its type.

    Where that lies on a whole disk, its boot sector may look like a partition table: udev then
    gives the partitions that are none what the disk has.
    """
    found = list(pyudev.Context().list_devices(subsystem="block", ID_FS_LABEL=label))
    whole = {one.device_node for one in found if one.device_type == "disk"}
    wanted = [one for one in found if _disk_of(one) not in whole]
    wanted += [one for one in found if one.device_node in whole]
    return [(Path(one.device_node), one.properties.get("ID_FS_TYPE", "")) for one in wanted]


def _disk_of(device: pyudev.Device) -> str:
    disk = device if device.device_type == "disk" else device.find_parent("block", "disk")
    return str(disk.device_node) if disk is not None else ""


def _partition(device: pyudev.Device) -> Partition:
    node = Path(device.device_node)
    superblock = read_superblock(node)
    return Partition(
        device=node,
        number=int(device.properties.get("ID_PART_ENTRY_NUMBER") or device.sys_number),
        name=device.properties.get("PARTNAME") or device.properties.get("ID_PART_ENTRY_NAME") or "",
        partuuid=_partuuid(device),
        label=superblock.label if superblock else None,
        uuid=superblock.uuid if superblock else None,
        size=device.attributes.asint("size") * 512,
    )


def _partuuid(device: pyudev.Device) -> str:
    return device.properties.get("ID_PART_ENTRY_UUID") or device.properties.get("PARTUUID") or ""


def _not_a_partition(root: Path, found: str) -> RefusedError:
    return RefusedError(
        f"Not a writable boot medium: {root} should be a partition of a disk in abupdate's "
        f"layout, found {found}.",
        "A live or installation medium is not updated: start the installed system, and run it "
        "there.",
    )
