"""The menu, used on the serial port: what a person chooses counts and changes nothing."""

from __future__ import annotations

import pytest

from abupdate.boot.grubenv import encode
from abupdate.boot.state import BootState, Ustate, arm, backup_of, begin, provision
from tests.grub.grubbox import Disk, assert_booted, boot

ARMED = arm(begin(provision(3, 8), "B", "A"), "B")
DOWN = b"\x1b[B"
OFFERED = "abupdate: Esc for the menu"
SHOWN = "Go on as usual"


@pytest.fixture
def disk(patient_disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A disk whose GRUB waits for a key, as it does by default."""
    return patient_disk.copy(tmp_path_factory.mktemp("menu") / "disk.img")


def choose(disk: Disk, state: BootState, entry: int, boots: str, how: str) -> str:
    disk.write_boot("grub/grubenv", encode(state))
    disk.write_boot("grub/grubenv.bak", encode(backup_of(state, Ustate.OK)))
    found = boot(disk, keys=[(OFFERED, b"\x1b"), (SHOWN, DOWN * entry + b"\r")])
    assert_booted(found, disk, boots, how)
    if entry:
        assert disk.read_boot("grub/grubenv") == encode(state)
    return found.cmdline


@pytest.mark.parametrize(
    ("entry", "boots", "how", "clean"),
    [
        (0, "B", "trial", False),
        (1, "A", "normal", False),
        (2, "A", "normal", True),
        (3, "B", "trial", False),
        (4, "B", "trial", True),
        (5, "R", "rescue", False),
    ],
)
def test_choice(disk: Disk, entry: int, boots: str, how: str, clean: bool) -> None:
    cmdline = choose(disk, ARMED, entry, boots, how)
    assert cmdline.endswith(" abupdate.etc=clean") == clean


def test_exhausted_slot_can_be_chosen(disk: Disk) -> None:
    used_up = BootState("A", "Ax", "x", Ustate.FAILED, 0, 3, 8, "B", "x", "R")
    choose(disk, used_up, 1, "A", "normal")


def test_without_a_key_it_goes_on(disk: Disk) -> None:
    disk.write_boot("grub/grubenv", encode(ARMED))
    found = boot(disk)
    assert_booted(found, disk, "B", "trial")
    assert SHOWN not in found.text
