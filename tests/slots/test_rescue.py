"""Rescue on a device of loop devices: reflash, rescue update, once, and trying again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from abupdate.boot import state as boot
from abupdate.boot.grubenv import BACKUP, PRIMARY, Grubenv
from abupdate.boot.state import Ustate
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import RESCUE, Slot
from abupdate.update import evidence
from tests.slots import loop
from tests.slots.apart import run_apart
from tests.slots.boot_device import BootDevice
from tests.slots.device import hash_of
from tests.slots.rescuefs import bundle_rescue, make_rescue
from tests.slots.rootfs import PRODUCT

Capture = pytest.CaptureFixture[str]
_SIZE = 24 << 20


@pytest.fixture(scope="module")
def bundles(shared_device: BootDevice) -> Iterator[dict[str, Path]]:
    """Rescue systems 1 and 2, and releases for rescue's product that are none."""
    device, found = shared_device, {}
    for name, version, lacks in (
        ("1", "1", ""), ("2", "2", ""), ("no generator", "3", "usr/lib/systemd"),
        ("large", "4", ""), ("fixups", "5", ""), ("no env", "6", "boot/abupdate.env"),
    ):  # fmt: skip
        rootfs = make_rescue(device.top / f"rescue{version}", version, device.top)
        if lacks:
            subprocess.run(["rm", "-r", rootfs / lacks], check=True)
        if name == "large":
            (rootfs / "usr/large").write_bytes(os.urandom(_SIZE))
        if name == "fixups":
            (rootfs / ".git-fixups").mkdir()
            (rootfs / ".git-fixups/10-one").write_text("#!/bin/sh\n")
            (rootfs / ".git-fixups/10-one").chmod(0o755)
        found[name] = bundle_rescue(device.top, rootfs, version)
    found["other product"] = device.top / "2.bundle"
    yield found


@pytest.fixture
def device(
    device: BootDevice, bundles: object, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BootDevice]:
    """Release 1 in A, nothing in B, no rescue system yet; slot A was confirmed."""
    # Data is a folder here.
    monkeypatch.setattr("abupdate.rescue.reflash._is_mounted", lambda path: path.is_dir())
    before = device.others.pop((RESCUE, 3))
    image = device.top / "rescue-part.img"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    loop.make_ext4(image, "empty")
    words = ["losetup", "--find", "--show", str(image)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    device.others[RESCUE, 3] = Path(done.stdout.strip())
    assert device.run("confirm", "--boot") == 0
    slot = device.loops[Slot.A].read_bytes()
    yield device
    device.stop()
    device.loops[Slot.A].write_bytes(slot)
    loop.detach(device.others[RESCUE, 3])
    device.others[RESCUE, 3] = before


@pytest.fixture
def rescue(device: BootDevice) -> BootDevice:
    """Both slots are gone, and GRUB has started rescue, as its rules say."""
    device.boot_rescue()
    for path in device.loops.values():
        with path.open("r+b") as file:
            file.write(bytes(64 << 10))
    put_state(device, after_grub(device.state()))
    return device


def after_grub(state: boot.BootState) -> boot.BootState:
    done = boot.grub(state, None, "R")
    assert done.boots == "R" and done.state is not None
    return done.state


def put_state(device: BootDevice, state: boot.BootState) -> None:
    device.remount("rw")
    Grubenv(device.paths.esp / "grub").write(state)
    device.remount("ro")


def label(device: Path) -> str | None:
    found = read_superblock(device)
    return found.label if found else None


def hash_of_rescue(device: BootDevice) -> str:
    return hash_of(device.others[RESCUE, 3])


# --- reflash ---


@pytest.mark.row("S47", "S48")
def test_reflash_of_one_slot(rescue: BootDevice, capsys: Capture) -> None:
    device, before = rescue, hash_of_rescue(rescue)
    assert device.run("rescue", "reflash", "B", device.top / "2.bundle") == 0
    assert "Release 2 is installed in slot B, on trial" in capsys.readouterr().out
    state = device.state()
    assert (state.slot, state.good, state.trial, state.ustate) == ("A", "Ax", "B", Ustate.INSTALLED)
    assert label(device.loops[Slot.B]) == "rootB" and label(device.loops[Slot.A]) is None
    assert device.run("verify", "B") == 0
    done = device.power_on()
    assert (done.boots, done.how) == ("B", "trial")
    assert device.run("confirm", "--boot") == 0
    assert device.state().good == "AB"  # nobody has looked at A
    assert hash_of_rescue(device) == before
    intent = device.machine.records.intent()
    assert intent is not None and (intent.from_slot, intent.outcome) == ("R", "confirmed")


@pytest.mark.row("S47", "S48")
def test_reflash_of_both_arms_the_last(rescue: BootDevice, capsys: Capture) -> None:
    device = rescue
    assert device.run("rescue", "reflash", "both", device.top / "2.bundle") == 0
    assert "Release 2 is in slot A; `abupdate arm` lets GRUB try it." in capsys.readouterr().out
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "xx", "B")
    assert {label(path) for path in device.loops.values()} == {"rootA", "rootB"}
    assert device.power_on().boots == "B"
    assert device.run("confirm", "--boot") == 0
    assert device.state().good == "xB"
    assert device.run("arm") == 0
    assert device.power_on().boots == "A"
    assert device.run("confirm", "--boot") == 0
    assert device.state().good == "AB"


@pytest.mark.row("S48")
def test_reflash_needs_rescue_and_a_slot_by_name(device: BootDevice, capsys: Capture) -> None:
    before = device.copies()
    bundle = device.top / "2.bundle"
    assert device.run("rescue", "reflash", "B", bundle) == 7
    assert "Slot A runs, and both slots can be written from rescue alone" in capsys.readouterr().err
    device.boot_rescue()
    assert device.run("rescue", "reflash", bundle) == 2
    assert device.run("rescue", "reflash", "C", bundle) == 2
    assert device.run("rescue", "reflash", "A") == 2
    assert device.run("install", bundle) == 7
    assert "abupdate rescue reflash A SOURCE" in capsys.readouterr().err
    assert device.copies() == before


@pytest.mark.row("S47")
def test_reflash_with_both_copies_of_the_boot_state_lost(rescue: BootDevice) -> None:
    device = rescue
    device.put(PRIMARY, b"torn")
    device.remove(BACKUP)
    assert device.run("rescue", "reflash", "A", device.top / "2.bundle") == 0
    assert device.power_on().boots == "A"
    assert device.run("confirm", "--boot") == 0
    assert device.state().good == "Ax"


@pytest.mark.row("S47")
def test_reflash_without_data(
    rescue: BootDevice, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is made in memory; what boots afterwards finds no record, and is confirmed."""
    device = rescue
    monkeypatch.setattr("abupdate.rescue.reflash._is_mounted", lambda _path: False)
    shutil.rmtree(device.paths.data)
    device.paths.data.mkdir()
    assert device.run("rescue", "reflash", "A", device.top / "2.bundle") == 0
    assert "Data is not mounted" in capsys.readouterr().err
    shutil.rmtree(device.paths.data)
    device.paths.data.mkdir()
    assert device.power_on().boots == "A"
    assert device.run("confirm", "--boot") == 0
    assert device.state().good == "Ax"


@pytest.mark.row("S47")
def test_a_revoked_key_is_refused_in_rescue(rescue: BootDevice, capsys: Capture) -> None:
    device = rescue
    kept = device.paths.revocations
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(device.top / "keys/release.pub", kept)
    assert device.run("rescue", "reflash", "A", device.top / "2.bundle") == 6
    assert "revoked" in capsys.readouterr().err
    assert label(device.loops[Slot.A]) is None


def test_the_floor_holds_in_rescue(rescue: BootDevice, capsys: Capture) -> None:
    device = rescue
    floor = device.paths.state / "trust/floor"
    floor.parent.mkdir(exist_ok=True)
    floor.write_text("3\n")
    assert device.run("rescue", "reflash", "A", device.top / "2.bundle") == 7
    assert "older than 3" in capsys.readouterr().err
    assert device.run("rescue", "reflash", "A", device.top / "3.bundle") == 0


def test_the_keys_of_what_was_confirmed_are_kept_for_rescue(device: BootDevice) -> None:
    kept = device.paths.state / "trust/confirmed/allowed_signers.d/confirmed"
    assert kept.read_bytes() == (device.paths.vendor / "allowed_signers").read_bytes()


# --- factory reset ---


def owners_files(device: BootDevice) -> set[str]:
    files = {"etc/A/upper/mine", "state/home/film", "music/song"}
    for name in files:
        (device.paths.data / name).parent.mkdir(parents=True, exist_ok=True)
        (device.paths.data / name).write_text("mine\n")
    return files


def test_data_and_etc_stay(rescue: BootDevice) -> None:
    files = owners_files(rescue)
    assert rescue.run("rescue", "reflash", "A", rescue.top / "2.bundle") == 0
    assert all((rescue.paths.data / name).is_file() for name in files)


def test_factory_reset(rescue: BootDevice, capsys: Capture) -> None:
    device, files = rescue, owners_files(rescue)
    words = ("rescue", "reflash", "A", device.top / "2.bundle", "--factory-reset")
    assert device.run(*words) == 7
    out, err = capsys.readouterr()
    assert "Nobody can be asked here" in err and "/data/music: 1 files" in out
    assert all((device.paths.data / name).is_file() for name in files)
    torn = device.top / "torn.bundle"
    torn.write_bytes((device.top / "2.bundle").read_bytes()[:-1000])
    assert device.run("rescue", "reflash", "A", torn, "--factory-reset", "--yes") != 0
    assert all((device.paths.data / name).is_file() for name in files)
    assert device.run(*words, "--yes") == 0
    assert sorted(path.name for path in device.paths.data.iterdir()) == ["abupdate"]
    assert device.state().trial == "A"
    assert "factory-reset" in [one.event for one in device.machine.records.history()]


# --- rescue update ---


@pytest.mark.row("S48")
def test_rescue_update(device: BootDevice, bundles: dict[str, Path], capsys: Capture) -> None:
    slots = [hash_of(path) for path in device.loops.values()]
    env = device.copies()
    assert device.run("rescue", "update", bundles["1"]) == 0
    assert "Release 1 is the rescue system." in capsys.readouterr().out
    assert label(device.others[RESCUE, 3]) == "rescue"
    record = device.machine.records.rescue()
    assert record is not None and (record.release, record.state) == ("1", "clean")
    mounted = device.top / "mounted"
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "ro", device.others[RESCUE, 3], mounted], check=True)
    held = (mounted / "etc/release").read_text()
    subprocess.run(["umount", mounted], check=True)
    assert held == "release 1\n"
    assert device.run("rescue", "update", bundles["1"]) == 3
    assert device.run("rescue", "update", bundles["2"]) == 0
    assert "in place of 1" in capsys.readouterr().out
    before = hash_of_rescue(device)
    assert device.run("rescue", "update", bundles["1"]) == 7
    assert "older than 2" in capsys.readouterr().err
    assert hash_of_rescue(device) == before
    assert device.run("rescue", "update", bundles["1"], "--allow-downgrade") == 0
    assert [hash_of(path) for path in device.loops.values()] == slots
    assert device.copies() == env


@pytest.mark.row("S48")
@pytest.mark.parametrize(
    "what, code, told",
    [
        ("no generator", 7, "has no usr/lib/systemd/system-generators/abupdate-rescue-generator"),
        ("no env", 7, "has no boot/abupdate.env"),
        ("large", 8, "The rescue system needs"),
        ("fixups", 7, "has fixups"),
        ("other product", 7, f"takes releases for '{PRODUCT}:rescue'"),
    ],
)
def test_rescue_update_refused(
    device: BootDevice, bundles: dict[str, Path], capsys: Capture, what: str, code: int, told: str
) -> None:
    before = hash_of_rescue(device)
    assert device.run("rescue", "update", bundles[what]) == code
    assert told in capsys.readouterr().err
    assert hash_of_rescue(device) == before
    assert device.machine.records.rescue() is None


@pytest.mark.row("S48")
def test_a_rescue_system_is_no_release_for_a_slot(
    device: BootDevice, bundles: dict[str, Path], capsys: Capture
) -> None:
    assert device.run("install", bundles["1"]) == 7
    assert f"is for '{PRODUCT}:rescue'" in capsys.readouterr().err


@pytest.mark.row("S48")
def test_rescue_is_not_written_while_it_may_be_needed(
    device: BootDevice, bundles: dict[str, Path], capsys: Capture
) -> None:
    before = hash_of_rescue(device)
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("rescue", "update", bundles["1"]) == 7
    assert "Slot B is armed or on trial" in capsys.readouterr().err
    assert device.run("reject") == 0
    put_state(device, replace(device.state(), good="xx"))
    assert device.run("rescue", "update", bundles["1"]) == 7
    assert "A confirmed slot should stand in for rescue" in capsys.readouterr().err
    assert hash_of_rescue(device) == before


@pytest.mark.row("S48")
@pytest.mark.parametrize("point", ["rescue-relabelled", "rescue-written", "rescue-labelled"])
def test_rescue_update_killed_and_done_again(
    device: BootDevice, bundles: dict[str, Path], point: str
) -> None:
    """GRUB finds an old one, none, or a complete one."""
    assert device.run("rescue", "update", bundles["1"]) == 0
    done = run_apart(device, f"{point}:kill", "rescue", "update", bundles["2"])
    assert done.returncode == -9, done.stderr
    assert label(device.others[RESCUE, 3]) == ("rescue" if point == "rescue-labelled" else "newR")
    assert device.run("rescue", "update", bundles["2"]) == 0
    record = device.machine.records.rescue()
    assert record is not None and (record.release, record.state) == ("2", "clean")
    assert label(device.others[RESCUE, 3]) == "rescue"


@pytest.mark.row("S48")
def test_nothing_else_writes_rescue(device: BootDevice, bundles: dict[str, Path]) -> None:
    assert device.run("rescue", "update", bundles["1"]) == 0
    before = hash_of_rescue(device)
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.power_on().boots == "B"
    assert device.run("confirm", "--boot") == 0
    assert device.run("rollback") == 0
    device.boot_rescue()
    assert device.run("rescue", "reflash", "A", device.top / "3.bundle") == 0
    assert hash_of_rescue(device) == before


# --- once, and again ---


@pytest.mark.row("U15")
def test_rescue_gets_its_label_back(
    device: BootDevice, bundles: dict[str, Path], capsys: Capture
) -> None:
    """Only where it was read, and is what its record says."""
    assert device.run("doctor", "--repair") == 0
    assert "holds no rescue system that was written whole" in capsys.readouterr().out
    assert device.run("rescue", "update", bundles["1"]) == 0
    relabel(device, "lost")
    assert device.run("doctor") == 0
    assert "[rescue-missing]" in capsys.readouterr().out
    assert device.run("doctor", "--repair") == 0
    told = capsys.readouterr().out
    assert "The rescue system equals release 1, and is labelled 'rescue' again." in told
    assert label(device.others[RESCUE, 3]) == "rescue"
    assert device.run("rescue", "update", bundles["1"]) == 3
    relabel(device, "lost")
    write_into(device, "etc/release", "release 9\n")
    assert device.run("doctor", "--repair") == 11
    assert "The rescue system should equal release 1, but" in capsys.readouterr().out
    assert label(device.others[RESCUE, 3]) == "lost"


def relabel(device: BootDevice, name: str) -> None:
    words = ["tune2fs", "-L", name, str(device.others[RESCUE, 3])]
    subprocess.run(words, check=True, capture_output=True)


def write_into(device: BootDevice, name: str, text: str) -> None:
    mounted = device.top / "mounted"
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", device.others[RESCUE, 3], mounted], check=True)
    (mounted / name).write_text(text)
    subprocess.run(["umount", mounted], check=True)


def test_rescue_once(device: BootDevice, bundles: dict[str, Path], capsys: Capture) -> None:
    assert device.run("rescue", "boot") == 7
    assert "should have one rescue system, found 0" in capsys.readouterr().err
    assert device.run("rescue", "update", bundles["1"]) == 0
    assert device.run("rescue", "boot") == 0
    assert device.state().once == "R"
    done = boot.grub(device.state(), None, "ABR")
    assert done.boots == "R" and done.state is not None and done.state.once == boot.NONE


@pytest.fixture
def reboots(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr("abupdate.cli.rescue.systemctl", asked.append)
    return asked


def exhausted(device: BootDevice) -> None:
    """Slot A used up its boots, and nothing is wrong with it."""
    device.boot_rescue()
    put_state(device, after_grub(replace(device.state(), countdown=0)))


def test_used_up_boots_are_given_again(
    device: BootDevice, reboots: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    exhausted(device)
    before = device.copies()
    monkeypatch.setattr(evidence, "uptime", lambda: 1799.0)
    assert device.run("rescue", "retry") == 0
    assert device.copies() == before and not reboots
    monkeypatch.setattr(evidence, "uptime", lambda: 1800.0)
    assert device.run("rescue", "retry") == 0
    assert reboots == ["reboot"] and "Slot A is tried again." in capsys.readouterr().out
    state = device.state()
    assert (state.slot, state.countdown, state.ustate) == ("A", state.limit, Ustate.FAILED)
    assert device.power_on().boots == "A"
    assert [one.event for one in device.machine.records.history()][-1] == "retried"


def test_nobody_is_thrown_out(
    device: BootDevice, reboots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from abupdate.rescue.retry import attend

    exhausted(device)
    monkeypatch.setattr(evidence, "uptime", lambda: 3000.0)
    attend(device.machine)
    monkeypatch.setattr(evidence, "uptime", lambda: 4799.0)
    assert device.run("rescue", "retry") == 0
    assert not reboots
    device.configure("rescue.retry=0")
    monkeypatch.setattr(evidence, "uptime", lambda: 1e6)
    assert device.run("rescue", "retry") == 0
    assert not reboots


def test_with_nothing_to_try_rescue_waits(
    rescue: BootDevice,
    reboots: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    before = rescue.copies()
    monkeypatch.setattr(evidence, "uptime", lambda: 1e6)
    assert rescue.run("rescue", "retry") == 0
    assert "No slot holds a confirmed system that is complete" in capsys.readouterr().out
    assert not reboots and rescue.copies() == before


def test_a_slot_that_is_lost_is_not_tried_but_the_other(
    device: BootDevice, reboots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.power_on().boots == "B"
    assert device.run("confirm", "--boot") == 0
    exhausted(device)
    slot = Slot(device.state().slot)
    subprocess.run(["tune2fs", "-L", "lost", device.loops[slot]], check=True, capture_output=True)
    monkeypatch.setattr(evidence, "uptime", lambda: 1e6)
    assert device.run("rescue", "retry") == 0
    assert reboots and device.state().slot == slot.other
