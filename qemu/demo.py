"""`make demo`: an update that is confirmed, and one that is taken back, in a virtual machine.

Release 1 runs; release 2 (another kernel, other packages) is installed inside
the guest, tried and confirmed; release 3 boots but fails its own check, is
tried three times, and 2 runs again. What ran is read from what the
releases print on the serial port, from `uname`, `dpkg` and `/proc/cmdline`,
not from `abupdate status` alone. The exit code is 1 when anything differs.

`--console` (`make vm`) leaves the story out and gives a console to log in to.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cache
import device
import guest
import vm_console
from demo_parts import FAILURE, ONE, TWO, Parts, Timeline, build
from device_vm import DeviceVM, Marker, make_medium
from hardware import Bus
from serial_console import VMError
from twin import make_twin
from vm import VM, Disk, Firmware

from abupdate.disk.images import content_hash
from abupdate.errors import AbupdateError

TRIES = 3


@dataclass(frozen=True)
class Played:
    """How the story went: all boots by their markers, the partition and the serial number
    of the disk that the last one ran from, and whether anything was written to the twin.

    `proven`: whether the slot that runs at the end, booted twice since it was installed, is
    still what its record says (what the next install into it would start from).
    """

    markers: list[Marker]
    root: str
    serial: str
    twin_changed: bool
    proven: bool


_PROVEN = """\
import json, sys, pathlib
from abupdate.disk.filesystem import read_superblock
record = json.loads(pathlib.Path("/data/abupdate/slots/B.json").read_text())
print(read_superblock(pathlib.Path(sys.argv[1])).fingerprint == record["superblock"])
"""


class DifferentError(Exception):
    """Something was not as the story goes."""


def expect(what: str, expected: object, found: object) -> None:
    """Raise `DifferentError` unless the two are equal."""
    if expected != found:
        raise DifferentError(f"{what}: expected {expected!r}, found {found!r}")


def tell(timeline: Timeline, machine: DeviceVM, marker: Marker, release: guest.Release) -> None:
    """Check, inside and by the marker, that this boot is that release; say so."""
    kind = "cloud-amd64" if release.kernel == guest.CLOUD_KERNEL else "amd64"
    expect("release in the marker", release.version, marker.release)
    uname = machine.run("uname", "-r").stdout.strip()
    expect("kernel in the marker", marker.uname, uname)
    expect("kernel flavour of uname -r", kind, uname.split("+")[1].partition("-")[2])
    cmdline = machine.run("cat", "/proc/cmdline").stdout.split()
    expect(f"{release.cmdline} in /proc/cmdline", True, release.cmdline in cmdline)
    for package in ("figlet", "hello"):
        listed = machine.run("dpkg", "-l", package, ok=None).stdout
        installed = any(line.startswith("ii ") for line in listed.splitlines())
        expect(f"package {package} installed", package in release.packages, installed)
    timeline.fact(
        f"serial port: release {marker.release}, slot {marker.slot}, {marker.boot} boot"
        + (f", attempt {marker.attempt}" if marker.attempt != "-" else "")
    )
    timeline.fact(f"uname -r: {uname}; dpkg -l: {', '.join(release.packages)}; {release.cmdline}")


def expect_state(machine: DeviceVM, what: str, **expected: object) -> None:
    """Compare fields of the boot state in `abupdate status --json`."""
    boot = machine.status()["boot"]
    expect(f"boot state {what}", expected, {name: boot[name] for name in expected})


def release_one(timeline: Timeline, machine: DeviceVM) -> None:
    """The device as it came."""
    with timeline.step("power on: GRUB boots release 1"):
        machine.power_on()
        marker = machine.wait_for_boot()
        expect("first boot", ("A", "normal"), (marker.slot, marker.boot))
        expect("state of the system", "running", machine.settle())
        tell(timeline, machine, marker, ONE)


def install(timeline: Timeline, machine: DeviceVM, name: str) -> None:
    """`abupdate install`, with the seconds of its own steps."""
    machine.mount_medium()
    done = machine.install(name)
    for line in done.stderr.splitlines():
        timeline.fact(line.strip())
    timeline.fact(done.stdout.strip().splitlines()[-1])


def update(timeline: Timeline, machine: DeviceVM) -> None:
    """Release 2: installed, tried, confirmed."""
    with timeline.step("abupdate install 2.bundle"):
        install(timeline, machine, "2.bundle")
        report = machine.status()
        expect(
            "outcome before the reboot", "installed, on trial", report["last_install"]["outcome"]
        )
        expect_state(machine, "armed", trial="B", ustate=1, countdown=TRIES, good="Ax")
    with timeline.step("reboot: trial of release 2, confirmed by its health check"):
        machine.reboot()
        marker = machine.wait_for_boot()
        expect("boot of 2", ("B", "trial", "1"), (marker.slot, marker.boot, marker.attempt))
        expect("state of the system", "running", machine.settle())
        tell(timeline, machine, marker, TWO)
        expect_state(machine, "confirmed", slot="B", good="AB", trial="x", ustate=0)
        expect("outcome", "confirmed", machine.status()["last_install"]["outcome"])


def fallback(timeline: Timeline, machine: DeviceVM) -> None:
    """Release 3: installed, tried three times; the last one gives it up."""
    with timeline.step("abupdate install 3.bundle"):
        install(timeline, machine, "3.bundle")
        expect_state(machine, "armed", trial="A", ustate=1, countdown=TRIES, good="xB")
    machine.reboot()
    for attempt in range(1, TRIES + 1):
        with timeline.step(f"trial boot {attempt} of release 3; its check fails, it reboots"):
            marker = machine.wait_for_boot("3", "trial", str(attempt))
            expect("slot of release 3", "A", marker.slot)
            timeline.fact(f"serial port: release 3, slot A, trial boot, attempt {marker.attempt}")
    with timeline.step("release 3 is given up: release 2 runs again"):
        marker = machine.wait_for_boot("2")
        expect("boot after the trial", ("B", "normal"), (marker.slot, marker.boot))
        expect("state of the system", "running", machine.settle())
        tell(timeline, machine, marker, TWO)
        boots = [(seen.release, seen.boot) for seen in machine.markers()]
        story = [("1", "normal"), ("2", "trial"), *[("3", "trial")] * TRIES, ("2", "normal")]
        expect("boots that said so on the serial port", story, boots)
        timeline.fact(f"release 3 was seen on the serial port exactly {TRIES} times")
    with timeline.step("abupdate status tells what happened"):
        expect_state(machine, "after the fallback", slot="B", good="xB", ustate=3, failed="A")
        last = machine.status()["last_install"]
        expect("outcome", ("3", "fallback"), (last["release"], last["outcome"]))
        expect("the failing check in the cause", True, FAILURE in (last["cause"] or ""))
        why = json.loads(machine.run("abupdate", "why", "--json").stdout)
        verdicts = [(boot["attempt"], boot["verdict"]) for boot in why["boots"]]
        expect("boots in `why`", [(n, "failed") for n in range(1, TRIES + 1)], verdicts)
        expect(
            "a reason for each", True, all(FAILURE in boot["reasons"][0] for boot in why["boots"])
        )
    for command in ("status", "why"):
        print(f"\n$ abupdate {command}\n{machine.run('abupdate', command).stdout}")


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description="An update and a fallback in a virtual machine.")
    firmware = os.environ.get("FIRMWARE", "uefi")
    parser.add_argument("--firmware", choices=("uefi", "bios"), default=firmware)
    parser.add_argument("--console", action="store_true", help="a console to log in to, no story")
    parser.add_argument("--display", default="none", help="with --console: gtk, sdl, vnc=…")
    arguments = parser.parse_args()
    timeline = Timeline()
    try:
        if os.geteuid() != 0:
            raise DifferentError("Making root filesystems needs root: run it with sudo.")
        parts = build(timeline)
        with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".demo-") as name:
            if arguments.console:
                firmware, display = arguments.firmware, arguments.display
                return vm_console.run(parts, Path(name), firmware, display)
            play(timeline, parts, Path(name), arguments.firmware)
    except (DifferentError, VMError, AbupdateError) as error:
        print(f"\nFailed after {timeline.elapsed:.0f} s.\n{error}", file=sys.stderr)
        return 1
    print(f"All as expected, in {timeline.elapsed:.0f} s ({arguments.firmware}).")
    return 0


def play(
    timeline: Timeline,
    parts: Parts,
    folder: Path,
    firmware: Firmware,
    bus: Bus = "virtio",
    twin: Literal["in front", "behind"] | None = None,
) -> Played:
    """The story, on a copy of the new device's disk.

    `twin`: another device's disk, with the same labels, is attached too.
    """
    disk = Disk(device.copy(parts.disk, folder / "disk.img"), bus, bootindex=1)
    files = {f"{name}.bundle": path for name, path in parts.bundles.items()}
    medium = Disk(make_medium(folder / "medium.img", files), readonly=True)
    disks, other, before = [disk, medium], folder / "twin.img", ""
    if twin is not None:
        disks.insert(0 if twin == "in front" else 1, Disk(make_twin(parts.disk, other), bus))
        before = content_hash(other)
    with VM(disks, firmware=firmware, accel=parts.accel) as vm:
        machine = DeviceVM(vm)
        try:
            release_one(timeline, machine)
            update(timeline, machine)
            fallback(timeline, machine)
        except DifferentError as error:
            raise DifferentError(f"{error}\n{vm.serial.tail()}") from error
        root = machine.run("findmnt", "-no", "SOURCE", "/").stdout.strip()
        serial = machine.run("lsblk", "-nso", "SERIAL", root).stdout.strip()
        proven = machine.run("python3", "-c", _PROVEN, root).stdout.strip() == "True"
        with timeline.step("power off"):
            machine.power_off()
        changed = twin is not None and content_hash(other) != before
        return Played(machine.markers(), root, serial, changed, proven)


if __name__ == "__main__":
    sys.exit(main())
