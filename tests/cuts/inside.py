"""Runs in the recording machine: commands on the disk under test, as if it had booted from it.

Fed to `python3 -` with JSON as its argument: `slot` and `how` of the boot, `commands`,
`user` files to write first (path on data → text), `broken` the name of a mistake
that abupdate is to make.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from abupdate.boot import grubenv, inplace, state
from abupdate.boot.state import BootState
from abupdate.cli import invocation
from abupdate.cli.main import main
from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from abupdate.paths import Paths
from abupdate.run import Sandbox
from abupdate.update import arming, records
from abupdate.update.slots import STORE_USER, Machine

TOP = Path("/run/cut")
DISK = "/dev/disk/by-id/virtio-cut"
NUMBERS = {"A": 4, "B": 5, "R": 3}


def arm_before_sync(machine: Machine, slot: Slot) -> None:
    """The next boot is decided before what it boots has reached the disk."""
    sync = filesystem.syncfs

    def early(fd: int) -> None:
        machine.grubenv().write(state.arm(machine.boot_state(), slot))
        sync(fd)

    filesystem.syncfs = early
    arming.arm = lambda *_: None


def truncate_grubenv(_machine: Machine, _slot: Slot) -> None:
    """The old state is gone before the new one is written."""

    def overwrite(path: Path, raw: bytes) -> None:
        with path.open("wb") as file:
            os.fsync(file.fileno())
            file.write(raw)

    inplace._overwrite = overwrite


def label_before_read_back(_machine: Machine, slot: Slot) -> None:
    """The commit mark is set on what the disk then turns out not to hold."""
    check = filesystem.check

    def early(device: Path) -> None:
        check(device)
        filesystem.relabel(device, slot.label)
        flip_a_bit(device)

    filesystem.check = early


def lying_disk(_machine: Machine, _slot: Slot) -> None:
    """No mistake of abupdate: a disk that loses what was written."""
    check = filesystem.check

    def after(device: Path) -> None:
        check(device)
        flip_a_bit(device)

    filesystem.check = after


def backup_after_slot(machine: Machine, _slot: Slot) -> None:
    """The backup still names the slot that is being written."""
    write, relabel = grubenv.Grubenv.write, filesystem.relabel
    late: list[bytes] = []

    def primary_only(self: grubenv.Grubenv, new: BootState, *, backup_first: bool = False) -> None:
        backup = machine.paths.esp / "grub" / grubenv.BACKUP
        old = backup.read_bytes()
        write(self, new, backup_first=backup_first)
        if backup_first:
            late.append(backup.read_bytes())
            with filesystem.writable(machine.paths.esp), backup.open("r+b") as file:
                file.write(old)

    def then_backup(device: Path, label: str, **more: bool) -> None:
        relabel(device, label, **more)
        if late:
            backup = machine.paths.esp / "grub" / grubenv.BACKUP
            with filesystem.writable(machine.paths.esp), backup.open("r+b") as file:
                file.write(late.pop())

    setattr(grubenv.Grubenv, "write", primary_only)  # noqa: B010
    filesystem.relabel = then_backup


def no_directory_fsync(_machine: Machine, _slot: Slot) -> None:
    """A record that was renamed into place may not be there after a power cut."""
    records.sync_directory = lambda path: None


def flip_a_bit(device: Path) -> None:
    """In the content of a file, beneath the filesystem."""
    with device.open("r+b") as file:
        at = file.read().index(b"the same in all releases")
        file.seek(at)
        file.write(b"T")
        file.flush()
        os.fsync(file.fileno())


# The mistakes that must be found.
MISTAKES = {
    function.__name__: function
    for function in (
        arm_before_sync,
        truncate_grubenv,
        label_before_read_back,
        lying_disk,
        backup_after_slot,
        no_directory_fsync,
    )
}


def mount(number: int, name: str, options: str) -> None:
    (TOP / name).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", options, f"{DISK}-part{number}", TOP / name], check=True)


def told(device_node: str) -> str:
    words = ["lsblk", "-no", "PARTUUID", device_node]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def run(asked: dict[str, Any]) -> list[int]:
    slot = asked["slot"]
    mount(NUMBERS[slot], "root", "ro")
    # As initramfs/abupdate-mount does it.
    subprocess.run(["e2fsck", "-p", f"{DISK}-part6"], check=False, stdout=subprocess.DEVNULL)
    mount(6, "data", "rw")
    mount(2, "esp", "ro")
    partuuid = told(f"{DISK}-part{NUMBERS[slot]}")
    arguments = f"root=PARTUUID={partuuid} abupdate.slot={slot} abupdate.boot={asked['how']}"
    (TOP / "cmdline").write_text(f"{arguments}\n")
    runtime = TOP / "run"
    subprocess.run(["rm", "-rf", runtime], check=True)
    runtime.mkdir()
    for path, text in asked.get("user", {}).items():
        (TOP / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (TOP / "data" / path).write_text(text)
    # The disk under test is to be left, not the machine that this runs on.
    invocation.systemctl = lambda *words: None
    paths = Paths(TOP / "root", TOP / "data", TOP / "esp", runtime, TOP / "cmdline")
    machine = Machine(paths, sandbox=Sandbox(STORE_USER))
    if asked.get("broken"):
        MISTAKES[asked["broken"]](machine, Slot(slot).other)
    try:
        return [main(words, machine=machine) for words in asked["commands"]]
    finally:
        for name in ("esp", "data", "root"):
            subprocess.run(["umount", TOP / name], check=True)


print(json.dumps(run(json.loads(sys.argv[1]))))
