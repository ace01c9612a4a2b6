"""Machines with a rescue system: what is made for them, and how their disks are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import guest
from device_vm import DeviceVM
from guest import DISK_TOOLS, FULL_KERNEL, Release
from image import Sizes
from vm import VM, Disk, Firmware

from abupdate.disk.drive import look
from abupdate.disk.layout import MIB
from abupdate.disk.partition import Extent

SIZES = Sizes(rescue=512 * MIB)
# With drivers for USB, which Debian's kernel for clouds has not.
RESCUE = Release(
    "1",
    kernel=FULL_KERNEL,
    packages=("curl", *DISK_TOOLS),
    compatible=f"{guest.COMPATIBLE}:rescue",
)
MEMORY = 1024  # MiB


@dataclass(frozen=True)
class Parts:
    """A new device's disk, the bundle of release 2 and a medium, and how fast machines are."""

    disk: Path
    two: Path
    medium: Path
    accel: str


@contextmanager
def machine(
    disk: Path,
    parts: Parts,
    stick: Path | None = None,
    memory: int = MEMORY,
    firmware: Firmware = "uefi",
) -> Iterator[DeviceVM]:
    """Powered on: a machine with that disk and the medium; 10.0.2.2 is this one.

    With a stick, it has no network.
    """
    extra = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0"]
    disks = [Disk(disk, bootindex=1), Disk(parts.medium, readonly=True)]
    if stick is not None:
        extra, disks = [], [*disks, Disk(stick, "usb")]
    with VM(disks, accel=parts.accel, memory=memory, extra=extra, firmware=firmware) as vm:
        found = DeviceVM(vm)
        found.power_on()
        yield found


def in_rescue(machine: DeviceVM) -> None:
    """Rescue came up."""
    machine.wait_for_boot(release="1", boot="rescue")
    machine.settle()
    assert machine.status()["booted"]["slot"] == "R"


def extent(disk: Path, name: str) -> Extent:
    """Where a partition is."""
    (found,) = [one.entry.extent for one in look(disk).partitions if one.entry.name == name]
    return found


def zero(disk: Path, name: str, size: int | None = None) -> None:
    """A partition, or the first bytes of it."""
    where = extent(disk, name)
    with disk.open("r+b") as file:
        file.seek(where.start)
        for _ in range((size or where.size) // MIB):
            file.write(bytes(MIB))
