"""A boot partition that has lost what GRUB reads there: rescue starts, and can put it back."""

from __future__ import annotations

import re

import pytest

from abupdate.disk import gptcopies, grubimage
from tests.grub.grubbox import Disk, Firmware, assert_booted, boot

SUMS, KERNEL = "/boot/SHA256SUMS", "/boot/vmlinuz-probe"
# What lost.cfg ends with, where nothing loads.
ENDED = "abupdate: grub/grub.cfg is missing or has ended"


@pytest.fixture
def emptied(disk: Disk) -> Disk:
    """Nothing but what the firmware itself needs."""
    for name in disk.list_boot("grub"):
        disk.write_boot(f"grub/{name}", None)
    return disk


@pytest.mark.row("S47")
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_emptied(emptied: Disk, firmware: Firmware) -> None:
    found = boot(emptied, firmware)
    assert_booted(found, emptied, "R", "rescue")
    assert found.arguments.rules_lost


def test_a_configuration_that_is_none(disk: Disk) -> None:
    disk.write_boot("grub/grub.cfg", b"no such thing\n")
    assert_booted(boot(disk), disk, "R", "rescue")


def test_no_filesystem_at_all(disk: Disk) -> None:
    """A BIOS starts GRUB from elsewhere."""
    disk.write_partition(2, bytes(len(disk.read_partition(2))))
    assert_booted(boot(disk, "bios"), disk, "R", "rescue")


@pytest.fixture
def without_table(disk: Disk) -> Disk:
    """The header of the first copy is zeroed."""
    with disk.image.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    return disk


@pytest.mark.row("S47")
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_first_copy_of_the_table(without_table: Disk, firmware: Firmware) -> None:
    """UEFI firmware (EDK II) writes it again before GRUB starts; a BIOS knows nothing of it."""
    booted = boot(without_table, firmware)
    assert_booted(booted, without_table, "R", "rescue")
    assert (" gpt " in booted.cmdline) == (firmware == "bios")
    mended = gptcopies.look(without_table.image).first is not None
    assert mended == (firmware == "uefi")


def test_first_copy_and_rescue(without_table: Disk) -> None:
    """The label decides what a place holds; a place that is none is passed over."""
    without_table.relabel("R", "newR")
    assert_booted(boot(without_table, "bios"), without_table, "A", "fallback")
    with without_table.image.open("r+b") as file:
        file.seek(grubimage.PLACES.start)
        raw = file.read(grubimage.PLACES.size)
        file.seek(grubimage.PLACES.start)
        file.write(re.sub(rb"rootA=(\d)", lambda m: b"rootA=9"[: len(m[0])], raw))
    assert_booted(boot(without_table, "bios"), without_table, "B", "fallback")


def test_first_copy_and_the_places(without_table: Disk) -> None:
    with without_table.image.open("r+b") as file:
        file.seek(grubimage.PLACES.start)
        file.write(bytes(grubimage.PLACES.size))
    found = boot(without_table, "bios", until=ENDED)
    assert found.kernel is None and ENDED in found.text


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_rescue_is_damaged_too(emptied: Disk, firmware: Firmware) -> None:
    """A slot, then, that its label calls complete."""
    kernel = emptied.read_slot("R", KERNEL)
    emptied.write_slot("R", KERNEL, kernel[:-9] + b"x" + kernel[-8:])
    assert_booted(boot(emptied, firmware), emptied, "A", "fallback")
    emptied.relabel("A", "newA")
    assert_booted(boot(emptied, firmware), emptied, "B", "fallback")


def test_a_label_that_is_there_twice(emptied: Disk) -> None:
    emptied.relabel("B", "rescue")
    assert_booted(boot(emptied), emptied, "A", "fallback")


def test_nothing_is_left(emptied: Disk) -> None:
    """The machine starts anew after a while; no prompt."""
    for slot in "RAB":
        emptied.write_slot(slot, SUMS, None)
    found = boot(emptied, until=ENDED)
    assert found.kernel is None and ENDED in found.text
