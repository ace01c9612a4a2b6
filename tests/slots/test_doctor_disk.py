"""`abupdate doctor` on the disk: ESP, partitions and labels, each finding made for real."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from abupdate.boot.grubenv import BACKUP
from abupdate.disk.layout import BOOT, RESCUE, Slot
from tests.slots import loop
from tests.slots.boot_device import NEW, BootDevice, doctor

Capsys = pytest.CaptureFixture[str]


@pytest.mark.row("U15")
def test_boot_partition_of_a_stick_or_none(device: BootDevice, capsys: Capsys) -> None:
    """Mounted from another disk, or not at all; also when the layout's own has no number 2."""
    other = device.attach_elsewhere("stick", "BOOT")
    try:
        device.unmount_esp()
        code, found, _ = doctor(device, capsys, "--repair")
        # This one has ext4 in the place of vfat.
        assert (code, set(found)) == (11, {"esp-not-mounted", "esp-unreadable"} | NEW)
        assert "not confirmed" in str(found["esp-unreadable"]["advice"])
        device.mount_esp("rw", other)
        code, found, report = doctor(device, capsys, "--repair")
        assert (code, set(found), report["repaired"]) == (11, {"esp-foreign"} | NEW, [])
        assert str(other) in str(found["esp-foreign"]["message"])
        assert str(device.esp) in str(found["esp-foreign"]["message"])
        assert not device.env().exists()
    finally:
        device.unmount_esp()
        loop.detach(other)
    device.mount_esp("ro")
    device.others[BOOT, 7] = device.others.pop((BOOT, 2))
    try:
        assert "esp-foreign" in doctor(device, capsys)[1]
    finally:
        device.others[BOOT, 2] = device.others.pop((BOOT, 7))


@pytest.mark.row("U15")
def test_esp_that_takes_no_writes(device: BootDevice, capsys: Capsys, tmp_path: Path) -> None:
    device.unmount_esp()
    subprocess.run(["blockdev", "--setro", device.esp], check=True)
    try:
        device.mount_esp("ro")
        code, found, _ = doctor(device, capsys, "--repair")
        assert (code, set(found)) == (11, {"esp-write-protected"} | NEW)
    finally:
        device.unmount_esp()
        subprocess.run(["blockdev", "--setrw", device.esp], check=True)
    device.mount_esp("rw")
    assert set(doctor(device, capsys)[1]) == NEW
    # The filesystem turns read-only under a mount that stays writable.
    device.mount_elsewhere(tmp_path)
    try:
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        code, found, _ = doctor(device, capsys, "--repair")
        assert (code, set(found)) == (11, {"esp-read-only"} | NEW)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.row("U15", "S40")
def test_a_label_that_is_there_twice(device: BootDevice, capsys: Capsys) -> None:
    stranger = device.attach("mine", 7, "rootA")
    try:
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (11, {"label-doubled"} | NEW)
        told = str(found["label-doubled"]["message"])
        assert str(stranger) in told
        assert str(device.loops[Slot.A]) in told
        before = device.copies()
        # GRUB would not find what a fallback needs; and not by itself in a fresh slot B.
        for label in ("rootA", "rootB"):
            subprocess.run(["tune2fs", "-L", label, stranger], check=True, capture_output=True)
            assert device.run("install", device.top / "2.bundle") == 7
            assert str(stranger) in capsys.readouterr().err
            assert device.run("status") == 0
            assert str(stranger) in capsys.readouterr().out
        assert device.copies() == before
        subprocess.run(["tune2fs", "-L", RESCUE, stranger], check=True, capture_output=True)
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (11, {"label-doubled"} | NEW)
    finally:
        device.detach("mine", 7)


@pytest.mark.row("U15")
def test_partitions_by_name(device: BootDevice, capsys: Capsys) -> None:
    device.attach("rootB", 7, None)
    try:
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (11, {"partition-doubled"} | NEW)
        assert str(device.loops[Slot.B]) in str(found["partition-doubled"]["message"])
    finally:
        device.detach("rootB", 7)
    kept = device.others.pop(("data", 6))
    try:
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (11, {"partition-missing"} | NEW)
        assert "'data'" in str(found["partition-missing"]["message"])
    finally:
        device.others["data", 6] = kept


def _superblock(device: Path, put: bytes | None = None) -> bytes:
    with device.open("r+b") as file:
        file.seek(1024)
        if put is not None:
            file.write(put)
            file.flush()
            os.fsync(file.fileno())
            return put
        return file.read(1024)


def test_slots_and_rescue_without_their_label(device: BootDevice, capsys: Capsys) -> None:
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    assert doctor(device, capsys)[1] == {}
    superblock = _superblock(device.loops[Slot.B])
    subprocess.run(["tune2fs", "-L", "newB", device.loops[Slot.B]], check=True, capture_output=True)
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (0, {"slot-unfinished"})
    assert "release 2" in str(found["slot-unfinished"]["message"])
    # As it was: tune2fs leaves another time in it from the next second on, and that is refused.
    _superblock(device.loops[Slot.B], superblock)
    assert device.run("arm") == 0
    subprocess.run(["tune2fs", "-L", "newB", device.loops[Slot.B]], check=True)
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (11, {"slot-lost"})
    assert found["slot-lost"]["repairable"]
    subprocess.run(["tune2fs", "-L", "empty", device.others[RESCUE, 3]], check=True)
    try:
        assert set(doctor(device, capsys)[1]) == {"slot-lost", "rescue-missing"}
    finally:
        subprocess.run(["tune2fs", "-L", RESCUE, device.others[RESCUE, 3]], check=True)


def test_root_that_the_command_line_does_not_name(device: BootDevice, capsys: Capsys) -> None:
    line = device.paths.cmdline.read_text()
    device.paths.cmdline.write_text(line.replace("abupdate.slot=A", "abupdate.slot=B"))
    device.remove(BACKUP)
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, set(found)) == (11, {"root-mismatch", "copy-missing"} | NEW)
    assert report["repaired"] == []
    device.paths.cmdline.write_text("root=/dev/sda1 quiet\n")
    assert device.run("doctor") == 7
    assert "abupdate.slot=" in capsys.readouterr().err


@pytest.mark.row("S40")
def test_with_a_copy_of_the_disk_attached_nothing_is_written(
    device: BootDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loop devices have no PARTUUID of their own; `find.twins` has its tests elsewhere."""
    device.remove(BACKUP)
    with monkeypatch.context() as patch:
        patch.setattr("abupdate.doctor.diagnose_disk.twins", lambda _disk: [Path("/dev/twin4")])
        code, found, report = doctor(device, capsys, "--repair")
    assert (code, set(found)) == (11, {"disk-twin", "copy-missing"} | NEW)
    assert "/dev/twin4" in str(found["disk-twin"]["message"])
    assert (report["repaired"], found["copy-missing"]["repairable"]) == ([], False)
    assert doctor(device, capsys, "--repair")[0] == 0
