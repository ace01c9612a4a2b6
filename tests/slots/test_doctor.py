"""`abupdate doctor` on the boot state: each finding made for real on loop devices, and mended."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from abupdate.boot.grubenv import BACKUP, PRIMARY, decode
from abupdate.boot.state import Ustate
from abupdate.disk.layout import Slot
from abupdate.update.job import job
from tests.slots.boot_device import NEW, BootDevice, doctor

Capsys = pytest.CaptureFixture[str]


def keep_short(device: BootDevice, name: str) -> None:
    device.put(name, device.env(name).read_bytes()[:43])


def make_long(device: BootDevice, name: str) -> None:
    device.put(name, device.env(name).read_bytes() + b"#")


def make_hole(device: BootDevice, name: str) -> None:
    device.remove(name)
    device.remount("rw")
    with device.env(name).open("wb") as file:
        file.truncate(1024)
    device.remount("ro")


def forget_end(device: BootDevice, name: str) -> None:
    device.put(name, device.env(name).read_bytes().replace(b"end=1", b"end=2"))


def reorder(device: BootDevice, name: str) -> None:
    raw = device.env(name).read_bytes()
    device.put(name, raw.replace(b"trial=x\nustate=0\n", b"ustate=0\ntrial=x\n"))


def link(device: BootDevice, name: str) -> None:
    device.remount("rw")
    device.env(name).rename(device.env("elsewhere"))
    device.env(name).symlink_to("elsewhere")
    device.remount("ro")


@pytest.mark.row("U15")
def test_a_sound_device_has_no_finding(device: BootDevice, capsys: Capsys) -> None:
    before = device.copies()
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (0, NEW)
    assert device.copies() == before
    assert device.run("confirm", "--boot") == 0
    assert set(doctor(device, capsys)[1]) == NEW
    assert device.run("install", device.top / "2.bundle") == 0
    assert doctor(device, capsys)[1] == {}
    judged = device.copies()
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, found, report["repaired"], report["failed"]) == (0, {}, [], [])
    assert device.copies() == judged
    assert device.run("doctor") == 0
    assert "Nothing is wrong." in capsys.readouterr().out


@pytest.mark.row("U15")
@pytest.mark.parametrize("name", [PRIMARY, BACKUP])
@pytest.mark.parametrize(
    ("harm", "ids", "words"),
    [
        (BootDevice.remove, {"copy-missing"}, "no such file"),
        (keep_short, {"copy-length"}, "43 bytes"),
        (make_long, {"copy-length"}, "1025 bytes"),
        (make_hole, {"copy-sparse", "copy-lost"}, "holes"),
        (forget_end, {"copy-lost"}, "'end'"),
        (reorder, {"copy-layout"}, "order"),
        (link, {"copy-unreadable"}, "symbolic"),
    ],
    ids=["missing", "short", "long", "sparse", "lost", "order", "link"],
)
def test_one_bad_copy_is_named_and_mended(
    device: BootDevice,
    capsys: Capsys,
    name: str,
    harm: Callable[[BootDevice, str], None],
    ids: set[str],
    words: str,
) -> None:
    assert device.run("confirm", "--boot") == 0
    whole = device.copies()
    harm(device, name)
    harmed = {path.name: path.stat().st_mtime_ns for path in (device.paths.esp / "grub").iterdir()}
    code, found, _ = doctor(device, capsys)
    assert set(found) == ids | NEW
    assert code == (0 if ids == {"copy-layout"} else 11)
    told = " ".join(str(found[one]["message"]) for one in ids)
    assert words in told.lower()
    assert f"{name} should be" in told
    assert all(found[one]["repairable"] for one in ids)
    now = {path.name: path.stat().st_mtime_ns for path in (device.paths.esp / "grub").iterdir()}
    assert now == harmed, "looking wrote something"
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, set(found), report["failed"]) == (0, NEW, [])
    assert len(report["repaired"]) == 1  # type: ignore[arg-type]
    assert device.copies() == whole
    assert not device.env(name).is_symlink()
    assert device.env(name).stat().st_blocks > 0


@pytest.mark.row("U15")
def test_with_both_copies_lost_it_names_the_way_out(device: BootDevice, capsys: Capsys) -> None:
    device.remove(PRIMARY)
    keep_short(device, BACKUP)
    for words in ((), ("--repair",)):
        code, found, report = doctor(device, capsys, *words)
        assert code == 11
        assert set(found) == {"copy-missing", "copy-length", "copies-lost"} | NEW
        assert "rescue" in str(found["copies-lost"]["advice"])
        assert not any(one["repairable"] for one in found.values())
        assert report["repaired"] == report["failed"] == []
    assert not device.env().exists()
    assert len(device.env(BACKUP).read_bytes()) == 43


def test_a_lost_primary_is_not_made_anew_while_a_trial_runs(
    device: BootDevice, capsys: Capsys
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.power_on().how == "trial"
    # Release 2 of this test brings nothing of GRUB.
    assert set(doctor(device, capsys)[1]) == {"grub-cfg-unknown", "rules-unknown"}
    device.remove(PRIMARY)
    code, found, report = doctor(device, capsys, "--repair")
    assert code == 11
    assert "Reboot" in str(found["copy-missing"]["advice"])
    assert report["repaired"] == []
    assert not device.env().exists()
    # GRUB falls back by itself; then it can be mended.
    assert device.power_on().boots == "A"
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, found) == (0, {})
    assert "release 2" in str(report["repaired"])
    assert "abupdate arm" in str(report["repaired"])
    assert device.state().ustate == Ustate.OK


def test_a_lost_backup_is_made_anew_while_a_trial_runs(device: BootDevice, capsys: Capsys) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    device.power_on()
    before = device.env().read_bytes()
    device.remove(BACKUP)
    assert doctor(device, capsys, "--repair")[0] == 0
    assert device.env().read_bytes() == before
    backup = decode(device.env(BACKUP).read_bytes())
    assert (backup.trial, backup.ustate, backup.good) == ("x", Ustate.OK, "Ax")


@pytest.mark.parametrize("point", ["state-primary-written", "begin-backup-written"])
def test_a_repair_that_breaks_off_is_told_and_can_be_repeated(
    device: BootDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    assert device.run("confirm", "--boot") == 0
    whole = device.copies()
    device.remove(PRIMARY if point == "state-primary-written" else BACKUP)
    monkeypatch.setenv("ABUPDATE_FAILPOINT", f"{point}:error")
    code, _, report = doctor(device, capsys, "--repair")
    assert code == 11
    assert "Failpoint" in str(report["failed"])
    # The lost one came first, and the whole one was not touched.
    assert device.copies() == whole
    monkeypatch.delenv("ABUPDATE_FAILPOINT")
    assert doctor(device, capsys, "--repair")[0] == 0


def test_a_write_that_was_cut_between_the_copies(device: BootDevice, capsys: Capsys) -> None:
    old = device.env(BACKUP).read_bytes()
    assert device.run("install", device.top / "2.bundle") == 0
    device.power_on()
    assert device.run("confirm", "--boot") == 0
    whole = device.copies()
    device.put(BACKUP, old)
    code, found, _ = doctor(device, capsys)
    assert code == 0
    told = str(found["copies-differ"]["message"])
    assert "slot A instead of B" in told
    assert "good Ax instead of AB" in told
    code, found, _ = doctor(device, capsys, "--repair")
    assert (code, "copies-differ" in found) == (0, False)
    assert device.copies() == whole


def test_another_job_and_another_user(device: BootDevice, capsys: Capsys) -> None:
    with job(device.paths.runtime, "install"):
        assert device.run("doctor", "--repair") == 5
        assert "'install'" in capsys.readouterr().err
        device.put(BACKUP, device.env(BACKUP).read_bytes().replace(b"good=Ax", b"good=xx"))
        # What an install has in its hands is no finding.
        assert doctor(device, capsys)[1] == {}
    assert set(doctor(device, capsys)[1]) == {"copies-differ"} | NEW
    os.seteuid(65534)
    try:
        for words in (("doctor",), ("doctor", "--repair")):
            assert device.run(*words) == 7
            assert "root" in capsys.readouterr().err
    finally:
        os.seteuid(0)


@pytest.mark.row("U15")
def test_grub_that_does_not_save_is_found_after_the_health_check_too(
    device: BootDevice, capsys: Capsys
) -> None:
    assert device.run("confirm", "--boot") == 0
    device.start(Slot.A, "normal")
    for _ in range(2):
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (0, {"save-unseen"} | NEW)
        assert "menu" in str(found["save-unseen"]["message"])
        assert "save_env" in str(found["save-unseen"]["message"])
        assert device.run("confirm", "--boot") == 0
    device.power_on()
    assert device.run("confirm", "--boot") == 0
    assert device.run("confirm", "--boot") == 0
    assert set(doctor(device, capsys)[1]) == NEW
    # "Without the changes in /etc" is only in the menu.
    device.start(Slot.A, "normal")
    device.paths.cmdline.write_text(device.paths.cmdline.read_text() + " abupdate.etc=clean")
    assert set(doctor(device, capsys)[1]) == NEW


@pytest.mark.row("U15")
def test_a_fallback_that_grub_could_not_save(device: BootDevice, capsys: Capsys) -> None:
    assert device.run("confirm", "--boot") == 0
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.power_on(saves=False).how == "fallback"
    for _ in range(2):
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (11, {"save-failed"})
        assert device.run("confirm", "--boot") == 0
    # A mark that was in the lost copy tells nothing, before and after it is mended.
    device.power_on()
    assert device.run("confirm", "--boot") == 0
    device.power_on()
    device.remove(PRIMARY)
    assert set(doctor(device, capsys)[1]) == {"copy-missing"}
    assert doctor(device, capsys, "--repair")[:2] == (0, {})


def test_grub_cfg(device: BootDevice, capsys: Capsys) -> None:
    own = (device.paths.vendor / "grub/grub.cfg").read_bytes()
    device.put("grub.cfg", own[:-1] + b"#")
    changed = device.env("grub.cfg").read_bytes()
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, set(found), report["repaired"]) == (0, {"grub-cfg-differs"} | NEW, [])
    assert device.env("grub.cfg").read_bytes() == changed
    for damaged in (own[: len(own) // 2], bytes(len(own)), own[:3000] + bytes(len(own) - 3000)):
        device.put("grub.cfg", damaged)
        code, found, report = doctor(device, capsys, "--repair")
        assert (code, set(found)) == (11, {"grub-cfg-damaged"} | NEW)
        assert report["repaired"] == []
    for harm in (device.remove, lambda name: device.put(name, b"")):
        harm("grub.cfg")
        code, found, _ = doctor(device, capsys)
        assert (code, set(found)) == (11, {"grub-cfg-missing"} | NEW)
        code, found, report = doctor(device, capsys, "--repair")
        assert (code, set(found), report["failed"]) == (0, NEW, [])
        assert device.env("grub.cfg").read_bytes() == own
    left = {path.name for path in (device.paths.esp / "grub").iterdir()}
    assert {"grub.cfg", PRIMARY, BACKUP} <= left and not any(".new" in name for name in left)
    # The release on trial does not put its own in place.
    assert device.run("install", device.top / "2.bundle") == 0
    device.power_on()
    device.remove("grub.cfg")
    assert doctor(device, capsys, "--repair")[0] == 11
    assert not device.env("grub.cfg").exists()
