"""This device: which slot is booted, which is the other, and where its things are.

Everything a use case needs of the machine comes through `Machine`, so that
tests drive the same use cases on loop devices and in folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from abupdate.boot.cmdline import BootArguments
from abupdate.boot.cmdline import parse as parse_cmdline
from abupdate.boot.grubenv import Grubenv
from abupdate.boot.rulesfiles import RulesFiles
from abupdate.boot.state import RESCUE as RESCUE_NAME
from abupdate.boot.state import BootState
from abupdate.disk.layout import RESCUE, BootDisk, Partition, Slot
from abupdate.errors import (
    AbupdateError,
    InterruptedByUserError,
    RefusedError,
    TerminatedError,
)
from abupdate.paths import Paths
from abupdate.update.records import Records

if TYPE_CHECKING:
    from abupdate.run import Sandbox
    from abupdate.store.repository import Repository

STORE_USER = "abupdate-store"


def _find_boot_disk(root: Path) -> BootDisk:
    from abupdate.disk.find import boot_disk

    return boot_disk(root)


@dataclass(frozen=True)
class Booted:
    """What runs, as the command line and the mounted root agree on it.

    `slot` is None in rescue.
    """

    slot: Slot | None
    arguments: BootArguments
    disk: BootDisk

    @property
    def name(self) -> str:
        """As the boot state names it: A, B or R."""
        return str(self.slot) if self.slot is not None else RESCUE_NAME


@dataclass(frozen=True)
class Machine:
    """A device: its paths, its disk, who runs git for it."""

    paths: Paths = field(default_factory=Paths)
    find_disk: Callable[[Path], BootDisk] = _find_boot_disk
    sandbox: Sandbox | None = None

    @property
    def records(self) -> Records:
        """Slot records, intent and history."""
        return Records(self.paths.state)

    @property
    def mountpoint(self) -> Path:
        """Where a job mounts the slot that it works on."""
        return self.paths.runtime / "slot"

    @property
    def lower(self) -> Path:
        """Where a job has the booted slot without what is mounted over its folders."""
        return self.paths.runtime / "booted"

    @property
    def overlay(self) -> Path:
        """Where a job has what fixups write over that slot, in memory."""
        return self.paths.runtime / "fixups"

    def unmount_leftovers(self) -> None:
        """Unmount what a killed run of ours left; the caller holds the lock."""
        from abupdate.disk.filesystem import unmount_leftover

        for target in (self.overlay / "root", self.overlay, self.lower, self.mountpoint):
            unmount_leftover(target)

    def grubenv(self) -> Grubenv:
        """The boot state on the ESP, made writable only for a write."""
        from abupdate.disk.filesystem import writable

        return Grubenv(self.paths.esp / "grub", writable=partial(writable, self.paths.esp))

    def rules(self) -> RulesFiles:
        """The rules of GRUB on the ESP, made writable only for a write."""
        from abupdate.disk.filesystem import writable

        return RulesFiles(self.paths.esp / "grub", writable=partial(writable, self.paths.esp))

    def store(self) -> Repository:
        """The git repository on data."""
        from abupdate.store.repository import Repository

        return Repository(self.paths.state / "store.git", sandbox=self.sandbox)

    def arguments(self) -> BootArguments:
        """What GRUB told the kernel."""
        try:
            return parse_cmdline(self.paths.cmdline.read_text(errors="replace"))
        except OSError as error:
            raise RefusedError(
                f"The kernel command line should be readable at {self.paths.cmdline}: "
                f"{error.strerror}."
            ) from error

    def booted(self) -> Booted:
        """What runs. Raises `RefusedError` when command line and mount disagree."""
        arguments = self.arguments()
        if arguments.slot is None:
            raise RefusedError(
                "This system should have been booted by abupdate's GRUB configuration, "
                "but there is no abupdate.slot= on the kernel command line.",
                "A live or installation medium is not updated: start the installed system, and "
                "run it there.",
            )
        disk = self.find_disk(self.paths.root)
        mounted = disk.slot_of_root()
        claimed = None if arguments.slot == "R" else Slot(arguments.slot)
        same_partition = arguments.root_partuuid in (None, disk.root.partuuid.lower())
        if claimed is None and disk.root.name != RESCUE:
            same_partition = False
        if mounted != claimed or not same_partition:
            raise RefusedError(
                f"The command line says slot {arguments.slot} on partition "
                f"{arguments.root_partuuid}, but the root filesystem is {disk.root.device} "
                f"('{disk.root.name}', {disk.root.partuuid}).",
                "Nothing is written while the two disagree; reboot and look at the boot menu.",
            )
        return Booted(claimed, arguments, disk)

    def boot_state(self) -> BootState:
        """The boot state. Raises `RefusedError` when no copy of it is whole."""
        reading = self.grubenv().read()
        if reading.state is None:
            raise RefusedError(
                f"The boot state in {self.paths.esp}/grub should be readable: "
                f"{'; '.join(reading.problems)}.",
                "Reboot: GRUB then starts rescue, which rebuilds it; a device without a rescue "
                "system must be installed anew.",
            )
        return reading.state


def this_machine() -> Machine:
    """The device that this process runs on."""
    from abupdate.run import Sandbox

    return Machine(sandbox=Sandbox(STORE_USER))


def require_store(machine: Machine) -> None:
    """Raise `RefusedError` where there is no store."""
    store = machine.paths.state / "store.git"
    if not store.is_dir():
        raise RefusedError(
            f"The store should be at {store}, and is not.",
            f"Is the data partition mounted? `findmnt {machine.paths.data}` tells.",
        )


def require_root() -> None:
    """Raise `RefusedError` unless this process is root."""
    if os.geteuid() != 0:
        raise RefusedError("This must be run as root.", "Try again with sudo.")


def other_partition(booted: Booted, target: Slot) -> Partition:
    """The partition of the slot to write. Never the booted one.

    Raises `RefusedError` also when GRUB would not find the booted one: a
    fallback would end in rescue.
    """
    if booted.slot is not None:
        booted.disk.slot(booted.slot)
    partition = booted.disk.slot(target)
    if partition.device == booted.disk.root.device or target == booted.slot:
        raise RefusedError(
            f"Slot {target} is the one that runs; only the other slot can be written."
        )
    return partition


def write_state(
    machine: Machine,
    state: BootState,
    done: str,
    undo: str = "",
    then: Callable[[], object] = lambda: None,
) -> None:
    """Write the boot state, and `then` do what is right once GRUB goes by it.

    What fails after that is told with `done`, for it is so, and `undo`, what to do about it.
    """
    try:
        machine.grubenv().write(state)
    except AbupdateError as error:
        found = machine.grubenv().read().state
        if found is None:
            so = f"{done[0].lower()}{done[1:]}"
            error.message += f" Neither copy can be read back; it may be that {so} all the same."
            error.hint = f"{error.hint or ''} `abupdate status` tells after a reboot.".strip()
        elif found == state:  # the second copy alone was not written
            error.message += f" {done} all the same."
            error.hint = f"{error.hint or ''} {undo}".strip() or None
            then()
        raise
    then()


def attempt_note(action: Callable[[], object], told: Callable[[str], None], what: str) -> bool:
    """Do something that must not undo what is already done; tell when it fails."""
    try:
        action()
    except (InterruptedByUserError, TerminatedError):
        raise
    except (AbupdateError, OSError) as error:
        told(f"{what}: {error}")
        return False
    return True
