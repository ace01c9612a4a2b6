"""`make soak MINUTES=…`: a device is updated back and forth, and its power cut at random moments.

A moment is a phase (install, shutdown, GRUB, start, check) and a time after its first sign on
the console or the agent; some rounds are not cut. The boot after a cut may be cut again, and
again. After the last one the device has to come back by
itself, in the release that ran before or in the one that was being installed, with every file
that its user had written and flushed. The seed is printed: it gives the same choices, though
not the same moments. Exit code 1: it did not come back, or not whole.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cache
import demo_parts
import device
import guest
import publisher
from device_vm import MEDIUM, DeviceVM, Marker, make_medium
from serial_console import VMError
from vm import VM, Disk, accelerator

_RELEASES = ("1", "2", "3", "4")
_FILES = "/data/state/soak"
# The longest time after the first sign of a phase that the power goes, in seconds.
_PHASES = {"install": 70.0, "shutdown": 8.0, "GRUB": 6.0, "start": 30.0, "check": 40.0}
_NEXT_BOOT = 45.0
_UNCUT = 0.1
_AGAIN = 0.4
_VERIFIED = 0.2
_SIGN_SECONDS = 240.0


class BrokenError(Exception):
    """A promise was not kept."""


class Soak:
    """One device, what its user has written, and the cuts so far."""

    def __init__(self, machine: DeviceVM, seed: int) -> None:
        self._machine = machine
        self._chance = random.Random(seed)
        self._files: dict[str, str] = {}
        self.cuts: Counter[str] = Counter()
        self.boots: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Round after round for so long. Raises `BrokenError`, or `VMError` when it is stuck."""
        end = time.monotonic() + seconds
        self._machine.power_on()
        self._came_back({"1"})
        while time.monotonic() < end:
            self._round()

    def _round(self) -> None:
        """One update or one more try of it, cut somewhere or nowhere."""
        machine = self._machine
        self._write_a_file()
        phase = self._chance.choice([*_PHASES])
        if self._chance.random() < _UNCUT:
            phase = "none"
        status = machine.status()
        allowed = {slot["release"] for slot in status["slots"].values()}
        if status["boot"]["ustate"] == 3:
            machine.run("abupdate", "acknowledge")
        if status["boot"]["trial"] == "x":
            running = status["booted"]["release"]
            wanted = self._chance.choice([one for one in _RELEASES if one != running])
            allowed.add(wanted)
            if self._install(wanted, cut=phase == "install"):
                self._came_back(allowed)
                return
        since = machine.vm.serial.position
        machine.reboot()
        if phase in ("install", "none"):
            machine.vm.serial.wait_for(r"reboot: Restarting system", _SIGN_SECONDS, since)
        else:
            sign = {
                "GRUB": r"reboot: Restarting system",
                "start": r"abupdate: (trial|normal boot|fallback boot) of",
                "check": r"ABUPDATE-MARKER .* \.",
            }.get(phase)
            if sign is not None:
                machine.vm.serial.wait_for(sign, _SIGN_SECONDS, since)
            self._cut(phase)
        self._came_back(allowed)

    def _install(self, release: str, *, cut: bool) -> bool:
        """Install a release; whether it was cut in the middle."""
        machine = self._machine
        machine.run("mkdir", "-p", MEDIUM)
        if machine.run("mountpoint", "-q", MEDIUM, ok=None).code != 0:
            machine.mount_medium()
        words = [
            "abupdate",
            "install",
            "--retry-failed",
            "--allow-downgrade",
            f"{MEDIUM}/{release}.bundle",
        ]
        print(f"{self._at()} install release {release}", flush=True)
        if not cut:
            machine.run(*words, timeout=900)
            return False
        machine.vm.agent.start(words)
        self._cut("install")
        return True

    def _cut(self, phase: str) -> None:
        self._power_off(phase, _PHASES[phase])
        while self._chance.random() < _AGAIN:
            self._power_off("the boot after a cut", _NEXT_BOOT)

    def _power_off(self, phase: str, longest: float) -> None:
        """At some moment from now, and on again."""
        wait = self._chance.uniform(0, longest)
        time.sleep(wait)
        self._machine.vm.power_cut()
        self.cuts[phase] += 1
        print(f"{self._at()} cut {self.cuts.total()}: {phase}, {wait:.1f} s in", flush=True)
        self._machine.power_on()

    def _came_back(self, allowed: set[str]) -> None:
        """Wait for the next boot, and look at all that must be whole."""
        machine = self._machine
        marker = machine.wait_for_boot()
        machine.settle()
        status = machine.status()
        self.boots[marker.boot] += 1
        told = "; ".join([status["booted"]["text"], *status["problems"]])
        print(f"{self._at()} release {marker.release} in {marker.slot}: {told}", flush=True)
        self._judge(marker, allowed, status["boot"]["good"])

    def _judge(self, marker: Marker, allowed: set[str], good: str) -> None:
        if marker.release not in allowed:
            raise BrokenError(f"release {marker.release} runs, and {allowed} may")
        if marker.slot not in good and marker.boot != "trial":
            raise BrokenError(f"slot {marker.slot} runs, was never confirmed, and is no trial")
        words = ["sha256sum", *(f"{_FILES}/{name}" for name in self._files)]
        found = self._machine.run(*words, ok=None) if self._files else None
        if found is not None and found.stdout.split()[::2] != [*self._files.values()]:
            raise BrokenError(f"the user's files are not what they were: {found}")
        if self._chance.random() < _VERIFIED:
            self._machine.run("abupdate", "verify", marker.slot, timeout=600)

    def _write_a_file(self) -> None:
        """What a user does: write, flush, and rely on it."""
        name, size = f"{len(self._files)}", self._chance.randrange(1, 200_000)
        path = f"{_FILES}/{name}"
        script = f"mkdir -p {_FILES}; head -c {size} /dev/urandom > {path}; sync {path} {_FILES}"
        self._machine.run("sh", "-ec", f"{script} {_FILES}/..")
        digest = self._machine.run("sha256sum", path).stdout.split()[0]
        self._files[name] = digest

    @staticmethod
    def _at() -> str:
        return time.strftime("%H:%M:%S")


@contextmanager
def machine(scratch: Path) -> Iterator[DeviceVM]:
    """A new device, and a medium with all releases as deltas to the first."""
    releases = [_release(version) for version in _RELEASES]
    series = publisher.publish(releases)
    signers = publisher.key().allowed_signers
    bundles = {
        f"{version}.bundle": series.bundle(version, since=["1"]) for version in _RELEASES[1:]
    }
    bundles["1.bundle"] = series.bundle("1")
    disk = device.copy(device.build(bundles["1.bundle"], signers), scratch / "disk.img")
    medium = make_medium(scratch / "medium.img", bundles)
    accel = accelerator(lambda: guest.kernel(guest.build(releases[0], signers.read_text())))
    with VM([Disk(disk), Disk(medium, readonly=True)], firmware="bios", accel=accel) as vm:
        yield DeviceVM(vm)


def _release(version: str) -> guest.Release:
    """Release 1 of the demo with some megabytes that differ, and one that does not."""
    seed = hashlib.sha256(version.encode()).digest()
    files = {"/usr/share/soak": random.Random(seed).randbytes(3_000_000)}
    return replace(demo_parts.ONE, version=version, files=files)


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".soak-") as name,
        machine(Path(name)) as found,
    ):
        soak = Soak(found, options.seed)
        try:
            soak.run(options.minutes * 60)
        except VMError as error:
            print(f"STUCK after {soak.cuts.total()} cuts: {error}")
            return 1
        except BrokenError as error:
            print(f"BROKEN after {soak.cuts.total()} cuts: {error}")
            return 1
    cuts = ", ".join(f"{phase} {count}" for phase, count in soak.cuts.items())
    boots = ", ".join(f"{how} {count}" for how, count in soak.boots.items())
    print(f"{soak.cuts.total()} cuts ({cuts}), 0 stuck; boots: {boots}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
