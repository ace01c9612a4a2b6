"""Inside one running device: status, refusals, a power cut in the middle of an install.

One boot takes half a minute without KVM, so the tests share a machine and
follow each other in the order of this file.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import demo_parts
import device
import pytest
from device_vm import MEDIUM, DeviceVM, make_medium
from vm import VM, Disk, Firmware

from abupdate.boot.grubenv import decode, encode
from abupdate.boot.state import grub, provision
from tests.cuts import record, releases
from tests.cuts.replay import replay
from tests.grub import grubbox
from tests.grub.sweep import no_wait
from tests.vm import torn_writes

PASSWORD = "for-this-test-only"


@pytest.fixture(scope="module")
def machine(parts: demo_parts.Parts, images: Path) -> Iterator[DeviceVM]:
    """A device booted into release 1, its bundles on a stick."""
    bundle = parts.bundles["2"].read_bytes()
    files = {
        "cut.bundle": bundle[: len(bundle) // 2],
        "text.bundle": b"this is no bundle\n" * 1000,
        "2.bundle": bundle,
    }
    for name, content in files.items():
        (images / name).write_bytes(content)
    medium = make_medium(images / "medium.img", {name: images / name for name in files})
    disk = device.copy(parts.disk, images / "disk.img")
    disks = [Disk(disk), Disk(medium, readonly=True)]
    with VM(disks, firmware="bios", accel=parts.accel, password=PASSWORD) as vm:
        found = DeviceVM(vm)
        found.power_on()
        found.wait_for_boot()
        found.settle()
        found.mount_medium()
        yield found


@pytest.mark.row("S50")
@pytest.mark.parametrize(("firmware", "display"), [("uefi", "none"), ("bios", "vnc")])
def test_reaches_a_login(
    parts: demo_parts.Parts, tmp_path: Path, firmware: Firmware, display: str
) -> None:
    """With and without a screen; on it, the console shows more than an empty picture."""
    disk = device.copy(parts.disk, tmp_path / "disk.img")
    shown = f"vnc=unix:{tmp_path}/vnc" if display == "vnc" else display
    with VM([disk], firmware=firmware, accel=parts.accel, display=shown) as vm:
        vm.start()
        vm.serial.wait_for(r"login: ", timeout=240)
        vm.screenshot(tmp_path / "screen.png")
        assert (tmp_path / "screen.png").stat().st_size > 1000


def test_a_person_logs_in_with_the_password_of_this_run_only(machine: DeviceVM) -> None:
    serial, at = machine.vm.serial, 0
    for password, answer in (("", "incorrect"), ("wrong", "incorrect"), (PASSWORD, r"demo@\S+")):
        serial.wait_for(r"abupdate login: $", timeout=60, since=at)
        time.sleep(2)  # login throws away what was typed before its prompt was complete
        at = serial.position
        serial.write("demo\n")
        serial.wait_for(r"Password: ", timeout=60, since=at)
        time.sleep(2)
        at = serial.position
        serial.write(f"{password}\n")
        serial.wait_for(answer, timeout=60, since=at)
        at = serial.position
    serial.write("exit\n")


def test_root_is_read_only_and_etc_and_var_live_on_data(machine: DeviceVM) -> None:
    assert machine.run("touch", "/usr/x", ok=None).code != 0
    machine.run("sh", "-c", "echo kept > /etc/mine && echo kept > /var/lib/mine")
    assert machine.run("cat", "/data/etc/A/upper/mine").stdout == "kept\n"
    assert machine.run("cat", "/data/state/var/lib/mine").stdout == "kept\n"
    mounts = machine.run("findmnt", "-rno", "TARGET,OPTIONS").stdout.splitlines()
    options = dict(line.split(" ", 1) for line in mounts)
    assert options["/"].startswith("ro")
    assert options["/boot/efi"].startswith("ro")
    assert options["/data"].startswith("rw")


# Slot B holds nothing on a new device, and its rescue partition no rescue system yet.
NEW_DEVICE = {"slot-unfinished", "rescue-missing"}


def doctor(machine: DeviceVM, *words: str) -> tuple[int, set[str]]:
    done = machine.run("abupdate", "doctor", "--json", *words, ok=None)
    assert "Traceback" not in done.stderr, done
    return done.code, {found["id"] for found in json.loads(done.stdout)["findings"]}


def on_the_esp(machine: DeviceVM, command: str) -> None:
    remount = "mount -o remount,{} /boot/efi"
    machine.run("sh", "-ec", f"{remount.format('rw')}; {command}; {remount.format('ro')}")


@pytest.mark.row("U15")
def test_doctor_mends_what_a_fat_has_lost(machine: DeviceVM) -> None:
    assert doctor(machine) == (0, NEW_DEVICE)
    assert machine.run("cat", "/run/abupdate/seen").stdout == "A\n"
    on_the_esp(
        machine,
        "cd /boot/efi/grub; head -c 43 grubenv > short; mv short grubenv.bak; rm grub.cfg; cd /",
    )
    assert doctor(machine) == (11, {"copy-length", "grub-cfg-missing"} | NEW_DEVICE)
    assert doctor(machine, "--repair") == (0, NEW_DEVICE)
    machine.run("cmp", "/boot/efi/grub/grub.cfg", "/usr/lib/abupdate/grub/grub.cfg")
    on_the_esp(machine, "rm /boot/efi/grub/grubenv; echo '#' >> /boot/efi/grub/grub.cfg")
    assert doctor(machine) == (11, {"copy-missing", "grub-cfg-differs"} | NEW_DEVICE)
    assert doctor(machine, "--repair") == (0, {"grub-cfg-differs"} | NEW_DEVICE)
    machine.run("mount", "-o", "ro", "LABEL=medium", "/boot/efi")
    assert doctor(machine, "--repair") == (11, {"esp-foreign"} | NEW_DEVICE)
    machine.run("umount", "/boot/efi")
    on_the_esp(machine, "cp /usr/lib/abupdate/grub/grub.cfg /boot/efi/grub/grub.cfg")
    machine.reboot()  # by the grub.cfg and the grubenv that were put back
    marker = machine.wait_for_boot()
    assert (marker.slot, marker.boot) == ("A", "normal")
    machine.settle()
    machine.mount_medium()
    assert doctor(machine) == (0, NEW_DEVICE)


def test_the_units_of_the_store(machine: DeviceVM) -> None:
    """Confined as they are, they can do their work; stopped, they have not failed."""
    machine.run("systemctl", "start", "abupdate-store.service")
    said = machine.run("journalctl", "-b", "-o", "cat", "-u", "abupdate-store.service").stdout
    assert "Dropped: nothing; 0.0 MB are free again." in said
    machine.run("systemctl", "start", "abupdate-serve.service")
    ask = "git ls-remote -q git://127.0.0.1/store.git"
    refs = f"for n in $(seq 30); do {ask} && exit; sleep 1; done"
    found = machine.run("sh", "-c", refs).stdout
    said = machine.run("journalctl", "-b", "-o", "cat", "-u", "abupdate-serve.service").stdout
    assert "refs/tags/release/1\n" in found, said
    machine.run("systemctl", "stop", "abupdate-serve.service")
    for unit in ("abupdate-store.service", "abupdate-serve.service"):
        assert machine.run("systemctl", "show", "-P", "Result", unit).stdout == "success\n"


@pytest.mark.row("U10")
def test_status_in_the_guest_tells_everything(machine: DeviceVM) -> None:
    report = machine.status()
    assert report["schema_version"] == 1
    assert report["booted"]["slot"] == "A"
    assert report["booted"]["how"] == "normal"
    assert report["slots"]["A"]["release"] == "1"
    assert len(report["slots"]["A"]["commit"]) == 64
    assert report["slots"]["B"]["state"] == "empty"
    assert (report["boot"]["ustate"], report["boot"]["countdown"]) == (0, 8)
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        machine.run("abupdate", "status", "--json")
        seconds.append(time.monotonic() - start)
    print(f"abupdate status --json in the guest: {statistics.median(seconds):.2f} s")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("install", f"{MEDIUM}/cut.bundle"), 9, "whole"),
        (("install", f"{MEDIUM}/text.bundle"), 9, "bundle"),
        (("install", f"{MEDIUM}/no.bundle"), 9, "no.bundle"),
        (("rollback",), 7, "no confirmed system"),
        (("confirm",), 3, "No trial"),
        (("verify", "B"), 7, "complete release"),
    ],
)
def test_refusals_leave_no_trace(
    machine: DeviceVM, words: tuple[str, ...], code: int, says: str
) -> None:
    before = machine.status()
    done = machine.run("abupdate", *words, ok=None, timeout=300)
    assert done.code == code, done
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.status() == before
    assert machine.run("ls", "-A", "/data/abupdate/spool", ok=None).stdout.strip() == ""


def test_not_root_is_refused(machine: DeviceVM) -> None:
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = machine.run(*words, "abupdate", "install", f"{MEDIUM}/2.bundle", ok=None)
    assert done.code == 7
    assert "root" in done.stderr


@pytest.mark.row("S1", "S2", "S62")
def test_power_cut_in_the_middle_of_writing(machine: DeviceVM) -> None:
    machine.vm.agent.start(
        ["sh", "-c", f"ABUPDATE_FAILPOINT=materialise-half:hang abupdate install "
         f"{MEDIUM}/2.bundle > /dev/console 2>&1"]
    )  # fmt: skip
    machine.vm.serial.wait_for(r"failpoint materialise-half: hang", timeout=600)
    machine.vm.power_cut()
    machine.power_on()
    marker = machine.wait_for_boot()
    assert (marker.release, marker.slot, marker.boot) == ("1", "A", "normal")
    machine.settle()
    report = machine.status()
    assert report["slots"]["B"]["state"] == "unfinished"
    assert report["slots"]["B"]["label"] == "newB"
    assert report["boot"]["good"] == "Ax"
    assert report["last_install"]["outcome"] == "unfinished"
    machine.mount_medium()
    machine.install("2.bundle")
    assert machine.run("abupdate", "verify", "B", timeout=600).code == 0
    # One byte, changed on the device beneath the filesystem.
    machine.run("sh", "-c", CHANGE_ONE_BYTE, timeout=120)
    done = machine.run("abupdate", "verify", "B", ok=None, timeout=600)
    assert done.code == 10, done
    assert "usr/bin/hello: content differs" in done.stderr
    history = json.loads(machine.run("abupdate", "history", "--json").stdout)["entries"]
    assert [entry["event"] for entry in history][-1] == "installed"


CHANGE_ONE_BYTE = r"""
set -e
device=$(readlink -f /dev/disk/by-partlabel/rootB)
block=$(debugfs -R 'bmap /usr/bin/hello 1' "$device" 2>/dev/null)
printf 'X' | dd of="$device" bs=1 seek=$((block * 4096 + 100)) conv=notrunc,fsync 2>/dev/null
"""


@pytest.mark.row("S25")
def test_an_install_that_is_cut_anywhere(machine: DeviceVM, images: Path) -> None:
    """Every flush of a small install, and some cuts between them; `make crash-all` takes more."""
    made = releases.build()
    (phase,) = record.Recorder(machine, made, images).life(record.LIFE[:1])
    done = replay(phase, made, images, count=40, seed=1)
    print(done)
    assert done.faults == []
    assert done.outcomes["A normal, release 1"] > 20
    assert done.outcomes["B trial, release 2"] > 5


@pytest.mark.row("S41")
def test_a_cut_tears_no_change_of_the_boot_state(machine: DeviceVM, tmp_path: Path) -> None:
    """All that a cut may leave of the writes, booted by the real GRUB."""
    grubbox.build_disk(tmp_path / "disk.img")
    disk = no_wait(grubbox.Disk(tmp_path / "disk.img"))
    for name in ("grubenv", "grubenv.bak"):
        disk.write_boot(f"grub/{name}", encode(provision(3, 8)))
    recorded = torn_writes.record(machine, disk, tmp_path)
    allowed = torn_writes.allowed(recorded)
    booted, contents = set(), 0
    for content in torn_writes.contents(recorded):
        contents += 1
        disk.write_partition(2, content)
        found = (
            decode(disk.read_boot("grub/grubenv")),
            decode(disk.read_boot("grub/grubenv.bak")),
        )
        assert found in allowed
        if found not in booted:
            booted.add(found)
            expected = grub(*found, "ABR")
            grubbox.assert_booted(grubbox.boot(disk), disk, expected.boots, expected.how)
    print(f"{contents} contents of the boot partition, {len(booted)} states booted")
    assert {primary for primary, _ in recorded.copies} == {primary for primary, _ in booted}
