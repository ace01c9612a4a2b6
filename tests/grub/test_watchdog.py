"""A kernel that hangs before it has any driver, with and without the owner's watchdog.

The machine's own clock runs ahead of ours, so that the watchdog's two minutes
take a few seconds. The hanging kernel shows them: it prints a dot a second.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from pathlib import Path

import pytest
from hardware import device_options, flash_options

from abupdate.boot.cmdline import sha256sums
from abupdate.boot.envblock import format_block
from abupdate.boot.state import rescue_once
from abupdate.disk import grubimage
from tests.grub.device import Device, new_device
from tests.grub.grubbox import Disk, Firmware, build_disk

KERNEL, SUMS = "/boot/vmlinuz-probe", "/boot/SHA256SUMS"
TRIES = 2
STARTED = "abupdate: watchdog i6300esb started"
# Two stages of 0xf000 units, each 2^15 clocks of the PCI bus (30 ns).
WATCHDOG_SECONDS = 2 * 0xF000 * 2**15 * 30e-9

# What takes the place of the probe's 32-bit code, which begins there (probe.S).
_BODY = 0x400
_COUNT_SECONDS = b"".join(
    (
        b"\x31\xdb",  # xor ebx, ebx
        b"\xb9\x50\xc3\x00\x00",  # again: mov ecx, 50000
        b"\xe2\xfe",  # loop to itself
        b"\xb0\x00\xe6\x70\xe4\x71",  # the seconds of the real-time clock, in al
        b"\x38\xd8",  # cmp al, bl
        b"\x74\xef",  # je again
        b"\x88\xc3",  # mov bl, al
        b"\x66\xba\xf8\x03\xb0.\xee",  # a dot to the serial port
        b"\xeb\xe4",  # jmp again
    )
)
# QEMU's exit code for a restart under -no-reboot, and the one that the probe ends with.
_RESTART, _PROBE = 0, 33

_SECONDS = 90.0


def start(
    disk: Disk, firmware: Firmware = "bios", *, until: float | None = None, watchdog: bool = True
) -> tuple[int | None, str]:
    """Switch on once: how QEMU ended, and the serial port's text.

    `until`: switch off once the kernel has hung that many seconds of its own;
    the first is then None. `watchdog`: whether the machine has one.
    """
    serial = disk.image.with_suffix(".serial")
    command = ["qemu-system-x86_64", "-accel", "tcg", "-icount", "shift=10", "-rtc", "clock=vm"]
    command += ["-nodefaults", "-no-reboot", "-m", "192", "-display", "none", "-net", "none"]
    command += ["-serial", f"file:{serial}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    command += ["-drive", f"if=none,id=disk,format=raw,file={disk.image}"]
    command += device_options("disk", "virtio", disk.sector, bootindex=1)
    if watchdog:
        command += ["-device", "i6300esb", "-watchdog-action", "reset"]
    if firmware == "uefi":
        command += flash_options(disk.image.with_suffix(".vars"))
    serial.write_text("")
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + _SECONDS
        while process.poll() is None:
            text = serial.read_text("latin-1")
            assert time.monotonic() < deadline, text
            if until is not None and dots(text) > until:
                return None, text
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    return process.returncode, serial.read_text("latin-1")


def dots(text: str) -> int:
    """How long the kernel has hung, in the machine's seconds."""
    return len(text) - len(text.rstrip(".\r\n"))


def hang(disk: Disk, slot: str) -> None:
    """Replace a slot's kernel by one that does nothing else, for ever; GRUB finds it sound."""
    kernel = bytearray(disk.read_slot(slot, KERNEL))
    kernel[_BODY : _BODY + len(_COUNT_SECONDS)] = _COUNT_SECONDS
    disk.write_slot(slot, KERNEL, bytes(kernel))
    lines = disk.read_slot(slot, SUMS).decode().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    sums[KERNEL.rpartition("/")[2]] = hashlib.sha256(kernel).hexdigest()
    disk.write_slot(slot, SUMS, sha256sums(sums))


def settings(disk: Disk, **values: str) -> None:
    """The owner's, with no wait for a key."""
    disk.write_boot("grub/settings.env", format_block({"menu_wait": "0", **values}))


def hanging_trial(disk: Disk, folder: Path) -> Device:
    """B is on trial, and hangs."""
    device = new_device(disk, folder, tries=TRIES)
    device.install("B", "A")
    hang(disk, "B")
    return device


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.row("S37", "U21")
def test_hang_before_the_driver(disk: Disk, tmp_path: Path, firmware: Firmware) -> None:
    """Each boot of the trial is ended by the watchdog; when none is left, A boots."""
    comes_back(disk, tmp_path, firmware)


def test_hang_with_the_other_grub(other_disk: Disk, tmp_path: Path) -> None:
    comes_back(other_disk.copy(tmp_path / "disk.img"), tmp_path, "bios")


def comes_back(disk: Disk, folder: Path, firmware: Firmware) -> None:
    device = hanging_trial(disk, folder)
    settings(disk, watchdog="i6300esb")
    for left in range(TRIES - 1, -1, -1):
        code, text = start(disk, firmware)
        assert code == _RESTART, text
        assert f"abupdate: trial of B, boots left after this one: {left}" in text
        assert STARTED in text
        print(f"{firmware}: reset after {dots(text)} s")
        assert abs(dots(text) - WATCHDOG_SECONDS) < 5
        assert device.state().countdown == left
    code, text = start(disk, firmware)
    assert code == _PROBE and "PROBE kernel=kernel-A" in text, text
    state = device.state()
    assert (state.ustate, state.failed, state.good) == (3, "B", "Ax")


def test_without_the_setting_it_hangs(disk: Disk, tmp_path: Path) -> None:
    """The same machine, for much longer than the watchdog would take."""
    device = hanging_trial(disk, tmp_path)
    code, text = start(disk, until=3 * WATCHDOG_SECONDS)
    assert code is None, text
    assert "boots left after this one: 1" in text and "watchdog" not in text
    assert device.state().countdown == TRIES - 1


def test_machine_without_a_watchdog_boots(disk: Disk, tmp_path: Path) -> None:
    device = new_device(disk, tmp_path, tries=TRIES)
    device.install("B", "A")
    settings(disk, watchdog="i6300esb")
    code, text = start(disk, watchdog=False)
    assert code == _PROBE and "PROBE kernel=kernel-B" in text, text
    assert "abupdate: watchdog i6300esb cannot be started" in text


def test_grub_without_the_commands_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian's signed one."""
    monkeypatch.setattr(grubimage, "WATCHDOG_MODULES", ())
    build_disk(tmp_path / "disk.img")
    disk = Disk(tmp_path / "disk.img")
    new_device(disk, tmp_path)
    settings(disk, watchdog="i6300esb")
    code, text = start(disk)
    assert code == _PROBE and "PROBE kernel=kernel-A" in text, text
    assert "abupdate: watchdog i6300esb cannot be started" in text


def test_rescue_is_left_alone(disk: Disk, tmp_path: Path) -> None:
    """It is the last resort, with or without a driver."""
    device = new_device(disk, tmp_path)
    device.write(rescue_once(device.state()))
    settings(disk, watchdog="i6300esb")
    code, text = start(disk)
    assert code == _PROBE and "PROBE kernel=kernel-R" in text, text
    assert "watchdog" not in text
