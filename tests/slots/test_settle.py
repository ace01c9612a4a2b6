"""What is told of an install that did not end as it was meant to: all of it, and once."""

from __future__ import annotations

import json

import pytest

from abupdate import failpoints
from abupdate.boot.grubenv import PRIMARY
from abupdate.disk.layout import Slot
from tests.slots.boot_device import BootDevice


def told(device: BootDevice, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """The outcome in `status`, and the events of the history."""
    capsys.readouterr()
    assert device.run("status", "--json") == 0
    outcome = json.loads(capsys.readouterr().out)["last_install"]["outcome"]
    assert device.run("history", "--json") == 0
    events = [entry["event"] for entry in json.loads(capsys.readouterr().out)["entries"]]
    return outcome, events


def power_cycle(device: BootDevice, slot: Slot) -> None:
    """GRUB boots, as it would; it must be that slot."""
    assert device.power_on().boots == slot


def give_up(device: BootDevice) -> None:
    """All boots of the trial in B pass, and GRUB falls back to A."""
    for _ in range(3):
        power_cycle(device, Slot.B)
    power_cycle(device, Slot.A)


def test_an_install_that_was_cut_off_is_not_the_success_of_the_one_before(
    device: BootDevice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    monkeypatch.setenv(failpoints.VARIABLE, "intent-recorded:error")
    assert device.run("install", device.top / "3.bundle") != 0
    monkeypatch.delenv(failpoints.VARIABLE)
    power_cycle(device, Slot.B)
    assert device.run("confirm") == 0
    outcome, events = told(device, capsys)
    assert outcome == "unfinished"
    assert events == ["installed", "replaced", "install-failed", "confirmed", "unfinished"]
    confirmed = device.machine.records.history()[3]
    assert (confirmed.release, confirmed.slot) == ("2", "B")


def test_a_fallback_is_told_before_the_next_install_hides_it(
    device: BootDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    give_up(device)
    assert device.run("install", device.top / "3.bundle") == 0
    _, events = told(device, capsys)
    assert events == ["installed", "interrupted", "installed"]


def test_an_armed_release_that_a_lost_boot_state_forgot_is_told(
    device: BootDevice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "armed:error")
    assert device.run("install", device.top / "2.bundle") != 0
    monkeypatch.delenv(failpoints.VARIABLE)
    device.put(PRIMARY, b"")
    power_cycle(device, Slot.A)
    for _ in range(2):
        assert device.run("confirm", "--boot") == 0
    outcome, events = told(device, capsys)
    assert outcome == "lost"
    assert events == ["install-failed", "lost"]


def test_a_trial_that_was_rejected_and_still_runs_is_not_called_confirmed(
    device: BootDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    power_cycle(device, Slot.B)
    assert device.run("reject") == 0
    capsys.readouterr()
    assert device.run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["booted"]["text"].startswith("given up")


def test_not_armed_as_asked_for_is_no_failure(
    device: BootDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    power_cycle(device, Slot.A)
    assert device.run("confirm", "--boot") == 0
    assert told(device, capsys) == ("not armed", ["installed"])
    assert device.run("arm") == 0
    give_up(device)
    assert device.run("confirm", "--boot") == 0
    events = ["installed", "interrupted", "rearmed"]
    assert told(device, capsys) == ("installed, on trial", events)
