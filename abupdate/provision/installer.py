"""What makes a disk an installer: a mark on data, and the layout for the disks that it makes.

It is a device with its release in slot A and in the store, and nothing else: no slot B, no
rescue. `installer/` has what starts the offer.
"""

from __future__ import annotations

import json
from pathlib import Path

from abupdate.disk.layout import BIOS, BOOT, DATA, MIB, Slot
from abupdate.errors import RefusedError
from abupdate.provision.layout import (
    Layout,
    PartitionLayout,
    data_minimum,
    read_layout,
    slot_minimum,
)
from abupdate.provision.state import copy_state
from abupdate.update.prepare import Need
from abupdate.update.slots import Machine

_MARK = "installer"
_LAYOUT = "layout.toml"
_STATE = "state"
_RESCUE = "rescue"
_BOOT = 64 * MIB
# Beside the store: /var, /home and what is worked with while it installs.
_ROOM = 256 * MIB
# libparted's two copies of the table, each within a MiB.
_TABLES = 2 * MIB


def installer_layout(need: Need, store: int, own: int = 0) -> tuple[Layout, int]:
    """The partitions of an installer for that release, and the size of its image in bytes.

    `own`: bytes of what it brings of the owner's.
    """
    sizes = {
        BIOS: MIB,
        BOOT: _BOOT,
        Slot.A.label: slot_minimum(need) * 21 // 20 // MIB * MIB,
        DATA: data_minimum(store, own) + _ROOM,
    }
    parts = tuple(
        PartitionLayout.model_validate({"name": name, "size": size}) for name, size in sizes.items()
    )
    # It lacks slot B, which every device must have: so the check is left out.
    return Layout.model_construct(partition=parts), sum(sizes.values()) + _TABLES


def mark(state: Path, layout: Layout, own: Path | None = None, rescue: str | None = None) -> None:
    """Make a device's data, under `state`, that of an installer.

    `own`: what is the owner's goes to what it installs; `rescue`: the version of its rescue system.
    """
    folder = state / _MARK
    folder.mkdir(parents=True)
    lines = []
    for one in layout.partition:
        values = one.model_dump(exclude_none=True)
        lines += ["[[partition]]", *(f"{key} = {json.dumps(values[key])}" for key in values)]
    (folder / _LAYOUT).write_text("".join(f"{line}\n" for line in lines))
    if own is not None:
        (folder / _STATE).mkdir()
        copy_state(own, folder / _STATE)
    if rescue is not None:
        (folder / _RESCUE).write_text(f"{rescue}\n")


def own_release(machine: Machine) -> str:
    """The version of the release that an installer installs. Raises `RefusedError` elsewhere."""
    record = machine.records.slot(Slot.A)
    if record is None or not (machine.paths.state / _MARK).is_dir():
        raise RefusedError(
            "This is no installer: its data partition does not say so.",
            "`abupdate provision DISK RELEASE` installs from any machine; `--installer` makes one.",
        )
    return record.release


def installed_layout(machine: Machine) -> Layout:
    """The layout of the disks that an installer makes."""
    return read_layout(machine.paths.state / _MARK / _LAYOUT)


def installed_state(machine: Machine) -> Path | None:
    """The owner's files that an installer brings."""
    folder = machine.paths.state / _MARK / _STATE
    return folder if folder.is_dir() else None


def own_rescue(machine: Machine) -> str | None:
    """The version of the rescue system that an installer installs, None where it has none."""
    path = machine.paths.state / _MARK / _RESCUE
    return path.read_text().strip() if path.is_file() else None
