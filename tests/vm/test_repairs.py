"""What rescue mends by itself, in machines: each thing is lost, rescue comes up, and it is back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import demo_parts
import device
import guest
import publisher
import pytest
from device_vm import DeviceVM, make_medium
from vm import Firmware, accelerator

from abupdate.boot.envblock import format_block
from abupdate.disk.layout import MIB
from tests.vm.rescue_vm import RESCUE, SIZES, Parts, extent, in_rescue, machine, zero

pytestmark = pytest.mark.long

MINE = "/home/demo/film"
ADDRESS = "10.0.2.77"


@pytest.fixture(scope="module")
def parts(images: Path) -> Parts:
    slots, rescue = publisher.publish([demo_parts.ONE, demo_parts.TWO]), publisher.publish([RESCUE])
    signers = publisher.key().allowed_signers
    disk = device.build(slots.bundle("1"), signers, SIZES, rescue=rescue.bundle("1"))
    medium = make_medium(images / "medium.img", {"2.bundle": slots.bundle("2")})
    accel = accelerator(lambda: guest.kernel(guest.build(demo_parts.ONE, signers.read_text())))
    return Parts(disk, slots.bundle("2"), medium, accel)


@pytest.fixture(scope="module")
def sound(parts: Parts, images: Path) -> Path:
    """Release 1 in A, 2 in B, both confirmed; rescue; and a file of the owner's."""
    disk = device.copy(parts.disk, images / "sound.img")
    with machine(disk, parts) as found:
        found.wait_for_boot(release="1", boot="normal")
        found.settle()
        found.mount_medium()
        found.install("2.bundle")
        found.reboot()
        found.wait_for_boot(release="2", boot="trial")
        found.settle()
        assert found.status()["boot"]["good"] == "AB"
        found.run("sh", "-c", f"echo mine > {MINE} && sync")
        found.run("abupdate", "doctor")
        found.power_off()
    return disk


def lose_table(disk: Path) -> None:
    """The header of the first copy."""
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))


def empty_esp(disk: Path) -> None:
    """All but what the firmware needs."""
    esp = f"{disk}@@{extent(disk, 'boot').start}"
    subprocess.run(["mdeltree", "-i", esp, "::/grub"], check=True)


def lose_labels(disk: Path) -> None:
    for name in ("rootA", "rootB"):
        where = f"{disk}?offset={extent(disk, name).start}"
        subprocess.run(["tune2fs", "-L", "", where], check=True, stdout=subprocess.DEVNULL)


def lose_boot_state(disk: Path) -> None:
    """Both copies: one is gone, the other holds nothing of use."""
    esp = f"{disk}@@{extent(disk, 'boot').start}"
    subprocess.run(["mdel", "-i", esp, "::/grub/grubenv"], check=True)
    junk = disk.with_name("junk")
    junk.write_bytes(b"x" * 1024)
    subprocess.run(["mcopy", "-o", "-i", esp, junk, "::/grub/grubenv.bak"], check=True)


def damage_data(disk: Path) -> None:
    """Its first MiB is zeros: superblock, group descriptors, and what comes first of the rest."""
    zero(disk, "data", MIB)


def lose_labels_with_an_address(disk: Path) -> None:
    """And the owner's settings give rescue an address of its own."""
    lose_labels(disk)
    settings = disk.with_name("settings.env")
    settings.write_bytes(format_block({"rescue_ip": f"{ADDRESS}::10.0.2.2:255.255.255.0:::off"}))
    esp = f"{disk}@@{extent(disk, 'boot').start}"
    subprocess.run(["mcopy", "-i", esp, settings, "::/grub/settings.env"], check=True)


@dataclass(frozen=True)
class Loss:
    """`mended`: the repairs that it takes, by their ids; `boots`: the release that runs then."""

    damage: Callable[[Path], None]
    firmware: Firmware
    mended: frozenset[str]
    boots: str = "2"


LOSSES = {
    "table": Loss(lose_table, "bios", frozenset({"gpt-primary"})),
    "esp": Loss(empty_esp, "uefi", frozenset({"esp-files", "grub-rules", "boot-state"})),
    # GRUB found neither, and gave the one up that it would have booted.
    "labels": Loss(lose_labels_with_an_address, "uefi", frozenset({"label-A", "label-B"}), "1"),
    "boot state": Loss(lose_boot_state, "bios", frozenset({"boot-state"})),
    "data": Loss(damage_data, "uefi", frozenset({"data"})),
}


@pytest.mark.row("S47", "U15")
@pytest.mark.parametrize("what", LOSSES)
def test_lost_and_mended(sound: Path, parts: Parts, images: Path, what: str) -> None:
    loss = LOSSES[what]
    disk = device.copy(sound, images / "damaged.img")
    loss.damage(disk)
    with machine(disk, parts, firmware=loss.firmware) as found:
        if what == "data":  # a slot boots all the same
            found.wait_for_boot(release="2", boot="normal")
            found.settle()
            assert "data" in str(found.status()["problems"])
            found.run("abupdate", "rescue", "boot")
            found.reboot()
        in_rescue(found)
        # Somebody is there, or it would try a slot two minutes after it was mended.
        found.vm.serial.write("6\r")  # the menu's "Show the network"
        if what == "labels":
            found.vm.serial.wait_for(ADDRESS, 60)
            assert "10.0.2.15" not in found.run("cat", "/proc/net/fib_trie").stdout  # QEMU's DHCP
        said = found.run("journalctl", "-b", "-u", "abupdate-rescue-repair", "-o", "cat").stdout
        print(said)
        found.run("abupdate", "doctor")
        assert done(found) == loss.mended
        assert "warning" not in said and "error" not in said
        found.reboot()
        found.wait_for_boot(release=loss.boots, boot="normal")
        assert found.settle() == "running"
        assert found.run("cat", MINE).stdout == "mine\n"
        found.run("abupdate", "doctor")
        found.run("abupdate", "verify", "A", timeout=600)
        found.power_off()


def done(found: DeviceVM) -> set[str]:
    """The repairs that history tells."""
    entries = json.loads(found.run("abupdate", "history", "--json").stdout)["entries"]
    return {one["detail"]["repair"] for one in entries if one["event"] == "repaired"}
