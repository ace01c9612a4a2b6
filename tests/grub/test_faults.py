"""What is broken on the disk, and what still boots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from abupdate.boot.grubenv import LostError, decode, encode
from abupdate.boot.state import BootState, Ustate, arm, backup_of, begin, provision, rescue_once
from tests.grub.grubbox import Booted, Disk, Firmware, assert_booted, boot

ARMED = arm(begin(provision(3, 8), "B", "A"), "B")
KERNEL, INITRD = "/boot/vmlinuz-probe", "/boot/initrd-probe"
SUMS, ENV = "/boot/SHA256SUMS", "/boot/abupdate.env"


def put(disk: Disk, state: BootState) -> None:
    disk.write_boot("grub/grubenv", encode(state))
    disk.write_boot("grub/grubenv.bak", encode(backup_of(state, Ustate.OK)))


def flipped(raw: bytes) -> bytes:
    """One bit changed, near the end."""
    return raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (KERNEL, "missing"),
        (KERNEL, "empty"),
        (KERNEL, "zeros"),
        (KERNEL, "text"),
        (KERNEL, "truncated"),
        (KERNEL, "flipped"),
        (INITRD, "missing"),
        (INITRD, "empty"),
        (INITRD, "flipped"),
        (SUMS, "missing"),
        (ENV, "missing"),
        (ENV, "empty"),
        (ENV, "text"),
    ],
)
def test_damaged_trial_falls_back_in_the_same_boot(disk: Disk, path: str, damage: str) -> None:
    whole = disk.read_slot("B", path)
    content = {
        "missing": None,
        "empty": b"",
        "zeros": bytes(len(whole)),
        "text": b"no such thing\n",
        "truncated": whole[:-512],
        "flipped": flipped(whole),
    }[damage]
    disk.write_slot("B", path, content)
    falls_back_to_a(disk, "bios")


def falls_back_to_a(disk: Disk, firmware: Firmware, unreadable: Sequence[int] = ()) -> Booted:
    """B is on trial and does not load: A comes up at once, with all that it needs."""
    put(disk, ARMED)
    found = boot(disk, firmware, unreadable=unreadable)
    assert_booted(found, disk, "A", "fallback")
    state = decode(disk.read_boot("grub/grubenv"))
    assert (state.ustate, state.failed, state.good) == (Ustate.FAILED, "B", "Ax")
    assert (state.trial, state.countdown, state.seen) == ("x", 7, "A")
    return found


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_kernel_that_loaded_leaves_nothing_behind(disk: Disk, firmware: Firmware) -> None:
    """B's kernel loads and its initrd cannot be read: A then needs a clean loader.

    The checksums of B leave the initrd out, as on a disk that fails between
    the check and the loading.
    """
    sums = disk.read_slot("B", SUMS).splitlines(keepends=True)
    disk.write_slot("B", SUMS, b"".join(line for line in sums if b"initrd" not in line))
    found = falls_back_to_a(disk, firmware, [disk.first_block("B", INITRD)])
    assert "rootB does not load" in found.text


@pytest.mark.parametrize("label", ["newB", "rootA", ""])
def test_trial_without_its_label(disk: Disk, label: str) -> None:
    disk.relabel("B", label)
    put(disk, ARMED)
    found = boot(disk)
    # The label of A twice on one disk: neither is trusted.
    expected = ("R", "rescue") if label == "rootA" else ("A", "fallback")
    assert_booted(found, disk, *expected)
    assert decode(disk.read_boot("grub/grubenv")).failed == "B"


BROKEN = {
    "missing": None,
    "empty": b"",
    "43 bytes": encode(ARMED)[:43],
    "header and zeros": encode(ARMED)[:25] + bytes(999),
    "random": bytes(range(256)) * 4,
    "without end": encode(ARMED).replace(b"end=1", b"#####"),
    "cut in the middle": encode(ARMED)[:140],
    "bad value": encode(ARMED).replace(b"slot=A", b"slot=C"),
    "bad countdown": encode(ARMED).replace(b"countdown=3", b"countdown=a"),
    "no countdown": encode(ARMED).replace(b"countdown=3", b"countdown="),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_primary_is_replaced_by_the_backup(disk: Disk, broken: str) -> None:
    put(disk, ARMED)
    raw = BROKEN[broken]
    disk.write_boot("grub/grubenv", raw)
    if raw is not None:
        with pytest.raises(LostError):  # userland must see what GRUB sees
            decode(raw)
    found = boot(disk)
    assert_booted(found, disk, "A", "normal")
    backup = decode(disk.read_boot("grub/grubenv.bak"))
    assert backup == replace(backup_of(ARMED, Ustate.OK), countdown=7, seen="A")


def test_state_that_grew_is_still_read(disk: Disk) -> None:
    """1025 bytes: GRUB reads it, so userland must."""
    raw = encode(ARMED) + b"#"
    put(disk, ARMED)
    disk.write_boot("grub/grubenv", raw)
    found = boot(disk)
    assert decode(raw) == ARMED
    assert_booted(found, disk, "B", "trial")


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_both_copies_lost(disk: Disk, firmware: Firmware) -> None:
    for name in ("grubenv", "grubenv.bak"):
        disk.write_boot(f"grub/{name}", b"")
    assert_booted(boot(disk, firmware), disk, "R", "rescue")
    disk.write_slot("R", KERNEL, None)
    assert_booted(boot(disk, firmware), disk, "A", "fallback")


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_grub_cannot_write(disk: Disk, firmware: Firmware) -> None:
    """A trial that cannot be counted does not boot."""
    put(disk, ARMED)
    found = boot(disk, firmware, readonly=True)
    assert_booted(found, disk, "A", "fallback")
    assert decode(disk.read_boot("grub/grubenv")) == ARMED


def test_rescue_once_that_cannot_be_cleared(disk: Disk) -> None:
    """It would be rescue for ever."""
    put(disk, rescue_once(provision(3, 8)))
    assert_booted(boot(disk, readonly=True), disk, "A", "normal")


def test_nothing_boots_restarts_the_machine(disk: Disk) -> None:
    put(disk, ARMED)
    for slot in "RAB":
        disk.write_slot(slot, KERNEL, None)
    found = boot(disk, fast_clock=True)
    assert found.kernel is None and "reboot in 30 s" in found.text


def test_no_configuration_restarts_the_machine(disk: Disk) -> None:
    for name in ("grub.cfg", "rules-a.cfg", "rules-b.cfg"):
        disk.write_boot(f"grub/{name}", None)
    for slot in "RAB":
        disk.relabel(slot, "none")
    found = boot(disk, fast_clock=True)
    assert found.kernel is None and "grub.cfg is missing" in found.text


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_twin_disk_is_left_alone(disk: Disk, tmp_path: Path, firmware: Firmware) -> None:
    """Another disk with the same labels, found first, and not bootable itself."""
    twin = disk.copy(tmp_path / "twin.img")
    put(twin, provision(3, 8))
    if firmware == "bios":
        with twin.image.open("r+b") as file:
            file.write(bytes(440))
    twin.write_boot("EFI/BOOT/BOOTX64.EFI", None)
    before = twin.image.read_bytes()
    put(disk, ARMED)
    found = boot(disk, firmware, twin=twin.image)
    assert_booted(found, disk, "B", "trial")
    assert twin.image.read_bytes() == before
