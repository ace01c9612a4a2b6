"""A device whose slot B is put on trial again and again, with another fault each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_vm import BOOT_SECONDS, DeviceVM

from tests.vm import health_docs

_UPPER = "/data/etc/B/upper"
_TRIAL = r"ABUPDATE-MARKER release=2 slot=B boot=trial attempt=\d "
_CONFIG = "/etc/abupdate/config.d/50-test.toml"


class Trials:
    """A device whose slot B is armed again and again."""

    def __init__(self, machine: DeviceVM, image: Path) -> None:
        self.machine = machine
        self.image = image
        self._given: list[str] = []

    def give(self, files: Mapping[str, str]) -> None:
        """Put files into slot B's /etc, and take those of the last time away."""
        # Nothing that is changed here later is to take their place at a shutdown.
        self.machine.run("systemctl", "mask", "--now", "--quiet", "abupdate-etc.service")
        for name in self._given:
            self.machine.run("rm", "-f", f"{_UPPER}/{name}")
        self._given = list(files)
        for name, content in files.items():
            self.write(f"{_UPPER}/{name}", content)

    def write(self, path: str, content: str) -> None:
        """Put a file on the device; a script is made executable."""
        mode = "755" if content.startswith("#!") else "644"
        self.machine.run("mkdir", "-p", str(Path(path).parent))
        self.machine.run("sh", "-c", 'printf %s "$2" > "$1"; chmod $3 "$1"; sync "$1"',
                         "sh", path, content, mode)  # fmt: skip

    def tries(self, number: int) -> None:
        """How many boots the next trial gets: a healthy boot takes it from the configuration."""
        self.write(_CONFIG, f"[boot]\ntries = {number}\n")
        self.machine.run("abupdate", "confirm", "--boot")

    def start(self, *, stuck: bool = False) -> None:
        """Arm B, reboot into it. `stuck`: it does not get as far as a shell."""
        self.machine.run("abupdate", "arm")
        since = self.machine.vm.serial.position
        self.machine.reboot()
        if stuck:
            self.machine.vm.serial.wait_for(_TRIAL, BOOT_SECONDS, since)
            return
        marker = self.machine.wait_for_boot(boot="trial")
        assert (marker.slot, marker.release) == ("B", "2")

    def came_back(self, boot: str = "normal") -> None:
        """Wait until release 1 runs again, and is judged."""
        marker = self.machine.wait_for_boot(release="1")
        assert (marker.slot, marker.boot) == ("A", boot)
        assert self.machine.settle() == "running"

    def why(self, name: str = "") -> dict[str, Any]:
        """What `why` tells; with a name, all that a person reads is kept for docs/."""
        if name:
            for command in ("status", "why", "history"):
                health_docs.keep(name, command, self.machine.run("abupdate", command).stdout)
        story: dict[str, Any] = json.loads(self.machine.run("abupdate", "why", "--json").stdout)
        return story

    def boots(self, since: int) -> list[tuple[str, str]]:
        """Slot and kind of all boots since so many."""
        return [(marker.slot, marker.boot) for marker in self.machine.markers()[since:]]
