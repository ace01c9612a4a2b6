"""Trials that were cut off: what counts against the release, and what is armed once more."""

from __future__ import annotations

import pytest

from abupdate import failpoints
from abupdate.disk.layout import Slot
from abupdate.errors import DeviceFaultError
from abupdate.update import verdict
from tests.slots.boots import Boots, told


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
