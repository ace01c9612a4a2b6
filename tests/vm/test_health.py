"""Trials that go wrong, one after the other on one device: the verdict, and what is told of it.

Release 2 lies in slot B from the start; what is wrong with a trial is put into that
slot's own /etc from outside, so that no release has to be made for it. One try each,
but where the power is cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import demo_parts
import device
import pytest
from device_vm import DeviceVM, make_medium
from vm import VM, Disk

from abupdate.run import run
from tests.vm import health_docs
from tests.vm.trials import Trials

pytestmark = pytest.mark.long

_PANIC = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"
_PROTECT = "blockdev --setro $(findmnt -no SOURCE /boot/efi)"


@pytest.fixture(scope="module")
def trials(parts: demo_parts.Parts, images: Path) -> Iterator[Trials]:
    medium = make_medium(images / "medium.img", {"2.bundle": parts.bundles["2"]})
    disk = device.copy(parts.disk, images / "disk.img")
    disks = [Disk(disk), Disk(medium, readonly=True)]
    # What keeps a crash text over a reset: on PCs, servers have it, or EFI variables.
    kept = f"memory-backend-file,id=erst,mem-path={images}/erst,size=0x10000,share=on"
    extra = ["-object", kept, "-device", "acpi-erst,memdev=erst"]
    with VM(disks, firmware="bios", accel=parts.accel, extra=extra) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot()
        machine.settle()
        machine.mount_medium()
        machine.install("2.bundle", "--no-arm")
        found = Trials(machine, disk)
        found.tries(1)
        yield found


def test_the_units_of_a_boot_are_confined(trials: Trials) -> None:
    """`systemd-analyze security`: at most "OK", lower is safer."""
    seen = {}
    for unit in ("started", "healthcheck", "confirm", "reject", "deadline"):
        name = f"abupdate-{unit}.service"
        told = trials.machine.run("systemd-analyze", "security", "--no-pager", name).stdout
        seen[name] = float(told.rpartition("for ")[2].split(": ")[1].split()[0])
    print(seen)
    # The checks are the owner's programs, and may have to do anything.
    assert all(value <= 5.0 for name, value in seen.items() if "healthcheck" not in name), seen


@pytest.mark.row("U12", "S36")
def test_a_check_that_hangs(trials: Trials) -> None:
    trials.give(
        {
            "abupdate/required.d/50-display": "#!/bin/sh\necho waiting for the screen\nsleep 999\n",
            "abupdate/config.d/60-health.toml": "[health]\ntimeout = 3\nwait = 0\n",
        }
    )
    before = len(trials.machine.markers())
    trials.start()
    trials.came_back()
    assert trials.boots(before) == [("B", "trial"), ("A", "normal")]
    story = trials.why("A check that hangs")
    (boot,) = story["boots"]
    assert (story["event"], story["release"], boot["verdict"]) == ("fallback", "2", "failed")
    told = "required check '50-display' failed: not finished after 3 seconds"
    assert boot["reasons"] == [f"{told} (waiting for the screen)"]
    checks = {check["name"]: check["passed"] for check in boot["checks"]}
    assert checks["50-display"] is False
    assert checks["data"] and checks["can-update"]
    status = trials.machine.status()
    assert (status["boot"]["ustate"], status["boot"]["failed"]) == (3, "B")
    assert status["failed"] == ["2"]
    # Not tried again by itself; a person may.
    trials.machine.mount_medium()
    refused = trials.machine.install("2.bundle", ok=None)
    assert refused.code == 7
    assert "was tried here and given up" in refused.stderr
    trials.machine.run("abupdate", "acknowledge")
    assert trials.machine.status()["boot"]["ustate"] == 0
    assert trials.why()["open"] is False


def test_a_unit_that_failed(trials: Trials) -> None:
    unit = "[Service]\nType=oneshot\nExecStart=/bin/false\n"
    trials.give(
        {
            "systemd/system/kiosk.service": unit,
            "systemd/system/multi-user.target.d/kiosk.conf": "[Unit]\nWants=kiosk.service\n",
            "abupdate/config.d/60-health.toml": "[health]\nwanted = []\nwait = 0\n",
        }
    )
    trials.start()
    trials.came_back()
    (boot,) = trials.why("A unit that failed")["boots"]
    assert boot["reasons"] == ["required check 'failed-units' failed: failed: kiosk.service"]
    assert any("kiosk.service" in line for line in boot["journal"])


@pytest.mark.row("U34")
def test_up_and_never_judged(trials: Trials) -> None:
    """As early as can be: local filesystems never come, so that no other service does either."""
    unit = (
        "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\n[Service]\nType=oneshot\n"
        "ExecStart=/bin/sleep infinity\nTimeoutStartSec=infinity\n"
    )
    trials.give(
        {
            "systemd/system/endless.service": unit,
            "systemd/system/local-fs.target.d/x.conf": "[Unit]\nRequires=endless.service\n",
            "abupdate/config.d/60-confirm.toml": "[confirm]\ndeadline = 60\n",
        }
    )
    before = len(trials.machine.markers())
    trials.start(stuck=True)
    trials.came_back()
    assert trials.boots(before) == [("B", "trial"), ("A", "normal")]
    (boot,) = trials.why("Up, and never judged")["boots"]
    assert boot["verdict"] == "unjudged"
    assert boot["reasons"] == ["no verdict in 60 seconds (still starting: endless.service)"]


@pytest.mark.row("U34")
def test_a_person_was_to_look_and_nobody_did(trials: Trials) -> None:
    """Manual mode: its checks pass, and the deadline for confirming it goes by."""
    settings = '[confirm]\nmode = "manual"\ndeadline = 90\n'
    trials.give({"abupdate/config.d/60-confirm.toml": settings})
    before = len(trials.machine.markers())
    trials.start()
    trials.machine.settle()
    assert "waiting for `abupdate confirm`" in log(trials.machine)
    status = trials.machine.status()
    assert (status["boot"]["ustate"], status["boot"]["trial"]) == (1, "B")
    trials.came_back()
    assert trials.boots(before) == [("B", "trial"), ("A", "normal")]
    (boot,) = trials.why("Manual mode, and nobody confirms")["boots"]
    assert boot["reasons"] == ["nobody confirmed it in 90 seconds"]
    assert all(check["passed"] for check in boot["checks"])


@pytest.mark.row("U12")
def test_a_panic_that_the_platform_keeps(trials: Trials) -> None:
    trials.give(
        {
            "systemd/system/panic.service": "[Unit]\nAfter=abupdate-started.service\n[Service]\n"
            f"Type=oneshot\nExecStart=/bin/sh -c '{_PANIC}'\n",
            "systemd/system/multi-user.target.d/panic.conf": "[Unit]\nWants=panic.service\n",
        }
    )
    before = len(trials.machine.markers())
    trials.start()
    trials.came_back("fallback")
    assert trials.boots(before) == [("B", "trial"), ("A", "fallback")]
    story = trials.why("A kernel that crashes")
    (boot,) = story["boots"]
    assert (story["event"], boot["verdict"]) == ("fallback", None)
    assert story["cause"].startswith("the kernel crashed: Kernel panic - not syncing: sysrq")
    assert any("sysrq" in line for line in boot["console"])


def test_without_a_data_partition(trials: Trials) -> None:
    """It cannot be kept; and it is not the release's fault, which is armed once more."""
    trials.give({})
    machine = trials.machine
    machine.run("abupdate", "arm")
    machine.power_off()
    rename_data(trials.image, "data", "lost")
    machine.power_on()
    before = len(machine.markers())
    marker = machine.wait_for_boot(release="1")
    assert (marker.slot, marker.boot) == ("A", "normal")
    assert trials.boots(before) == [("B", "trial"), ("A", "normal")]
    machine.settle()
    checked = machine.run("abupdate", "check", ok=None)
    assert checked.code == 7
    assert "one partition named 'data' was expected" in checked.stdout
    status = machine.status()
    assert "no record is left of what was in it" in " ".join(status["problems"])
    health_docs.keep("Without a data partition", "status", machine.run("abupdate", "status").stdout)
    health_docs.keep("Without a data partition", "check", checked.stdout)
    machine.power_off()
    rename_data(trials.image, "lost", "data")
    tear_superblock(trials.image, "data")
    machine.power_on()
    assert machine.wait_for_boot().slot == "A"
    assert machine.settle() == "running"
    story = trials.why("Without a data partition, which is back")
    assert (story["event"], story["rearmed"], story["boots"]) == ("interrupted", True, [])
    mounts = machine.run("cat", "/run/abupdate/mounts").stdout
    assert "its superblock was torn, repaired by e2fsck -y" in mounts
    machine.run("abupdate", "reject")
    machine.run("abupdate", "acknowledge")


@pytest.mark.row("U17")
def test_three_cuts_and_then_a_good_boot(trials: Trials) -> None:
    """A wanted check fails, and the ESP takes no writes at first: neither is against it."""
    machine = trials.machine
    trials.give(
        {
            "abupdate/wanted.d/50-radio": "#!/bin/sh\necho no antenna\nexit 1\n",
            "systemd/system/protect.service": "[Unit]\nDefaultDependencies=no\n[Service]\n"
            f"Type=oneshot\nExecStart=/bin/sh -c '{_PROTECT}'\n",
            "systemd/system/sysinit.target.d/protect.conf": "[Unit]\nWants=protect.service\n",
        }
    )
    trials.tries(3)
    machine.run("abupdate", "arm")
    machine.reboot()
    before = len(machine.markers())
    for attempt in ("1", "2", "3"):
        machine.vm.serial.wait_for(
            rf"ABUPDATE-MARKER release=2 slot=B boot=trial attempt={attempt} ", 240, machine._since
        )
        machine.vm.power_cut()
        machine.power_on()
    trials.came_back("fallback")
    assert trials.boots(before) == [("B", "trial")] * 3 + [("A", "fallback")]
    status = machine.status()
    assert status["last_install"]["outcome"] == "installed, on trial"
    assert status["last_install"]["rearmed"] is True
    assert trials.why("Three power cuts")["event"] == "interrupted"
    machine.reboot()
    machine.wait_for_boot(release="2", boot="trial")
    wait_for(lambda: "abupdate: " in log(machine), machine)
    health_docs.keep("The boot state cannot be written", "confirm --boot", log(machine))
    status = machine.status()
    assert (status["boot"]["ustate"], status["boot"]["trial"]) == (1, "B")
    assert status["last_install"]["outcome"] == "installed, on trial"
    health_docs.keep("The boot state cannot be written", "status",
                     machine.run("abupdate", "status").stdout)  # fmt: skip
    machine.run("sh", "-c", "blockdev --setrw $(findmnt -no SOURCE /boot/efi)")
    wait_for(lambda: machine.status()["boot"]["ustate"] == 0, machine)
    machine.settle()
    status = machine.status()
    assert status["last_install"]["outcome"] == "confirmed"
    assert (status["boot"]["slot"], status["boot"]["good"]) == ("B", "AB")
    check = machine.run("abupdate", "check")
    assert "no antenna" in check.stdout
    assert "Healthy. To look at: 50-radio." in check.stdout
    health_docs.keep("Confirmed at last", "check", check.stdout)
    for command in ("status", "history"):
        health_docs.keep("Confirmed at last", command, machine.run("abupdate", command).stdout)
    timer = ("systemctl", "is-active", "abupdate-deadline.timer")
    wait_for(lambda: machine.run(*timer, ok=None).stdout.strip() == "inactive", machine)


def log(machine: DeviceVM) -> str:
    words = ["journalctl", "-b", "-u", "abupdate-confirm.service", "--no-pager", "-o", "cat"]
    return machine.run(*words).stdout


def wait_for(true: Callable[[], bool], machine: DeviceVM, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds:.0f} s\n{log(machine)}"
        time.sleep(2)


def rename_data(image: Path, old: str, new: str) -> None:
    """Give a partition of a disk image another GPT name."""
    number = [part["name"] for part in partitions(image)].index(old) + 1
    run(["sfdisk", "--part-label", image, str(number), new])


def tear_superblock(image: Path, name: str) -> None:
    """As a power cut may leave it when it is written: the second of its two sectors is older."""
    (start,) = [part["start"] * 512 for part in partitions(image) if part["name"] == name]
    with image.open("r+b") as file:
        file.seek(start + 1536)
        older = bytes([file.read(1)[0] ^ 1])
        file.seek(start + 1536)
        file.write(older)


def partitions(image: Path) -> list[dict[str, Any]]:
    found = run(["sfdisk", "--json", image]).stdout
    parts: list[dict[str, Any]] = json.loads(found)["partitiontable"]["partitions"]
    return parts
