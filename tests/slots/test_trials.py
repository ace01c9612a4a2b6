"""Trials from their first boot to their end: judged, left alone, confirmed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest

from abupdate.boot.grubenv import PRIMARY
from abupdate.disk.layout import Slot
from abupdate.errors import AbupdateError, DeviceFaultError
from abupdate.store.repository import Repository
from abupdate.update import evidence, verdict
from abupdate.update.judge import Verdict
from tests.slots.boots import Boots, booted_tags, kept_boots, told


@pytest.mark.row("S8", "U17")
def test_success_is_said_only_after_the_checks(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    device = boots.device
    assert told(device, capsys, "status")["last_install"]["outcome"] == "installed, on trial"
    boots.begin(Slot.B, "trial")
    assert told(device, capsys, "status")["last_install"]["outcome"] == "installed, on trial"
    assert "not confirmed" in told(device, capsys, "status")["booted"]["text"]
    assert booted_tags(device) == {}
    assert boots.judge().text == "Release 2 in slot B is confirmed."
    status = told(device, capsys, "status")
    assert status["last_install"]["outcome"] == "confirmed"
    ((name, oid),) = booted_tags(device).items()
    assert re.fullmatch(r"refs/tags/booted-\d{4}-\d\d-\d\dT\d{6}Z", name)
    assert oid == status["booted"]["commit"]
    assert boots.history() == ["installed", "confirmed"]
    assert device.run("why") == 3


@pytest.mark.row("S36", "U12", "U13")
def test_a_release_that_fails_each_boot(boots: Boots, capsys: pytest.CaptureFixture[str]) -> None:
    device = boots.device
    boots.ill = "no answer"
    for attempt in (1, 2):
        boots.begin(Slot.B, "trial")
        judged = boots.judge()
        assert judged.reboot
        assert f"boot {attempt} of 3" in judged.text
        assert device.state().on_trial == "B"
    boots.begin(Slot.B, "trial")
    assert boots.judge().reboot
    assert (device.state().ustate, device.state().failed, device.state().good) == (3, "B", "Ax")
    boots.ill = ""
    boots.begin(Slot.A, "normal")
    assert boots.judge().text == "Slot A is healthy."
    assert boots.history() == ["installed", "fallback"]
    status = told(device, capsys, "status")
    cause = "required check 'service' failed: no answer (last line)"
    assert (status["last_install"]["outcome"], status["last_install"]["cause"]) == (
        "fallback",
        cause,
    )
    assert (status["boot"]["ustate"], status["failed"]) == (3, ["2"])
    story = told(device, capsys, "why")
    assert (story["release"], story["event"], story["cause"]) == ("2", "fallback", cause)
    assert [(b["attempt"], b["verdict"], b["seconds"]) for b in story["boots"]] == [
        (number, "failed", 20.0) for number in (1, 2, 3)
    ]
    assert story["boots"][0]["journal"] == ["a line of the log"]
    assert device.run("why") == 0
    text = capsys.readouterr().out
    for words in ("Release 2 in slot B was given up", cause, "boot 3", "| last line",
                  "a line of the log", "--retry-failed", "acknowledge"):  # fmt: skip
        assert words in text

    # Not tried again by itself.
    assert device.run("install", device.top / "2.bundle") == 7
    assert "was tried here and given up" in capsys.readouterr().err
    assert device.run("info", device.top / "2.bundle") == 0
    assert "refused here: Release 2 was tried" in capsys.readouterr().out
    assert device.run("acknowledge") == 0
    assert told(device, capsys, "status")["boot"]["ustate"] == 0
    assert device.run("acknowledge") == 7
    assert device.run("install", device.top / "2.bundle") == 7
    assert device.run("install", "--retry-failed", device.top / "2.bundle") == 0
    assert told(device, capsys, "status")["failed"] == []
    boots.begin(Slot.B, "trial")
    assert "is confirmed" in boots.judge().text
    assert len(told(device, capsys, "why")["boots"]) == 1  # of the new trial


def test_a_confirmation_is_not_taken_back(boots: Boots, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person confirms while the deadline, or a unit that failed, gathers its evidence."""
    for _ in range(3):
        boots.begin(Slot.B, "trial")

    def meanwhile() -> tuple[str, ...]:
        assert boots.device.run("confirm") == 0
        return ()

    boots.uptime = 901.0
    monkeypatch.setattr(evidence, "journal_tail", meanwhile)
    left = boots.deadline()
    assert left == Verdict("It was judged meanwhile; nothing is on trial.")
    assert boots.device.state().good == "AB"
    assert boots.history() == ["installed", "confirmed"]


def test_a_confirmed_slot_that_uses_up_its_boots(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.begin(Slot.B, "trial")
    boots.judge()
    for _ in range(8):
        boots.begin(Slot.B, "normal")
    boots.begin(Slot.A, "fallback")
    assert "no boot since then was healthy" in told(boots.device, capsys, "why")["cause"]
    for _ in range(2):
        boots.judge()
    assert boots.history() == ["installed", "confirmed", "fallback"]
    story = told(boots.device, capsys, "why")
    assert "it was confirmed, and then none of its boots was healthy" in story["cause"]
    assert (story["release"], story["failed"]) == ("2", True)


def test_healthy_and_never_confirmed_is_not_the_releases_fault(
    boots: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "boot_is_complete", lambda: True)
    boots.begin(Slot.B, "trial")
    verdict.check_boot(boots.device.machine, boots.events)
    boots.uptime = 901.0
    left = boots.deadline()
    assert left is not None
    assert left.reboot
    (boot,) = kept_boots(boots)
    assert (boot["verdict"], boot["reasons"]) == (
        "passed",
        ["healthy, and its confirmation could not be written in 900 seconds"],
    )


def test_not_on_its_last_boot_either(boots: Boots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "boot_is_complete", lambda: True)
    for _ in range(3):
        boots.begin(Slot.B, "trial")
        verdict.check_boot(boots.device.machine, boots.events)
        boots.uptime = 901.0
        left = boots.deadline()
        assert left is not None and left.reboot
    assert boots.device.state().on_trial == "B"
    boots.begin(Slot.A, "fallback")
    assert "it is armed once more" in boots.judge().text
    assert boots.device.machine.records.failed() == []


def test_what_a_fallback_boot_arms_is_tried(boots: Boots) -> None:
    """Before that boot was judged: it is no trial that GRUB could not start."""
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    assert boots.device.run("install", boots.device.top / "3.bundle") == 0
    assert boots.judge().text == "Slot B was armed in this boot; the next one tries it."
    boots.begin(Slot.B, "trial")
    assert boots.judge().text == "Release 3 in slot B is confirmed."


@pytest.mark.parametrize("late", [False, True])
def test_a_trial_whose_boot_state_is_lost_is_left(boots: Boots, late: bool) -> None:
    """The backup never holds a trial: what fails would run on for ever."""
    boots.begin(Slot.B, "trial")
    boots.device.put(PRIMARY, b"")
    boots.ill = "no answer"
    left = boots.deadline() if late else boots.judge()
    assert left is not None and left.reboot
    assert left.text.startswith("Slot B was booted on trial, and its boot state is lost")
    boots.begin(Slot.A, "normal")


def test_a_slot_that_is_confirmed_again(boots: Boots) -> None:
    """After a rollback, with a line of its own."""
    device = boots.device
    for slot, how in ((Slot.B, "trial"), (Slot.A, "trial"), (Slot.B, "trial")):
        boots.begin(slot, how)
        assert "is confirmed" in boots.judge().text
        if slot is Slot.A or boots.history().count("confirmed") == 1:
            assert device.run("rollback") == 0
    assert boots.history().count("confirmed") == 3


def test_data_that_takes_no_writes_does_not_undo_a_confirmation(
    boots: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    boots.begin(Slot.B, "trial")
    with monkeypatch.context() as patch:
        for name in ("write_json", "replace_file"):
            patch.setattr(f"abupdate.update.records.{name}", broken)
        patch.setattr("abupdate.update.records.Records.append", broken)
        assert "is confirmed" in boots.judge().text
    assert boots.device.state().good == "AB"
    boots.begin(Slot.B, "normal")
    boots.judge()
    assert boots.history() == ["installed", "confirmed"]


@pytest.mark.row("U34", "S34")
def test_a_trial_that_nobody_judges(boots: Boots, capsys: pytest.CaptureFixture[str]) -> None:
    for attempt in (1, 2, 3):
        boots.begin(Slot.B, "trial")
        if attempt == 2:  # its checks pass, and something else keeps boot-complete.target waiting
            verdict.check_boot(boots.device.machine, boots.events)
        boots.uptime = 899.0
        assert boots.deadline() is None
        boots.uptime = 901.0
        left = boots.deadline()
        assert left is not None
        assert left.reboot
        assert (boots.device.state().on_trial == "B") == (attempt < 3)
    boots.begin(Slot.A, "normal")
    boots.judge()
    assert boots.history() == ["installed", "fallback"]
    story = told(boots.device, capsys, "why")
    assert [boot["verdict"] for boot in story["boots"]] == ["unjudged"] * 3
    assert story["cause"] == "no verdict in 900 seconds (failed: kiosk.service)"
    assert boots.deadline() == Verdict("Nothing is on trial.")


def manual(boots: Boots, deadline: str = "") -> None:
    words = boots.device.paths.cmdline.read_text().strip()
    more = f" abupdate.confirm.deadline={deadline}" if deadline else ""
    boots.device.paths.cmdline.write_text(f"{words} abupdate.confirm.mode=manual{more}\n")


def test_in_manual_mode_a_person_confirms(boots: Boots, capsys: pytest.CaptureFixture[str]) -> None:
    boots.begin(Slot.B, "trial")
    manual(boots)
    assert boots.judge() == Verdict("The checks passed; waiting for `abupdate confirm`.")
    boots.uptime = 80_000.0
    assert boots.deadline() is None
    assert boots.device.state().on_trial == "B"
    assert boots.device.run("confirm") == 0
    assert told(boots.device, capsys, "status")["last_install"]["outcome"] == "confirmed"


def test_in_manual_mode_the_deadline_holds(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.begin(Slot.B, "trial")
    manual(boots, "120")
    boots.judge()
    boots.uptime = 121.0
    left = boots.deadline()
    assert left is not None
    assert left.reboot
    (boot,) = kept_boots(boots)
    assert (boot["verdict"], boot["reasons"]) == (
        "unjudged",
        ["nobody confirmed it in 120 seconds"],
    )


@pytest.mark.parametrize("checked", [False, True])
def test_boot_complete_was_not_reached(boots: Boots, checked: bool) -> None:
    """Something of the user's is required by it, before or after our checks."""
    boots.begin(Slot.B, "trial")
    if checked:
        verdict.check_boot(boots.device.machine, boots.events)
    assert boots.failed().reboot
    (boot,) = kept_boots(boots)
    assert boot["verdict"] == "failed"
    assert boot["reasons"] == ["boot-complete.target was not reached (failed: kiosk.service)"]


def test_an_ill_slot_that_is_confirmed_stays(boots: Boots) -> None:
    """And a fallback to it is told all the same."""
    boots.ill = "no answer"
    for _ in range(3):
        boots.begin(Slot.B, "trial")
        verdict.check_boot(boots.device.machine, boots.events)
    boots.begin(Slot.A, "fallback")
    countdown = boots.device.state().countdown
    assert not boots.judge().reboot
    assert boots.device.state().countdown == countdown
    assert boots.history() == ["installed", "fallback"]


def test_a_boot_state_that_takes_no_writes(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.begin(Slot.B, "trial")
    esp = str(boots.device.esp)
    boots.device.unmount_esp()
    subprocess.run(["blockdev", "--setro", esp], check=True)
    boots.device.mount_esp("ro")
    with pytest.raises(AbupdateError) as error:
        boots.judge()
    assert error.value.exit_code == 11
    status = told(boots.device, capsys, "status")
    assert (status["boot"]["ustate"], status["last_install"]["outcome"]) == (
        1,
        "installed, on trial",
    )
    assert boots.history() == ["installed"]
    assert booted_tags(boots.device) == {}
    boots.device.unmount_esp()
    subprocess.run(["blockdev", "--setrw", esp], check=True)
    boots.device.mount_esp("ro")
    assert "is confirmed" in boots.passed().text


def test_what_could_not_be_noted_is_added_later(
    boots: Boots, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise DeviceFaultError("The store takes no writes.")

    boots.begin(Slot.B, "trial")
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "set_ref", broken)
        assert "is confirmed" in boots.judge().text
    assert boots.warnings == ["booted tag: The store takes no writes."]
    assert booted_tags(boots.device) == {}
    for _ in range(2):
        boots.begin(Slot.B, "normal")
        boots.judge()
    assert len(booted_tags(boots.device)) == 1
    assert boots.history() == ["installed", "confirmed"]
    assert told(boots.device, capsys, "status")["last_install"]["outcome"] == "confirmed"


@pytest.fixture
def hook(boots: Boots) -> Iterator[Callable[[str], None]]:
    """An owner's hook in /etc/abupdate of the slot that runs (whose root is read-only)."""
    folder = boots.device.paths.etc / "hooks/confirmed.d"
    mounted = boots.device.paths.root / "etc"

    def add(body: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
        folder.mkdir(parents=True)
        (folder / "10-tell").write_text(f"#!/bin/sh\n{body}\n")
        (folder / "10-tell").chmod(0o755)

    yield add
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.parametrize("code", [0, 1])
def test_hooks_run_once_a_trial_is_confirmed(
    boots: Boots, hook: Callable[[str], None], code: int
) -> None:
    boots.begin(Slot.B, "trial")
    seen = boots.device.top / "hook-ran"
    seen.unlink(missing_ok=True)
    hook(f'echo "$ABUPDATE_RELEASE $ABUPDATE_SLOT" >> {seen}; echo sorry; exit {code}')
    assert "is confirmed" in boots.judge().text
    assert seen.read_text() == "2 B\n"
    assert boots.warnings == (["hook 10-tell: exit code 1\nsorry"] if code else [])
    assert boots.history() == ["installed", "confirmed"]
