"""A release on a device: updated to from another, confirmed; then a fallback is forced.

The releases must have the test guest's marker and agent (in Yocto: `abupdate-qemu-guest`, which
kas/ci.yml adds): what ran is read from the serial port, and commands are run inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo import expect, expect_state
from demo_parts import Timeline
from device_vm import DeviceVM, Marker, make_medium
from vm import VM, Disk, Firmware

TRIES = 3
REASON = "abupdate-qemu test: this check fails on trial"
# The owner's own, which the next install carries to the other slot: it fails there alone.
CHECK = f"""\
set -e
mkdir -p /etc/abupdate/required.d
cat >/etc/abupdate/required.d/99-abupdate-qemu <<'END'
#!/bin/sh
grep -q abupdate.boot=trial /proc/cmdline || exit 0
echo "{REASON}"
exit 1
END
chmod 755 /etc/abupdate/required.d/99-abupdate-qemu
"""


def play(
    bundle: Path,
    disk: Path,
    folder: Path,
    firmware: Firmware,
    accel: str,
    memory: int = 1024,
    extra: Sequence[str] = (),
) -> list[Marker]:
    """Update the device on `disk`, which is written to, and have it fall back; all its boots.

    Raises `DifferentError` or `VMError` where anything is not as it should be.
    """
    timeline = Timeline()
    medium = Disk(make_medium(folder / "medium.img", {"new.bundle": bundle}), readonly=True)
    disks = [Disk(disk, bootindex=1), medium]
    with VM(disks, firmware=firmware, accel=accel, memory=memory, extra=extra) as vm:
        machine = DeviceVM(vm)
        before = _first_boot(timeline, machine)
        after = _update(timeline, machine, before)
        _fallback(timeline, machine, before, after)
        machine.power_off()
        return machine.markers()


def _first_boot(timeline: Timeline, machine: DeviceVM) -> Marker:
    with timeline.step("power on"):
        machine.power_on()
        marker = machine.wait_for_boot(boot="normal")
        expect("state of the system", "running", machine.settle())
        timeline.fact(f"release {marker.release}, slot {marker.slot}, {marker.uname}")
        return marker


def _update(timeline: Timeline, machine: DeviceVM, before: Marker) -> Marker:
    with timeline.step("install the release"):
        machine.mount_medium()
        machine.install("new.bundle")
    with timeline.step("reboot: its trial, confirmed by its health check"):
        machine.reboot()
        marker = machine.wait_for_boot(boot="trial", attempt="1")
        expect("another slot", True, marker.slot != before.slot)
        expect("another release", True, marker.release != before.release)
        expect("state of the system", "running", machine.settle())
        expect_state(machine, "confirmed", slot=marker.slot, good="AB", trial="x", ustate=0)
        timeline.fact(f"release {marker.release}, slot {marker.slot}, {marker.uname}")
        return marker


def _fallback(timeline: Timeline, machine: DeviceVM, before: Marker, after: Marker) -> None:
    with timeline.step(f"install {before.release} again, with a check that fails on trial"):
        machine.run("sh", "-c", CHECK)
        release = f"release/{before.release}"
        machine.run("abupdate", "install", "--allow-downgrade", release, timeout=900)
        machine.reboot()
    for attempt in range(1, TRIES + 1):
        with timeline.step(f"trial boot {attempt}; its check fails, it reboots"):
            marker = machine.wait_for_boot(before.release, "trial", str(attempt))
            expect("slot on trial", before.slot, marker.slot)
    with timeline.step(f"it is given up: {after.release} runs again"):
        marker = machine.wait_for_boot(after.release)
        expect("boot after the trial", (after.slot, "normal"), (marker.slot, marker.boot))
        machine.settle()
        expect_state(machine, "after the fallback", slot=after.slot, ustate=3, failed=before.slot)
        cause = machine.status()["last_install"]["cause"] or ""
        expect("the failing check in the cause", True, REASON in cause)
        timeline.fact(cause)
