"""The device of `device.py` with its boot side for real: ESP, rescue and data on loop devices.

The ESP is ext4 with small blocks instead of vfat, which not every kernel has:
it can have holes, a FAT cannot. Partition names are given, as loop devices
need not have any; labels, mounts and flags are the kernel's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from abupdate.boot import rules
from abupdate.boot.grubenv import BACKUP, PRIMARY, decode, encode
from abupdate.boot.state import RESCUE as RESCUE_ONCE
from abupdate.boot.state import GrubBoot, grub
from abupdate.disk import grubimage
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import BIOS, BOOT, DATA, RESCUE, BootDisk, Partition, PartitionSpec, Slot
from abupdate.disk.partition import Extent, make_table
from abupdate.errors import AbupdateError
from abupdate.provision.grub import put_places, put_rules
from tests.slots import loop
from tests.slots.device import Device

SMALL = 4 << 20
# What stands for GRUB's image.
EFI = b"MZ, and then GRUB"
# Before the slots, which begin where a device has its first partition.
BIOS_PLACE = Extent(64 << 10, 896 << 10)
# The findings of a new device: slot B holds nothing.
NEW = {"slot-unfinished"}


@dataclass
class BootDevice(Device):
    """`loops` has the slots, `others` the rest of the disk: (name, number) to loop device."""

    others: dict[tuple[str, int], Path] = field(default_factory=dict)
    in_rescue: bool = False

    @property
    def esp(self) -> Path:
        return self.others[BOOT, 2]

    def env(self, name: str = PRIMARY) -> Path:
        return self.paths.esp / "grub" / name

    def _disk(self, root: Path) -> BootDisk:
        slots = super()._disk(root)
        more = []
        for (name, number), device in self.others.items():
            superblock = read_superblock(device)
            label = superblock.label if superblock else None
            size = _size(device)
            more.append(Partition(device, number, name, f"uuid-{number}", label, None, size))
        parts = sorted([*slots.partitions, *more], key=lambda part: part.number)
        (rescue,) = [part for part in more if part.name == RESCUE] or [slots.root]
        return BootDisk(slots.device, tuple(parts), rescue if self.in_rescue else slots.root)

    def attach(self, name: str, number: int, label: str | None) -> Path:
        """One more partition of this disk, with a filesystem where it has a label."""
        device = self.attach_elsewhere(f"{name}-{number}", label)
        self.others[name, number] = device
        return device

    def attach_elsewhere(self, name: str, label: str | None, *options: str) -> Path:
        image = self.top / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(SMALL)
        if label is not None:
            make_ext4(image, label)
        words = ["losetup", "--find", "--show", *options, str(image)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return Path(done.stdout.strip())

    def detach(self, name: str, number: int) -> None:
        loop.detach(self.others.pop((name, number)))

    def fill_esp(self) -> None:
        """A fresh ESP with `saved-esp` on it, mounted read-only as on a device."""
        self.unmount_esp()
        make_ext4(self.esp, "BOOT")
        self.mount_esp("rw")
        shutil.copytree(self.top / "saved-esp", self.paths.esp, dirs_exist_ok=True)
        self.remount("ro")

    def mount_esp(self, options: str, device: Path | None = None) -> None:
        words = ["mount", "-o", options, str(device or self.esp), str(self.paths.esp)]
        subprocess.run(words, check=True)

    def mount_elsewhere(self, mountpoint: Path) -> None:
        subprocess.run(["mount", self.esp, mountpoint], check=True)

    def unmount_esp(self) -> None:
        while os.path.ismount(self.paths.esp):
            subprocess.run(["umount", self.paths.esp], check=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.paths.esp], check=True)

    def put(self, name: str, raw: bytes) -> None:
        """Change a file below grub/ on the ESP behind abupdate's back."""
        self.remount("rw")
        path = self.env(name)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(raw)
            file.truncate()
        self.remount("ro")

    def remove(self, name: str) -> None:
        self.remount("rw")
        self.env(name).unlink()
        self.remount("ro")

    def copies(self) -> tuple[bytes, bytes]:
        return self.env(PRIMARY).read_bytes(), self.env(BACKUP).read_bytes()

    def switch_rules(self, waits: bool, saves: bool, returns: Collection[str]) -> str:
        """What the switch does to `rules.env`; the rules that then decide, if any."""
        reading = self.machine.rules().read()
        there = [name for name, file in reading.files.items() if file is not None]
        whole = [name for name in there if reading.whole(name)]
        done = rules.switch(reading.choice, there, whole, waits=waits, saves=saves)
        if done.choice is not None and done.choice != reading.choice:
            self.put(rules.CHOICE, rules.encode(done.choice))
        return next((name for name in done.order if name not in returns), "")

    def power_on(
        self, loads: Collection[str] = "ABR", *, saves: bool = True, returns: Collection[str] = ()
    ) -> GrubBoot:
        """What GRUB does by the rules, to its copy on the ESP, and the boot that follows.

        `returns`: rules that end without a boot.
        """
        for name in (PRIMARY, BACKUP):
            try:
                state = decode(self.env(name).read_bytes())
                break
            except (OSError, AbupdateError):
                continue
        waits = state.on_trial is not None or state.once == RESCUE_ONCE
        runs = self.switch_rules(waits, saves, returns)
        done = grub(state, None, loads, saves=saves)
        assert done.state is not None
        if done.state != state:
            self.put(name, encode(done.state))
        assert done.boots in ("A", "B")
        self.start(Slot(done.boots), str(done.how))
        if runs:
            said = self.paths.cmdline.read_text().strip()
            self.paths.cmdline.write_text(f"{said} abupdate.rules={runs}\n")
        return done

    def stop(self) -> None:
        """Nothing runs, so that no slot is mounted."""
        self._unmount_root()
        if self.in_rescue:
            shutil.rmtree(self.paths.root)
            self.paths.root.mkdir()
            self.in_rescue = False

    def boot(self, slot: Slot, how: str) -> None:
        self.stop()
        super().boot(slot, how)

    def boot_rescue(self) -> None:
        """Rescue runs from memory: its root is a folder, and no partition is mounted for it."""
        vendor = self.top / "rescue-vendor"
        if not vendor.exists():
            shutil.copytree(self.paths.vendor, vendor)
        self.stop()
        shutil.copytree(vendor, self.paths.vendor, dirs_exist_ok=True)
        self.in_rescue = True
        self.paths.cmdline.write_text(
            "root=PARTUUID=uuid-3 ro abupdate.slot=R abupdate.boot=rescue\n"
        )

    def start(self, slot: Slot, how: str) -> None:
        """A boot in which GRUB saves nothing: one that was chosen in the menu."""
        self.boot(slot, how)
        (self.paths.runtime / "seen").unlink(missing_ok=True)

    def close(self) -> None:
        self.unmount_esp()
        for device in self.others.values():
            loop.detach(device)
        super().close()


def make_boot_device(made: Device) -> BootDevice:
    """Add what `Device` leaves out; it is started by GRUB and not judged yet."""
    device = BootDevice(made.top, made.loops, made.booted)
    device.attach(BOOT, 2, "BOOT")
    device.attach(RESCUE, 3, RESCUE)
    device.attach(DATA, 6, DATA)
    source = Path(__file__).parent.parent.parent / "grub"
    subprocess.run(["mount", "-o", "remount,rw", device.paths.root], check=True)
    vendor = device.paths.vendor / "grub"
    vendor.mkdir()
    for name in (rules.SWITCH, rules.SOURCE, "early.cfg", "lost.cfg"):
        shutil.copy(source / name, vendor)
    (vendor / "BOOTX64.EFI").write_bytes(EFI)
    grubimage.bios_core(source, vendor / "core.img")
    (vendor / "boot.img").write_bytes(grubimage.bios_boot_sector())
    subprocess.run(["mount", "-o", "remount,ro", device.paths.root], check=True)
    shutil.copytree(device.paths.esp, device.top / "saved-esp")
    shutil.copy(source / rules.SWITCH, device.top / "saved-esp" / "grub")
    own = rules.filled((source / rules.SOURCE).read_bytes())
    put_rules(device.top / "saved-esp" / "grub", own)
    starter = device.top / "saved-esp" / "EFI/BOOT/BOOTX64.EFI"
    starter.parent.mkdir(parents=True)
    starter.write_bytes(EFI)
    _make_table(device)
    return device


def _size(device: Path) -> int:
    with device.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _make_table(device: BootDevice) -> None:
    """The table that a disk with these slots has; they begin behind it."""
    disk, size = device.top / "disk", device.slot_size
    with disk.open("r+b") as file:
        file.truncate(loop.OFFSET + 2 * size + loop.OFFSET)
    specs = [PartitionSpec(1, BIOS, None, None, "bios_grub", BIOS_PLACE.size)]
    specs += [
        PartitionSpec(number, slot.label, None, None, None, size)
        for number, slot in enumerate(Slot, start=4)
    ]
    places = [Extent(loop.OFFSET + number * size, size) for number in range(2)]
    make_table(disk, specs, extents=[BIOS_PLACE, *places])
    vendor = device.paths.vendor / "grub"
    core, sector = (vendor / "core.img").read_bytes(), (vendor / "boot.img").read_bytes()
    grubimage.install_bios(disk, core, sector, BIOS_PLACE.start, BIOS_PLACE.size)
    put_places(disk, grubimage.SECTOR)


def make_ext4(device: Path, label: str) -> None:
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-L", label, str(device)]
    subprocess.run(words, check=True)


def doctor(
    device: BootDevice, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, dict[str, dict[str, object]], dict[str, object]]:
    """Exit code, findings by id, and the whole report. An id that is there twice fails.

    But for a copy of the boot state, and what a slot holds: there are two.
    """
    capsys.readouterr()
    code = device.run("doctor", "--json", *words)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    report = json.loads(out)
    findings = {found["id"]: found for found in report["findings"]}
    of_two = ("copy-", "store-release-", "slot-")
    once = [one["id"] for one in report["findings"] if not one["id"].startswith(of_two)]
    assert len(set(once)) == len(once), report
    return code, findings, report
