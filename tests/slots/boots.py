"""A device from one boot to the next, and what is told of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from abupdate.config import load
from abupdate.disk.layout import Slot
from abupdate.events import Event, Events
from abupdate.store.repository import Repository
from abupdate.update import verdict
from abupdate.update.judge import Verdict
from abupdate.update.trials import Trials
from tests.slots.boot_device import BootDevice


@dataclass
class Boots:
    """A device from boot to boot; what its units do is called directly: no reboot is real."""

    device: BootDevice
    warnings: list[str]
    pstore: Path
    number: int = 0
    uptime: float = 20.0
    ill: str = ""

    def begin(self, slot: Slot, how: str) -> None:
        """The next boot, as GRUB decides it; it must be that one."""
        done = self.device.power_on()
        assert (done.boots, done.how) == (slot, how)
        self.number += 1
        verdict.boot_began(self.device.machine, self.events)

    @property
    def events(self) -> Events:
        def keep(event: Event) -> None:
            if event.kind == "warning":
                self.warnings.append(event.text or "")

        return Events(keep)

    def judge(self) -> Verdict:
        """Check, and what the units do next."""
        machine = self.device.machine
        found = verdict.check_boot(machine, self.events)
        return self.failed() if found.failed else self.passed()

    def crash(self, text: str, time: float = 0.0) -> None:
        """What the kernel keeps of a crash, by a clock that nobody has set yet."""
        path = self.pstore / "sys/fs/pstore" / f"dmesg-erst-{self.number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\nKernel panic - {text}\n")
        os.utime(path, (time, time))

    def passed(self) -> Verdict:
        machine = self.device.machine
        return verdict.boot_passed(machine, load(machine.paths).settings, self.events)

    def failed(self) -> Verdict:
        return verdict.boot_failed(self.device.machine, self.events)

    def deadline(self) -> Verdict | None:
        return verdict.deadline_passed(self.device.machine, self.events)

    def history(self) -> list[str]:
        return [entry.event for entry in self.device.machine.records.history()]


def told(device: BootDevice, capsys: pytest.CaptureFixture[str], command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert device.run(command, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def booted_tags(device: BootDevice) -> dict[str, str]:
    store = Repository(device.paths.state / "store.git", device.machine.sandbox)
    return {name: oid for name, oid in store.refs("refs/tags").items() if "/booted-" in name}


def kept_boots(boots: Boots) -> list[dict[str, Any]]:
    record = boots.device.machine.records.slot(Slot.B)
    assert record is not None
    found = Trials(boots.device.paths.state).boots(record.commit)
    return json.loads(json.dumps([asdict(boot) for boot in found]))  # type: ignore[no-any-return]
