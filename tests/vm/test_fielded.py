"""A fielded Debian on one disk is taken over to another, and runs from that one with two slots.

The tests of a Debian share its machine, and follow each other.
"""

from __future__ import annotations

import json
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
FIRMWARE: dict[str, Firmware] = {"13": "uefi", "12": "bios"}
# What is true of every new device.
NEW_DEVICE = {"slot-unfinished", "rescue-missing"}
_TAKE_OVER_SECONDS, _BOOT_SECONDS = 1800.0, 600.0
_IDENTITY = ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub")


@dataclass(frozen=True)
class Taken:
    """The machine that runs from the new disk; what the old one said of itself."""

    device: DeviceVM
    identity: list[str]


@pytest.fixture(scope="module", params=["13", "12"])
def taken(request: pytest.FixtureRequest, images: Path) -> Iterator[Taken]:
    """The plain machine, taken over, then both disks in one, and the new one started."""
    found = fielded.build(request.param)
    accel = accelerator(lambda: found.folder / "kernel")
    old, target = device.copy(found.disk, images / "old.img"), images / "target.img"
    with target.open("wb") as file:
        file.truncate(0)
        file.truncate(8192 * MIB)
    disks = [Disk(old), Disk(target), Disk(fielded.medium(images / "source.img"), readonly=True)]
    with VM(disks, accel=accel, extra=found.start, memory=2048) as vm:
        vm.start()
        vm.agent.wait(_BOOT_SECONDS)
        machine = DeviceVM(vm)
        machine.run("mkdir", "-p", SOURCE)
        machine.run("mount", "-o", "ro", "LABEL=medium", SOURCE)
        refused(machine)
        mounts = machine.run("cat", "/proc/mounts").stdout
        said = take_over(machine, "--target", "/dev/vdb", "--erase", "disk1")
        assert "Release 1 is on /dev/vdb" in said
        assert machine.run("cat", "/proc/mounts").stdout == mounts
        if request.param == "13":
            stick(machine)
        identity = [machine.run("cat", path).stdout for path in _IDENTITY]
        machine.power_off()
    both = [Disk(old, bootindex=2), Disk(target, bootindex=1)]
    with VM(both, firmware=FIRMWARE[request.param], accel=accel) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot(release="1", boot="normal", timeout=_BOOT_SECONDS)
        machine.settle(_BOOT_SECONDS)
        yield Taken(machine, identity)


def take_over(machine: DeviceVM, *options: str, ok: int = 0) -> str:
    """One run; what it said."""
    words = (f"{SOURCE}/installer/take-over", "--work", WORK, "--compatible", "product")
    wheels = ("--wheels", f"{SOURCE}/wheels")
    done = machine.run(*words, *wheels, *options, timeout=_TAKE_OVER_SECONDS, ok=(ok,))
    return done.stdout + done.stderr


def refused(machine: DeviceVM) -> None:
    """Nothing is made before the disk is right."""
    assert "holds the system that runs" in take_over(machine, "--target", "/dev/vda", ok=7)
    assert "Nobody is at this terminal" in take_over(machine, "--target", "/dev/vdb", ok=7)
    said = take_over(machine, "--target", "/dev/vdb", "--erase", "disk9", ok=7)
    assert "is 'disk1', and 'disk9' was given" in said
    machine.run("test", "!", "-e", f"{WORK}/rootfs")


def stick(machine: DeviceVM) -> None:
    """A second run takes the release of the first; test_installer.py starts such sticks."""
    said = take_over(machine, "--installer", f"{WORK}/stick.img")
    assert "is there, of an earlier run" in said and "Release 1 is on" in said
    machine.run("rm", f"{WORK}/stick.img")


def test_a_healthy_device(taken: Taken) -> None:
    run, status = taken.device.run, taken.device.status()
    print(json.dumps(status, indent=1))
    assert (status["booted"]["release"], status["booted"]["slot"]) == ("1", "A")
    assert status["boot"]["ustate"] == 0
    assert run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    assert run("abupdate", "verify").stdout.startswith("Slot A equals release 1")
    doctor = json.loads(run("abupdate", "doctor", "--json").stdout)
    assert {one["id"] for one in doctor["findings"]} <= NEW_DEVICE
    bad = run("sed", "-n", "/^[a-z]* ok /!p", "/run/abupdate/mounts").stdout
    assert bad == ""
    run("sh", "-c", "! touch /usr/x && touch /tmp/x /var/tmp/x /etc/x /home/demo/x")


def test_it_is_the_same_machine_to_its_owner(taken: Taken) -> None:
    run = taken.device.run
    assert [run("cat", path).stdout for path in _IDENTITY] == taken.identity
    for path, content in (
        ("/home/demo/film", "a film of the owner"), ("/root/note", "a note of root"),
        ("/opt/product/program", "a program of the owner"),
        ("/var/lib/product/data", "data of the product"), ("/etc/hostname", "fielded"),
    ):  # fmt: skip
        assert run("cat", path).stdout == f"{content}\n"
    assert run("stat", "-c", "%U:%G", "/home/demo/film").stdout == "demo:demo\n"


def test_what_is_in_no_bundle(taken: Taken) -> None:
    git = ("git", "-c", "safe.directory=*", "-C", "/data/abupdate/store.git", "ls-tree", "-r")
    listed = taken.device.run(*git, "--name-only", "release/1").stdout.splitlines()
    kept = ("home/", "root/", "var/log/", "var/cache/apt/", "srv/take-over", "etc/ssh/ssh_host_")
    assert [path for path in listed if path.startswith(kept)] == []
    assert "usr/bin/abupdate" in listed and "opt/product/program" in listed


def test_its_owner_logs_in(taken: Taken) -> None:
    serial = taken.device.vm.serial
    serial.write("\r")
    serial.wait_for(r"fielded login: $", 120)
    time.sleep(2)  # login throws away what was typed before its prompt was complete
    at = serial.position
    serial.write("demo\n")
    serial.wait_for(r"Password: ", 60, at)
    time.sleep(2)
    serial.write(f"{fielded.PASSWORD}\n")
    serial.wait_for(r"demo@fielded", 120, at)
    serial.write("exit\n")


def test_the_next_release(taken: Taken) -> None:
    """Made from what take-over kept, as docs/fielded-debian.md says, on the old disk."""
    machine = taken.device
    old, work = "/run/old", f"/run/old{WORK}"
    repo = ("--repo", f"{work}/store.git", "--version", "2")
    machine.run("mkdir", "-p", old)
    machine.run("mount", "LABEL=system", old)
    machine.run(
        "sh",
        "-c",
        f"""cd {work} && echo two > rootfs/opt/product/program &&
        sed -i '/^IMAGE_VERSION=/d' rootfs/usr/lib/os-release &&
        echo IMAGE_VERSION=2 >> rootfs/usr/lib/os-release""",
    )
    for words in (
        ("boot-files", f"{work}/rootfs"),
        ("commit", f"{work}/rootfs", *repo, "--compatible", "product"),
        ("sign", *repo, "--key", f"{work}/keys/release"),
        ("bundle", *repo, "--since", "1", "-o", f"{work}/2.bundle"),
    ):
        machine.run("abupdate", "publish", *words, timeout=900)
    machine.run("abupdate", "install", f"{work}/2.bundle", timeout=900)
    machine.reboot()
    machine.wait_for_boot(release="2", boot="trial", timeout=_BOOT_SECONDS)
    machine.settle(_BOOT_SECONDS)
    status = machine.status()
    assert (status["booted"]["release"], status["boot"]["ustate"]) == ("2", 0)
    assert machine.run("cat", "/opt/product/program").stdout == "two\n"
    assert machine.run("cat", "/home/demo/film").stdout == "a film of the owner\n"
