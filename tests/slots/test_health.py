"""Trials from their first boot to their end: judged, cut, left alone, confirmed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from abupdate import failpoints
from abupdate.boot.grubenv import PRIMARY
from abupdate.config import load
from abupdate.disk.layout import Slot
from abupdate.errors import AbupdateError, DeviceFaultError
from abupdate.events import Event, Events
from abupdate.health.check import Check, UnhealthyError
from abupdate.health.watch import Patience
from abupdate.store.repository import Repository
from abupdate.update import evidence, verdict
from abupdate.update.health import HealthCheck, health_check
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


@pytest.fixture
def boots(device: BootDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boots:
    """Release 2 installed into B, nothing booted yet. Only our own check is asked."""
    found = Boots(device, [], tmp_path)

    def look(_timeout: float) -> str:
        if found.ill:
            raise UnhealthyError(found.ill, "first line\nlast line")
        return "fine"

    checks = HealthCheck([Check("service", True, look)], Patience(5.0))
    monkeypatch.setattr(verdict, "health_check", lambda _machine: checks)
    monkeypatch.setattr(evidence, "boot_id", lambda: f"boot-{found.number}")
    monkeypatch.setattr(evidence, "uptime", lambda: found.uptime)
    monkeypatch.setattr(evidence, "journal_tail", lambda: ("a line of the log",))
    monkeypatch.setattr(evidence, "failed_units", lambda: ("failed: kiosk.service",))
    dumps = evidence.crash_dumps
    monkeypatch.setattr(evidence, "crash_dumps", lambda _root: dumps(tmp_path))
    monkeypatch.setattr(evidence, "boot_is_complete", lambda: False)
    assert device.run("install", device.top / "2.bundle") == 0
    return found


def told(device: BootDevice, capsys: pytest.CaptureFixture[str], command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert device.run(command, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def booted_tags(device: BootDevice) -> dict[str, str]:
    store = Repository(device.paths.state / "store.git", device.machine.sandbox)
    return {name: oid for name, oid in store.refs("refs/tags").items() if "/booted-" in name}


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


def test_cut_off_boots_are_armed_once_more(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    device = boots.device
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    assert "it is armed once more" in boots.judge().text
    status = told(device, capsys, "status")
    assert (status["last_install"]["outcome"], status["last_install"]["rearmed"]) == (
        "installed, on trial",
        True,
    )
    assert status["failed"] == []
    story = told(device, capsys, "why")
    assert (story["event"], story["rearmed"]) == ("interrupted", True)
    assert [boot["verdict"] for boot in story["boots"]] == [None] * 3
    boots.begin(Slot.B, "trial")
    assert "is confirmed" in boots.judge().text
    assert boots.history() == ["installed", "interrupted", "rearmed", "confirmed"]


def test_once_only(boots: Boots, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        for _ in range(3):
            boots.begin(Slot.B, "trial")
        boots.begin(Slot.A, "fallback")
        boots.judge()
    assert boots.history() == ["installed", "interrupted", "rearmed", "fallback"]
    assert told(boots.device, capsys, "status")["failed"] == ["2"]
    boots.begin(Slot.A, "normal")
    assert boots.judge().text == "Slot A is healthy."


def test_without_one_boot_that_reached_userland(boots: Boots) -> None:
    for _ in range(3):
        boots.device.power_on()
    boots.begin(Slot.A, "fallback")
    assert "it is armed once more" in boots.judge().text


@pytest.mark.parametrize("when", [1, 2, 3])
def test_one_bad_boot_among_cuts_is_no_interruption(boots: Boots, when: int) -> None:
    for attempt in (1, 2, 3):
        boots.begin(Slot.B, "trial")
        if attempt == when:
            boots.ill = "no answer"
            verdict.check_boot(boots.device.machine, boots.events)
            boots.ill = ""
    boots.begin(Slot.A, "fallback")
    assert boots.judge().text == "Slot A is healthy."
    assert boots.history() == ["installed", "fallback"]
    (failed,) = boots.device.machine.records.failed()
    assert failed.cause == "required check 'service' failed: no answer (last line)"


def test_a_crash_that_the_kernel_kept_is_against_it(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.begin(Slot.B, "trial")
    boots.crash("oops")
    for _ in range(2):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    boots.judge()
    story = told(boots.device, capsys, "why")
    assert story["cause"] == "the kernel crashed: Kernel panic - oops"
    assert [boot["console"] for boot in story["boots"]] == [
        ["oops", "Kernel panic - oops"],
        [],
        [],
    ]
    boots.device.run("why")
    assert "| Kernel panic" in capsys.readouterr().out


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_of_the_old_system_is_not_the_new_ones(boots: Boots, when: str) -> None:
    if when == "before":
        verdict.boot_began(boots.device.machine, boots.events)
        boots.crash("old system")
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    if when == "after":
        boots.crash("old system")
        boots.begin(Slot.A, "normal")
    assert "it is armed once more" in boots.judge().text


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


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"format": 1}', '{"format": 1, "x": 2}'])
def test_records_that_somebody_else_wrote(
    boots: Boots, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    state = boots.device.paths.state
    for name in ("intent.json", "failed.json", "last-boot.json", "history.jsonl"):
        (state / name).write_text(text)
    boots.ill = "no answer"
    for _ in range(3):
        boots.begin(Slot.B, "trial")
        assert boots.judge().reboot
    for command in ("status", "why", "history"):
        assert boots.device.run(command) == 0
    assert "bug" not in capsys.readouterr().err


def test_what_a_check_prints_does_not_steer_the_terminal(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.ill = "no\x1b[2Janswer"
    for _ in range(3):
        boots.begin(Slot.B, "trial")
        boots.judge()
    capsys.readouterr()
    for command in ("status", "why", "history"):
        assert boots.device.run(command) == 0
        shown = capsys.readouterr().out
        assert "no\\x1b[2Janswer" in shown
        assert "\x1b" not in shown


def test_a_retry_that_was_cut_is_still_a_failed_release(
    boots: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots.ill = "no answer"
    for _ in range(3):
        boots.begin(Slot.B, "trial")
        boots.judge()
    boots.begin(Slot.A, "normal")
    bundle = boots.device.top / "2.bundle"
    monkeypatch.setenv(failpoints.VARIABLE, "intent-recorded:error")
    assert boots.device.run("install", "--retry-failed", bundle) == 11
    monkeypatch.delenv(failpoints.VARIABLE)
    assert boots.device.run("install", bundle) == 7
    assert boots.device.run("install", "--retry-failed", bundle) == 0


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


def kept_boots(boots: Boots) -> list[dict[str, Any]]:
    record = boots.device.machine.records.slot(Slot.B)
    assert record is not None
    found = Trials(boots.device.paths.state).boots(record.commit)
    return json.loads(json.dumps([asdict(boot) for boot in found]))  # type: ignore[no-any-return]


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
    def broken(*_: object) -> None:
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


@pytest.mark.parametrize("point", ["given-up", "state-primary-written", "state-backup-written"])
def test_a_cut_while_a_release_is_given_up(
    boots: Boots,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    boots.ill = "no answer"
    for _ in range(3):
        boots.begin(Slot.B, "trial")
        if boots.device.state().countdown == 0:
            monkeypatch.setenv(failpoints.VARIABLE, f"{point}:error")
        assert boots.judge().reboot
    monkeypatch.delenv(failpoints.VARIABLE)
    boots.ill = ""
    boots.begin(Slot.A, "normal")
    boots.judge()
    assert boots.history() == ["installed", "fallback"]
    status = told(boots.device, capsys, "status")
    assert (status["failed"], status["last_install"]["outcome"]) == (["2"], "fallback")


@pytest.mark.parametrize("point", ["rearmed", "state-primary-written", "state-backup-written"])
def test_a_cut_while_it_is_armed_once_more(
    boots: Boots, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """It is tried again, or told as given up: never forgotten."""
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:error")
    with pytest.raises(DeviceFaultError):
        boots.judge()
    monkeypatch.delenv(failpoints.VARIABLE)
    armed = boots.device.state().on_trial == "B"
    boots.begin(Slot.B if armed else Slot.A, "trial" if armed else "normal")
    boots.judge()
    if not armed:
        boots.begin(Slot.B, "trial")
        boots.judge()
    assert boots.device.state().good == "AB"
    assert boots.history()[-1] == "confirmed"


def test_a_broken_configuration_is_a_failed_check(
    device: BootDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = device.paths.cmdline.read_text().strip()
    for wrong in ("abupdate.health.timeuot=3", "abupdate.health.off=['no-such']",
                  "abupdate.health.commands={data=['true']}"):  # fmt: skip
        device.paths.cmdline.write_text(f"{words} {wrong}\n")
        found = {result.name: result for result in health_check(device.machine).once().results}
        assert not found["configuration"].passed
        assert found["data"].passed
    device.paths.cmdline.write_text(f"{words}\n")
    names = {result.name for result in health_check(device.machine).once().results}
    assert names == {"data", "can-update", "clock", "failed-units", "space"}


def test_the_next_update_must_be_possible(device: BootDevice) -> None:
    def can_update() -> str:
        results = {result.name: result for result in health_check(device.machine).once().results}
        return results["can-update"].reason

    assert can_update() == "the next release can come"
    head = device.paths.state / "store.git/HEAD"
    head.rename(head.with_name("head"))
    assert "not a git repository" in can_update()
    head.with_name("head").rename(head)
    device.put(PRIMARY, b"")
    device.put("grubenv.bak", b"")
    assert "The boot state" in can_update()


def test_what_does_not_fit_together_is_told(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    device = boots.device
    (device.paths.state / "intent.json").unlink()
    (problem,) = told(device, capsys, "status")["problems"]
    assert "Slot B is armed, and no record tells of an install into it" in problem
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    (problem,) = told(device, capsys, "status")["problems"]
    assert "Slot B was given up, and no record is left of what was in it" in problem
    record = device.paths.state / "slots/A.json"
    record.write_text(record.read_text().replace('"release": "1"', '"release": "7"'))
    problems = told(device, capsys, "status")["problems"]
    assert any("Release 1 runs in slot A, and its record says 7" in line for line in problems)


def test_check_by_hand(
    device: BootDevice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = device.paths.cmdline.read_text().strip()
    failing = "abupdate.health.commands={app=['false']}"
    device.paths.cmdline.write_text(f"{words} {failing}\n")
    before = device.copies()
    capsys.readouterr()
    assert device.run("check", "--json") == 7
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is False
    assert {c["name"]: c["reason"] for c in found["checks"]}["app"] == "exit code 1"
    assert device.run("check") == 7
    assert "Not healthy: app." in capsys.readouterr().out
    wanted = "abupdate.health.wanted=['app','failed-units','space']"
    device.paths.cmdline.write_text(f"{words} {failing} {wanted}\n")
    assert device.run("check") == 0
    text = capsys.readouterr().out
    assert "Healthy. To look at: " in text
    assert "app" in text
    assert device.copies() == before
