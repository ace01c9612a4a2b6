"""Put slots back from rescue: each by the same transaction as any install.

Of two slots only the last is armed; the first is complete, and stays out of `good` until it
gets a trial of its own (`abupdate arm`). The owner's data and changes in /etc stay, unless a
factory reset is asked for: that comes after the slot is complete and before it is armed, so
that a source that gives nothing loses nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.boot import state as boot
from abupdate.config import Settings
from abupdate.disk.filesystem import mounts
from abupdate.disk.layout import Slot
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.version import Version
from abupdate.rescue.store import ensure_store
from abupdate.source.local import StoredSource
from abupdate.source.source import Source
from abupdate.update.arming import arm_installed
from abupdate.update.install import Installed, install
from abupdate.update.job import job
from abupdate.update.records import HistoryEntry, now, sync_directory
from abupdate.update.slots import Machine, attempt_note, require_root

# What abupdate itself keeps on data outlives a factory reset: without it, a device would take
# what was revoked, or what is too old.
_KEPT = frozenset({"abupdate", "lost+found"})


@dataclass(frozen=True)
class Lost:
    """What a factory reset would take: a folder of data, with its files and their bytes."""

    path: str
    files: int
    bytes: int


def reflash(
    machine: Machine,
    slots: Sequence[Slot],
    sources: Sequence[Source],
    settings: Settings,
    events: Events,
    *,
    factory_reset: bool = False,
    retry_failed: bool = False,
) -> list[Installed]:
    """Install a release into each of `slots`, and arm the last. Raises an `AbupdateError`.

    Works in rescue alone. What fails leaves the other slot, and data, as they were.
    """
    require_root()
    _require_rescue(machine)
    if not _is_mounted(machine.paths.data):
        events.warning(
            "Data is not mounted: records are kept in memory, and the new release will not find "
            "the owner's files. `abupdate doctor --repair` may bring it back."
        )
        ensure_store(machine)
    _need_state(machine, slots[0], settings, events)
    done: list[Installed] = []
    for slot in slots:
        wanted = [StoredSource(Version.parse(done[-1].release))] if done else sources
        last = slot == slots[-1]
        found = install(
            machine, wanted, settings, events, slot=slot, arm=last and not factory_reset,
            retry_failed=retry_failed,
        )  # fmt: skip
        done.append(found)
    if factory_reset:
        reset(machine, events)
        arm_installed(machine, events, slots[-1])
    return done


def would_be_lost(machine: Machine) -> list[Lost]:
    """What a factory reset takes, by folder of the data partition."""
    return [_count(path) for path in _lost(machine.paths.data)]


def reset(machine: Machine, events: Events) -> None:
    """Remove the owner's files and changes in /etc; what is cut off is done by the next one."""
    with job(machine.paths.runtime, "factory reset"), events.step("reset", "Factory reset"):
        if not _is_mounted(machine.paths.data):
            raise DeviceFaultError(
                f"The data partition should be mounted at {machine.paths.data}, and is not.",
                "`abupdate doctor` tells what is wrong with it.",
            )
        for path in _lost(machine.paths.data):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            failpoint("reset-folder")
        sync_directory(machine.paths.data)
        entry = HistoryEntry("factory-reset", now())
        attempt_note(lambda: machine.records.append(entry), events.warning, "history")


def _lost(data: Path) -> Iterator[Path]:
    return (path for path in sorted(data.iterdir()) if path.name not in _KEPT)


def _count(path: Path) -> Lost:
    files = size = 0
    for top, _, names in os.walk(path):
        for name in names:
            files += 1
            size += os.lstat(os.path.join(top, name)).st_size  # noqa: PTH118 - many
    return Lost(f"/data/{path.name}", files, size)


def _require_rescue(machine: Machine) -> None:
    booted = machine.booted()
    if booted.slot is not None:
        raise RefusedError(
            f"Slot {booted.slot} runs, and both slots can be written from rescue alone.",
            f"`abupdate install` writes slot {booted.slot.other}; `abupdate rescue boot --reboot` "
            "goes to rescue.",
        )


def _need_state(machine: Machine, slot: Slot, settings: Settings, events: Events) -> None:
    """Where both copies of the boot state are lost, one that boots nothing until it is armed.

    Whoever has a slot to go back to, repairs first: then that is in the boot state.
    """
    if machine.grubenv().read().state is not None:
        return
    events.warning("Both copies of the boot state are lost: no slot is known as good.")
    new = boot.provision(settings.boot.tries, settings.boot.limit)
    new = replace(new, slot=slot.other, good="xx", ustate=boot.Ustate.FAILED)
    with job(machine.paths.runtime, "boot state"):
        machine.grubenv().write(new, backup_first=True)


def _is_mounted(path: Path) -> bool:
    return any(entry.target == str(path) for entry in mounts())
