"""The device of `boot_device.py` as its rescue system sees it: that runs from memory.

Nothing of a slot is mounted. Data is a partition of its own here, mounted where rescue has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.disk.layout import DATA, RESCUE, BootDisk, Slot
from tests.slots import loop
from tests.slots.boot_device import BootDevice
from tests.slots.device import hash_of

DATA_SIZE = 24 << 20


@dataclass
class RescueDevice(BootDevice):
    """`root` is a folder with what the rescue system brings."""

    @property
    def data(self) -> Path:
        return self.others[DATA, 6]

    def _disk(self, root: Path) -> BootDisk:
        found = super()._disk(root)
        rescue = next(part for part in found.partitions if part.name == RESCUE)
        return replace(found, root=rescue)

    def mount_data(self) -> None:
        subprocess.run(["mount", "-t", "ext4", self.data, self.paths.data], check=True)

    def unmount_data(self) -> None:
        while os.path.ismount(self.paths.data):
            subprocess.run(["umount", self.paths.data], check=True)

    def hashes(self, *apart: Path) -> dict[str, str]:
        """All partitions that are not mounted, and the disk's table, but for those."""
        found = {str(slot): hash_of(path) for slot, path in self.loops.items() if path not in apart}
        found |= {name: hash_of(path) for (name, _), path in self.others.items()
                  if path not in apart and path not in (self.esp, self.data)}  # fmt: skip
        return found


@contextmanager
def rescue_of(device: BootDevice) -> Iterator[RescueDevice]:
    """The same device, started into rescue; afterwards it is as it was."""
    device._unmount_root()
    root, saved_root = device.paths.root, device.top / "slot-root"
    root.rename(saved_root)
    found = RescueDevice(device.top, device.loops, device.booted, others=dict(device.others))
    _fill_root(found)
    image = device.top / "data.img"
    with image.open("wb") as file:
        file.truncate(DATA_SIZE)
    found.others[DATA, 6] = loop.attach(image, 0, DATA_SIZE)
    disk = device.top / "disk"
    ends = _ends(disk)
    try:
        loop.make_ext4(found.data, DATA)
        _fill_data(found)
        found.paths.cmdline.write_text(
            "root=PARTUUID=uuid-3 abupdate.slot=R abupdate.boot=rescue\n"
        )
        yield found
    finally:
        found.machine.unmount_leftovers()
        found.unmount_data()
        loop.detach(found.data)
        shutil.rmtree(root)
        saved_root.rename(root)
        _put_ends(disk, ends)


def _fill_root(found: RescueDevice) -> None:
    vendor = found.paths.vendor
    vendor.mkdir(parents=True)
    slot = found.top / "mounted-slot"
    slot.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "ro", found.loops[Slot.A], slot], check=True)
    try:
        shutil.copytree(slot / "usr/lib/abupdate", vendor, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", slot], check=True)


def _fill_data(found: RescueDevice) -> None:
    elsewhere = found.top / "data-folder"
    shutil.rmtree(elsewhere, ignore_errors=True)
    found.paths.data.rename(elsewhere)
    found.paths.data.mkdir()
    found.mount_data()
    subprocess.run(["cp", "-a", f"{elsewhere}/.", found.paths.data], check=True)
    found.paths.data.joinpath("films").write_text("mine\n")
    records = found.machine.records
    record = records.slot(Slot.A)
    assert record is not None
    records.write_slot(replace(record, confirmed=record.confirmed or 1.0))


def _ends(disk: Path) -> tuple[bytes, bytes]:
    with disk.open("rb") as file:
        first = file.read(loop.OFFSET)
        file.seek(-loop.OFFSET, os.SEEK_END)
        return first, file.read()


def _put_ends(disk: Path, ends: tuple[bytes, bytes]) -> None:
    with disk.open("r+b") as file:
        file.write(ends[0])
        file.seek(-loop.OFFSET, os.SEEK_END)
        file.write(ends[1])
