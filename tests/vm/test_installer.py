"""From a stick that `--installer` makes to a device with its first confirmed update.

No network, and nothing but the console: what a person sees there is asked for line by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import device
import guest
import publisher
import pytest
from device_vm import DeviceVM, make_medium
from serial_console import SerialConsole
from vm import VM, Disk, Firmware, accelerator

import installer
from abupdate.disk.images import content_hash
from abupdate.disk.layout import MIB

pytestmark = pytest.mark.long

UPDATE = replace(installer.RELEASE, version="2")
_WRONG, _INSTALL_SECONDS = "disk9", 1200.0


@dataclass(frozen=True)
class Story:
    """A machine with the stick in front, an empty disk, and the disk of somebody."""

    device: DeviceVM
    firmware: Firmware
    other: Path
    bundle: Path


@pytest.fixture(params=["uefi", "bios"])
def story(request: pytest.FixtureRequest, images: Path) -> Iterator[Story]:
    series = publisher.publish([installer.RELEASE, UPDATE])
    signers = publisher.key().allowed_signers
    stick = device.copy(installer.build(series.bundle("1"), signers), images / "stick.img")
    target, other = images / "target.img", images / "other.img"
    with target.open("wb") as file:
        file.truncate(4096 * MIB)
    with other.open("wb") as file:
        file.write(b"somebody's data" * 1000)
        file.truncate(64 * MIB)
    medium = make_medium(images / "medium.img", {"2": series.bundle("2", since=["1"])})
    accel = accelerator(lambda: guest.kernel(guest.build(installer.RELEASE, signers.read_text())))
    disks = [
        Disk(stick, "usb", bootindex=1),
        Disk(target, "nvme" if request.param == "uefi" else "sata", bootindex=2),
        Disk(other),
        Disk(medium, readonly=True),
    ]
    with VM(disks, firmware=request.param, accel=accel) as vm:
        yield Story(DeviceVM(vm), request.param, other, medium)


@pytest.mark.row("S19")
def test_from_the_stick_to_the_first_confirmed_update(story: Story) -> None:
    machine, before = story.device, content_hash(story.other)
    vm, serial = machine.vm, machine.vm.serial
    machine.power_on()
    serial.wait_for("Which disk", 300)
    choose(serial, _WRONG, r"is 'disk1', and 'disk9' was given: nothing was written")
    choose(serial, "disk1", r"Release 1 is on /dev/\S+, and is what boots from it")
    serial.wait_for("press Enter", 60)
    assert content_hash(story.other) == before
    # Pulled out while its system still runs, as people do.
    vm.qmp("device_del", id="disk0-device")
    since = serial.position
    serial.write("\r")
    serial.wait_for(r"ABUPDATE-MARKER release=1 slot=A boot=normal", 300, since)
    vm.agent.wait(300, "abupdate.slot=A")
    machine.settle()
    status = machine.status()
    assert (status["booted"]["release"], status["booted"]["slot"]) == ("1", "A")
    assert machine.run("abupdate", "verify").stdout.startswith("Slot A equals release 1")
    machine.run("abupdate", "doctor", ok=(0,))
    machine.mount_medium()
    assert "on trial from the next boot" in machine.install("2").stdout
    machine.reboot()
    machine.wait_for_boot(release="2", boot="trial")
    machine.settle()
    status = machine.status()
    assert (status["booted"]["release"], status["boot"]["ustate"]) == ("2", 0)
    assert [one["event"] for one in history(machine)] == ["provisioned", "installed", "confirmed"]
    assert content_hash(story.other) == before


def choose(serial: SerialConsole, answer: str, outcome: str) -> None:
    """Take the empty disk from the list, and type that serial number."""
    line = serial.find(r"^ *(\d+)  /dev/\S+: .*serial disk1")[-1]
    since = serial.position
    serial.write(f"{line[1]}\r")
    serial.wait_for("Type disk1 to go on", 300, since)
    serial.write(f"{answer}\r")
    serial.wait_for(outcome, _INSTALL_SECONDS, since)


def history(machine: DeviceVM) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads(machine.run("abupdate", "history", "--json").stdout)[
        "entries"
    ]
    return entries
