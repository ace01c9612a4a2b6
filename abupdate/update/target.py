"""The slot that an install may write, and every refusal before it reads its source.

A person finds a write-protected stick, a live medium or a data partition that the
kernel made read-only here, and not half way through.
"""

from __future__ import annotations

import os
from pathlib import Path

from abupdate.boot import state as boot
from abupdate.disk.filesystem import mounts, refuse_if_in_use, takes_writes
from abupdate.disk.layout import Partition, Slot
from abupdate.errors import RefusedError
from abupdate.run import PACKAGES, require_programs
from abupdate.update.slots import Booted, Machine, other_partition, require_store

_SYSFS = Path("/sys/dev/block")


def target(machine: Machine, wanted: Slot | None = None) -> tuple[Booted, Slot, Partition]:
    """The running system, the slot to write, and its partition. Raises `RefusedError`.

    That is the other slot; `wanted` says which where rescue runs.

    Raises `DeviceFaultError` when a program is missing that an install runs.
    """
    booted = machine.booted()
    slot = wanted or (booted.slot.other if booted.slot is not None else None)
    if slot is None:
        raise RefusedError(
            "This is rescue, and neither slot is the other one.",
            "Say which to write: abupdate rescue reflash A SOURCE",
        )
    partition = other_partition(booted, slot)
    machine.unmount_leftovers()
    refuse_if_in_use(partition.device)
    boot.begin(machine.boot_state(), slot, booted.name)
    _refuse_unwritable(machine, partition)
    return booted, slot, partition


def _refuse_unwritable(machine: Machine, partition: Partition) -> None:
    """Slot, ESP or data take no writes, or there is no store."""
    require_programs(PACKAGES)
    paths = machine.paths
    if not takes_writes(partition.device):
        raise _unwritable(f"{partition.device}, the partition of the other slot,")
    esp = next((entry for entry in reversed(mounts()) if entry.target == str(paths.esp)), None)
    if esp is not None and write_protected(esp.device_number):
        raise _unwritable(f"the device of the boot partition, which is mounted at {paths.esp},")
    require_store(machine)
    if os.statvfs(paths.state).f_flag & os.ST_RDONLY:
        raise RefusedError(
            f"Not a writable boot medium: {paths.state} is read-only.",
            "The kernel makes a filesystem read-only after an error in it: `dmesg` tells. Else "
            f"make it writable: mount -o remount,rw {paths.data}",
        )


def write_protected(number: str) -> bool:
    """The kernel's flag of a partition (`8:2`), or of its disk."""
    for flag in (_SYSFS / number / "ro", _SYSFS / number / ".." / "ro"):
        try:
            if flag.read_text().strip() == "1":
                return True
        except OSError:
            continue
    return False


def _unwritable(what: str) -> RefusedError:
    return RefusedError(
        f"Not a writable boot medium: {what} takes no writes.",
        "Look for a write-protect switch and for errors of the disk in the kernel's log; a live "
        "or installation medium is not updated.",
    )
