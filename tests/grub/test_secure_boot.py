"""Secure Boot: Microsoft's keys in OVMF, Debian's shim, signed GRUB and signed Linux.

The grub.cfg is the one of all other machines. What booted says itself that
Secure Boot was on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import secure_boot

from abupdate.boot import rules
from abupdate.boot import state as boot_state
from abupdate.boot.rules import Choice
from tests.grub import linuxbox, switchbox
from tests.grub.device import Device
from tests.grub.grubbox import Booted, Disk, boot
from tests.grub.linuxbox import INITRD, KERNEL

# One try, so that a fallback takes two boots.
TRIES, LIMIT = 1, 8
# Reads of this file go to the disk on their own, past what GRUB reads ahead of its folder.
_PAGE = 4096


@pytest.fixture(scope="module")
def signed_disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A is good; B is on trial."""
    folder = tmp_path_factory.mktemp("secure")
    state = boot_state.provision(TRIES, LIMIT)
    state = boot_state.arm(boot_state.begin(state, "B", "A"), "B")
    return linuxbox.build_disk(folder / "disk.img", secure_boot.signed(), state)


@pytest.fixture
def device(signed_disk: Disk, tmp_path: Path) -> Device:
    """A device to use up."""
    return Device(signed_disk.copy(tmp_path / "disk.img"), tmp_path)


def start(device: Device, unreadable: Sequence[int] = ()) -> Booted:
    """Switch on once. Whatever Linux boots finds Secure Boot on, and its own initrd."""
    found = boot(device.disk, "secure", unreadable=unreadable)
    if found.kernel is not None:
        assert "secureboot: Secure boot enabled" in found.text
        assert "Kernel is locked down from EFI Secure Boot" in found.text
        slot = found.arguments.slot or ""
        assert found.initrd == f"initrd-{slot}", found.text
        assert found.arguments.root_partuuid == device.disk.partuuid(slot)
        assert f" ro panic=30 {linuxbox.CMDLINE} abupdate.slot={slot} " in found.cmdline
    return found


def came_up(found: Booted) -> tuple[str | None, str | None]:
    return found.arguments.slot, found.arguments.how


@pytest.mark.row("U32")
def test_trial_confirmed_and_fallback(device: Device) -> None:
    assert came_up(start(device)) == ("B", "trial")
    assert device.state().countdown == 0
    device.write(boot_state.confirm(device.state(), "B", TRIES, LIMIT))
    device.install("A", "B")
    assert came_up(start(device)) == ("A", "trial")
    assert came_up(start(device)) == ("B", "fallback")
    state = device.state()
    assert (state.slot, state.good, state.failed, state.ustate) == ("B", "xB", "A", 3)


@pytest.mark.row("U32")
def test_unsigned_kernel_falls_back_in_the_same_boot(device: Device) -> None:
    kernel = device.disk.read_slot("B", KERNEL)
    device.disk.write_slot("B", KERNEL, without_signature(kernel))
    found = start(device)
    assert came_up(found) == ("A", "fallback")
    assert "bad shim signature" in found.text
    assert device.state().failed == "B"


@pytest.mark.row("U32")
def test_kernel_that_comes_back(device: Device) -> None:
    """B's kernel is started, cannot read its initrd and returns: the machine starts anew.

    GRUB 2.12 reads the initrd only when the kernel asks for it, and nothing
    here checks it before. After that, Debian's signed one loads no kernel.
    """
    bad = device.disk.first_block("B", INITRD) + _PAGE
    found = start(device, unreadable=[bad])
    assert found.kernel is None and "rootB came back; reboot" in found.text, found.text
    assert device.state().trial == "B"
    assert came_up(start(device, unreadable=[bad])) == ("A", "fallback")
    assert device.state().failed == "B"


def test_rules_that_return(device: Device) -> None:
    """New rules only leave a kernel loaded: the machine starts anew, by the old ones."""
    device.write(boot_state.provision(TRIES, LIMIT))
    switchbox.put_tried(device.disk, switchbox.RETURNING)
    found = start(device)
    assert found.kernel is None and "rules b ended" in found.text
    found = start(device)
    assert found.arguments.rules == "a" and "left=behind" not in found.cmdline
    assert came_up(found) == ("A", "normal")
    assert rules.decode(device.disk.read_boot("grub/rules.env")) == Choice("a")


def without_signature(kernel: bytes) -> bytes:
    """A kernel as it was before it was signed (PE format, the certificate table is the fifth)."""
    header = struct.unpack_from("<I", kernel, 0x3C)[0]
    entry = header + 24 + 112 + 4 * 8
    start, size = struct.unpack_from("<II", kernel, entry)
    assert start + size == len(kernel), "the kernel is not signed"
    return kernel[:entry] + bytes(8) + kernel[entry + 8 : start]
