"""Releases that panic or hang in a real guest: each machine comes back by itself, in the old slot.

Nobody touches the machines. What boots is counted by GRUB's own lines and by
those that the kernel, the initramfs or the broken unit print before it is over,
so that a boot which dies early counts as well. They run side by side, and the
times of each are printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import demo_parts
import pytest
from device_vm import DeviceVM
from serial_console import Line
from vm import VM

from abupdate.boot.state import BootState, Ustate
from tests.grub.grubbox import Disk
from tests.vm import armed_slot

# `tests/grub` has the same rules with a kernel that takes no time.
pytestmark = pytest.mark.long

TRIES = 2
WATCHDOG = ("-device", "i6300esb")
# As many machines at a time as the processors of the smallest test machine.
JOBS = 2
LONGEST = 400.0

# What GRUB says of each trial boot, and of the one after the last.
TRIAL = r"abupdate: trial of B, boots left after this one: (\d)"
FALLBACK = r"abupdate: fallback boot of A"
MARKER = r"ABUPDATE-MARKER .* slot=(\S) boot=(\S+) attempt=(\S) uname=\S+ \."


@dataclass(frozen=True)
class Fault:
    """One way to break.

    `arguments`: the kernel's in slot B. `says`: what each broken boot prints.
    `waits`: seconds that a boot then takes to the reset. `markers`: trial boots that got as
    far as systemd. `asks`: the old slot answers `QUESTIONS`.
    """

    arguments: str
    says: str
    waits: int
    markers: int
    watchdog: bool = False
    remove: str | None = None
    cpus: int = 1
    asks: bool = False


FAULTS = {
    # The two without a watchdog: `panic=` alone brings them back.
    "panic": Fault(
        arguments="abupdate-test.fault=panic panic=5",
        says=r"Kernel panic - not syncing: sysrq triggered crash",
        waits=5,
        markers=TRIES,
    ),
    "no init": Fault(
        arguments="panic=5",
        says=r"abupdate: the slot has no /sbin/init",
        waits=5,
        markers=0,
        remove="/usr/sbin/init",
        asks=True,
    ),
    # After a step of 30 s, which the watchdog has to let pass.
    "hang in the initramfs": Fault(
        arguments="abupdate-test.fault=initramfs i6300esb.heartbeat=20",
        says=r"abupdate-test: the initramfs hangs",
        waits=50,
        markers=0,
        watchdog=True,
    ),
    # All processors, by what systemd cannot interrupt.
    "hang of the system": Fault(
        arguments="abupdate-test.fault=hang",
        says=r"abupdate-test: the system hangs",
        waits=30,
        markers=TRIES,
        watchdog=True,
        cpus=2,
        asks=True,
    ),
}


@dataclass(frozen=True)
class Seen:
    """What a machine did: its console from power-on to the old slot, and what that one says."""

    lines: list[Line]
    ended: BootState
    answers: list[str]

    def times(self, pattern: str) -> list[float]:
        """When lines that match were printed, in seconds."""
        return [line.seconds for line in self.lines if re.search(pattern, line.text)]

    def all(self, pattern: str) -> list[str]:
        """The groups of lines that match, in order, with a space between them."""
        found = (re.search(pattern, line.text) for line in self.lines)
        return [" ".join(match.groups()) for match in found if match]


# Asked in the old slot: what the initramfs found, what systemd did, what failed.
QUESTIONS = (
    ("cat", "/run/abupdate/watchdog"),
    ("systemctl", "show", "--property=RuntimeWatchdogUSec,WatchdogDevice"),
    ("journalctl", "--boot", "--grep=[Ww]atchdog running with"),
    ("systemctl", "--failed", "--plain", "--no-legend"),
)


def play(fault: Fault, armed: Disk, image: Path, accel: str) -> Seen:
    """Switch a machine with this fault in slot B on, and wait until the old slot runs."""
    disk = armed.copy(image)
    armed_slot.add_arguments(disk, fault.arguments)
    if fault.remove is not None:
        disk.write_slot("B", fault.remove, None)
    extra = WATCHDOG if fault.watchdog else ()
    with VM([image], firmware="bios", accel=accel, cpus=fault.cpus, extra=extra) as vm:
        vm.start()
        vm.serial.wait_for(FALLBACK, LONGEST)
        vm.serial.wait_for(MARKER, LONGEST, vm.serial.position)
        answers = []
        if fault.asks:
            device = DeviceVM(vm)
            vm.agent.wait(LONGEST, "abupdate.boot=fallback")
            device.settle()
            answers = [device.run(*words, ok=None).stdout.strip() for words in QUESTIONS]
        vm.power_cut()
        lines = vm.serial.lines()
    ended = armed_slot.read_state(disk)
    image.unlink()
    return Seen(lines, ended, answers)


@pytest.fixture(scope="module")
def runs(parts: demo_parts.Parts, images: Path) -> Iterator[dict[str, Future[Seen]]]:
    """All machines, on their way."""
    armed = armed_slot.build(parts.disk, images / "armed.img", TRIES)
    with ThreadPoolExecutor(JOBS) as pool:
        yield {
            name: pool.submit(play, fault, armed, images / f"{number}.img", parts.accel)
            for number, (name, fault) in enumerate(FAULTS.items())
        }


@pytest.mark.row("S14", "S37", "U21")
@pytest.mark.parametrize("name", FAULTS)
def test_comes_back_in_the_old_slot(
    runs: dict[str, Future[Seen]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, seen = FAULTS[name], runs[name].result()
    # GRUB counted both boots down, each broke in the same way, and then it gave up.
    assert seen.all(TRIAL) == ["1", "0"]
    assert len(seen.times(fault.says)) == TRIES
    assert len(seen.times(r"abupdate: giving up B, falling back")) == 1
    trials = [f"B trial {attempt}" for attempt in range(1, fault.markers + 1)]
    assert seen.all(MARKER) == [*trials, "A fallback -"]
    state = seen.ended
    assert (state.ustate, state.failed, state.trial) == (Ustate.FAILED, "B", "x")
    assert (state.slot, state.good) == ("A", "Ax")

    took = seen.times(MARKER)[-1] - seen.times(TRIAL)[0]
    boot = seen.times(MARKER)[-1] - seen.times(FALLBACK)[-1]
    bound = TRIES * (boot + fault.waits) + boot
    with capsys.disabled():
        print(f"\n{name}: {took:.0f} s for {TRIES} tries; {bound:.0f} s = {TRIES} x "
              f"({boot:.0f} s boot + {fault.waits} s) + boot")  # fmt: skip
    # Two boots side by side are never equally quick.
    assert took < bound * 1.3 + 15


def test_systemd_keeps_the_watchdog(runs: dict[str, Future[Seen]]) -> None:
    report, manager, log, failed = runs["hang of the system"].result().answers
    assert report == "i6300ESB timer, 120 s"
    assert {"RuntimeWatchdogUSec=30s", "WatchdogDevice=/dev/watchdog0"} == {*manager.splitlines()}
    assert "Watchdog running with a hardware timeout of 30s" in log
    assert failed == ""


def test_a_machine_without_a_watchdog_boots_as_before(runs: dict[str, Future[Seen]]) -> None:
    report, _, log, failed = runs["no init"].result().answers
    assert report == "none"
    assert "Watchdog running" not in log
    assert failed == ""
