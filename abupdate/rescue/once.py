"""Rescue for the next boot only, as somebody asks."""

from __future__ import annotations

from abupdate.boot import state as boot
from abupdate.disk.layout import RESCUE
from abupdate.errors import RefusedError
from abupdate.update.job import job, unstoppable
from abupdate.update.slots import Machine, require_root, write_state


def boot_once(machine: Machine) -> None:
    """Let GRUB start rescue at the next boot. Raises `RefusedError` where there is none."""
    require_root()
    with job(machine.paths.runtime, "rescue boot"):
        disk = machine.booted().disk
        if len(disk.labelled(RESCUE)) != 1:
            raise RefusedError(
                f"{disk.device} should have one rescue system, found {len(disk.labelled(RESCUE))}.",
                "`abupdate rescue update SOURCE` writes it.",
            )
        state = boot.rescue_once(machine.boot_state())
        with unstoppable():
            write_state(machine, state, "The next boot is rescue")
