"""A fielded Debian on one disk is taken over to another, and runs from that one with two slots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import device
import fielded
import pytest
from device_vm import DeviceVM
from vm import VM, Disk, Firmware, accelerator

from abupdate.disk.layout import MIB

pytestmark = pytest.mark.long

SOURCE, WORK = "/mnt/abupdate", "/srv/take-over"
_TAKE_OVER_SECONDS, _BOOT_SECONDS = 1800.0, 600.0


@dataclass(frozen=True)
class Taken:
    """The disks, and what the old system said of itself."""

    firmware: Firmware
    accel: str
    old: Path
    target: Path
    machine_id: str
    host_key: str
    said: str


@pytest.fixture(scope="module", params=["13", "12"])
def taken(request: pytest.FixtureRequest, images: Path) -> Iterator[Taken]:
    """The plain machine, taken over; it is off again."""
    found = fielded.build(request.param)
    accel = accelerator(lambda: found.folder / "kernel")
    old = device.copy(found.disk, images / "old.img")
    target = images / "target.img"
    target.unlink(missing_ok=True)
    with target.open("wb") as file:
        file.truncate(8192 * MIB)
    disks = [Disk(old), Disk(target), Disk(fielded.medium(images / "source.img"), readonly=True)]
    with VM(disks, accel=accel, extra=found.start, memory=2048) as vm:
        vm.start()
        vm.agent.wait(_BOOT_SECONDS)
        machine = DeviceVM(vm)
        machine.run("mkdir", "-p", SOURCE)
        machine.run("mount", "-o", "ro", "LABEL=medium", SOURCE)
        refused(machine)
        since = time.monotonic()
        said = take_over(machine, "--target", "/dev/vdb", "--erase", "disk1")
        print(f"taken over in {time.monotonic() - since:.0f} s")
        assert "tmpfs /srv" not in machine.run("cat", "/proc/mounts").stdout
        key = "/etc/ssh/ssh_host_ed25519_key.pub"
        identity = [machine.run("cat", path).stdout for path in ("/etc/machine-id", key)]
        machine.power_off()
    yield Taken("uefi" if request.param == "13" else "bios", accel, old, target, *identity, said)


def take_over(machine: DeviceVM, *options: str, ok: int = 0) -> str:
    """One run; what it said."""
    words = (f"{SOURCE}/installer/take-over", "--work", WORK, "--compatible", "product")
    wheels = ("--wheels", f"{SOURCE}/wheels")
    done = machine.run(*words, *wheels, *options, timeout=_TAKE_OVER_SECONDS, ok=None)
    print(done.stdout[-3000:], done.stderr[-3000:])
    assert done.code == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def refused(machine: DeviceVM) -> None:
    """Nothing is made before the disk is right."""
    assert "holds the system that runs" in take_over(machine, "--target", "/dev/vda", ok=7)
    said = take_over(machine, "--target", "/dev/vdb", "--erase", "disk9", ok=7)
    assert "is 'disk1', and 'disk9' was given" in said
    machine.run("test", "!", "-e", f"{WORK}/rootfs")


def test_it_runs_with_two_slots(taken: Taken) -> None:
    with VM([taken.target], firmware=taken.firmware, accel=taken.accel) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot(release="1", boot="normal", timeout=_BOOT_SECONDS)
        print(machine.settle())
        print(machine.run("abupdate", "status", ok=None).stdout)
        print(machine.run("systemctl", "--failed", ok=None).stdout)
        print(machine.run("abupdate", "verify", ok=None))
        print(machine.run("abupdate", "doctor", ok=None))
        print(
            machine.run(
                "sh", "-c", "find /data/etc /data/state -maxdepth 3; cat /run/abupdate/mounts; df"
            ).stdout
        )
