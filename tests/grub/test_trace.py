"""Boots in a row: GRUB and userland take turns on one disk, as on a device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abupdate.boot import state as boot_state
from abupdate.boot.grubenv import PRIMARY
from tests.grub import boot_by_boot
from tests.grub.device import LIMIT, TRIES, new_device
from tests.grub.grubbox import Disk, boot

KERNELS = re.compile(r"PROBE kernel=kernel-(\w)")


@pytest.mark.parametrize(("old", "new"), [("A", "B"), ("B", "A")])
@pytest.mark.row("S31")
def test_trial_confirmed_and_fallback(disk: Disk, tmp_path: Path, old: str, new: str) -> None:
    device = new_device(disk, tmp_path, old)
    assert device.start() == f"{old} normal 0 1"
    device.write(boot_state.healthy(device.state(), old, TRIES, LIMIT))
    assert device.start() == f"{old} normal 0 1"

    device.install(new, old)
    assert device.start() == f"{new} trial 1 2"
    assert device.start() == f"{new} trial 1 1"
    device.write(boot_state.confirm(device.state(), new, TRIES, LIMIT))
    assert device.start() == f"{new} normal 0 1"

    device.install(old, new)
    trace = [device.start() for _ in range(5)]
    assert trace == [
        f"{old} trial 1 2",
        f"{old} trial 1 1",
        f"{old} trial 1 0",
        f"{new} fallback 3 1",
        f"{new} normal 3 0",
    ]
    # Nobody called it healthy: its own boots are used up, and nothing else is good.
    assert device.start() == "R rescue 3 0"


@pytest.mark.row("S31")
def test_rollback_confirms_the_other_slot(disk: Disk, tmp_path: Path) -> None:
    device = new_device(disk, tmp_path)
    device.install("B", "A")
    assert device.start() == "B trial 1 2"
    device.write(boot_state.confirm(device.state(), "B", TRIES, LIMIT))
    device.write(boot_state.rollback(device.state(), "B"))
    assert device.start() == "A trial 1 2"
    device.write(boot_state.confirm(device.state(), "A", TRIES, LIMIT))
    assert device.start() == "A normal 0 1"
    assert device.state().good == "AB"


def test_crash_looping_confirmed_slot(disk: Disk, tmp_path: Path) -> None:
    """Both slots good, none ever healthy: each gets its boots, then rescue."""
    device = new_device(disk, tmp_path)
    device.install("B", "A")
    device.start()
    device.write(boot_state.confirm(device.state(), "B", TRIES, LIMIT))
    trace = [device.start() for _ in range(5)]
    assert trace == [
        "B normal 0 1",
        "B normal 0 0",
        "A fallback 3 1",
        "A normal 3 0",
        "R rescue 3 0",
    ]


@pytest.mark.parametrize("value", ["0", "3", "2", "x", ""])
@pytest.mark.row("S32")
def test_no_switch_unless_installed(disk: Disk, tmp_path: Path, value: str) -> None:
    device = new_device(disk, tmp_path)
    device.install("B", "A")
    armed = disk.read_boot(f"grub/{PRIMARY}")
    disk.write_boot(f"grub/{PRIMARY}", armed.replace(b"ustate=1", f"ustate={value}".encode()))
    for _ in range(2):
        found = boot(disk)
        assert found.kernel == "kernel-A", found.text


def test_switch_when_installed(disk: Disk, tmp_path: Path) -> None:
    """The other half of the one above: the very same state with ustate 1 does switch."""
    device = new_device(disk, tmp_path)
    device.install("B", "A")
    assert boot(disk).kernel == "kernel-B"


@pytest.mark.parametrize("tries", range(1, 10))
@pytest.mark.row("S33", "U1")
def test_bad_slot_boots_exactly_as_often_as_it_may(
    sound_disk: Disk, other_disk: Disk, tmp_path: Path, tries: int
) -> None:
    """By what the kernels themselves said; with GRUB 2.06 and 2.12."""
    for name, disk in (("host", sound_disk), ("other", other_disk)):
        folder = tmp_path / name
        folder.mkdir()
        device = new_device(disk.copy(folder / "disk.img"), folder, tries=tries)
        device.install("B", "A")
        for _ in range(tries + 1):
            device.start()
        assert KERNELS.findall(device.serial) == ["B"] * tries + ["A"]
        assert device.state().failed == "B"


@pytest.mark.row("S33")
def test_boot_by_boot(sound_disk: Disk) -> None:
    """What docs/boot-by-boot.md shows is what the machine does."""
    assert boot_by_boot.PATH.read_text() == boot_by_boot.page(sound_disk), "run `make docs`"


def test_rescue_once(disk: Disk, tmp_path: Path) -> None:
    device = new_device(disk, tmp_path)
    device.write(boot_state.rescue_once(device.state()))
    assert device.start() == "R rescue 0 2"
    assert device.start() == "A normal 0 1"


def test_second_install_replaces_the_armed_one(disk: Disk, tmp_path: Path) -> None:
    """A cut after its `begin` boots the old slot; ended well, it has all its boots."""
    device = new_device(disk, tmp_path)
    device.install("B", "A")
    device.write(boot_state.begin(device.state(), "B", "A"), backup_first=True)
    assert device.start() == "A normal 0 1"
    device.write(boot_state.arm(device.state(), "B"))
    assert device.start() == "B trial 1 2"


def test_backup_never_boots_the_trial(disk: Disk, tmp_path: Path) -> None:
    device = new_device(disk, tmp_path)
    device.install("B", "A")
    disk.write_boot(f"grub/{PRIMARY}", None)
    found = boot(disk)
    assert (found.kernel, found.arguments.how) == ("kernel-A", "normal"), found.text
