"""A device in a virtual machine: its boots, what they say of themselves, and its commands.

Every boot of a test guest prints a line on the serial port (`guest/files/marker`)
that comes from the booted root filesystem, the kernel command line and GRUB's
environment, not from abupdate: that is the proof of what ran.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import Done
from vm import VM

from abupdate.disk.images import make_ext4
from abupdate.disk.layout import MIB

BOOT_SECONDS = 240.0
INSTALL_SECONDS = 900.0
MEDIUM = "/run/medium"

_MARKER = re.compile(
    r"ABUPDATE-MARKER release=(\S*) slot=(\S*) boot=(\S*) attempt=(\S*) uname=(\S*)"
)


@dataclass(frozen=True)
class Marker:
    """What a boot says of itself. `attempt` is 1, 2, … on trial, else `-`."""

    release: str
    slot: str
    boot: str
    attempt: str
    uname: str


class DeviceVM:
    """A VM whose disk is a device's (`device.build`). Does not own the VM: close it yourself."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self._since = 0

    def power_on(self) -> None:
        """Start it; follow with `wait_for_boot`."""
        self._since = self.vm.serial.position
        self.vm.start()

    def reboot(self) -> None:
        """Reboot from inside; follow with `wait_for_boot`."""
        self._since = self.vm.serial.position
        self.vm.agent.start(["systemctl", "reboot"])

    def restarts(self) -> None:
        """It is about to reboot by other means; follow with `wait_for_boot`."""
        self._since = self.vm.serial.position

    def power_off(self) -> None:
        """Shut down from inside, and wait until it is off."""
        self.vm.agent.start(["systemctl", "poweroff"])
        self.vm.wait_for_power_off(BOOT_SECONDS)

    def wait_for_boot(
        self,
        release: str = r"\S*",
        boot: str = r"\S*",
        attempt: str = r"\S*",
        timeout: float = BOOT_SECONDS,
    ) -> Marker:
        """Wait for the marker of a boot after the last `power_on` or `reboot`, and its agent.

        The arguments are patterns; boots that do not match are passed over.
        """
        words = rf"release={release} slot=\S* boot={boot} attempt={attempt} uname=\S+"
        # Up to the end of the line: the console also offers lines that are still being printed.
        pattern = rf"ABUPDATE-MARKER {words} \."
        line = self.vm.serial.wait_for(pattern, timeout, self._since).string
        (marker,) = _markers(line)
        argument = rf"abupdate\.slot={marker.slot} abupdate\.boot={marker.boot}( |$)"
        self.vm.agent.wait(timeout, argument)
        return marker

    def settle(self, timeout: float = BOOT_SECONDS) -> str:
        """Wait until all jobs of the boot are done, the verdict on it too; the system's state."""
        words = ["systemctl", "is-system-running", "--wait"]
        return self.run(*words, timeout=timeout, ok=None).stdout.strip()

    def markers(self) -> list[Marker]:
        """All boots so far, over all power cycles."""
        return [marker for line in self.vm.serial.lines() for marker in _markers(line.text)]

    def run(
        self,
        *argv: str,
        timeout: float = 120,
        ok: tuple[int, ...] | None = (0,),
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command as root inside."""
        words = ["env", *(f"{name}={value}" for name, value in (env or {}).items())] if env else []
        return self.vm.agent.run([*words, *argv], timeout=timeout, ok=ok)

    def status(self) -> dict[str, Any]:
        """`abupdate status --json`."""
        report: dict[str, Any] = json.loads(self.run("abupdate", "status", "--json").stdout)
        return report

    def mount_medium(self) -> None:
        """Mount the disk that `make_medium` made at `MEDIUM`; once a boot."""
        self.run("mkdir", "-p", MEDIUM)
        self.run("mount", "-o", "ro", "LABEL=medium", MEDIUM)

    def install(
        self,
        name: str,
        *options: str,
        ok: tuple[int, ...] | None = (0,),
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """`abupdate install` of a file on the medium."""
        path = f"{MEDIUM}/{name}"
        return self.run(
            "abupdate", "install", *options, path, timeout=INSTALL_SECONDS, ok=ok, env=env
        )


def make_medium(path: Path, files: Mapping[str, Path]) -> Path:
    """A disk with files on it (name → file), as a memory stick would bring them."""
    tree = path.with_name(f"{path.name}.tree")
    tree.mkdir()
    for name, file in files.items():
        shutil.copy(file, tree / name)
    size = sum(file.stat().st_size for file in files.values())
    make_ext4(path, size * 5 // 4 // MIB * MIB + 32 * MIB, "medium", tree)
    shutil.rmtree(tree)
    return path


def _markers(text: str) -> list[Marker]:
    return [Marker(*found) for found in _MARKER.findall(text)]
