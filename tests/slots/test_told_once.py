"""The end of a trial is told by one line of history, wherever the power goes meanwhile."""

from __future__ import annotations

import pytest

from abupdate import failpoints
from abupdate.boot.grubenv import PRIMARY
from abupdate.disk.layout import Slot
from abupdate.errors import DeviceFaultError
from tests.slots.boots import Boots, told


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The power goes after a line of history that tells an end."""
    monkeypatch.setenv(failpoints.VARIABLE, "told:error")
    return monkeypatch


def outcome(boots: Boots, capsys: pytest.CaptureFixture[str]) -> str:
    found = told(boots.device, capsys, "status")["last_install"]["outcome"]
    assert isinstance(found, str)
    return found


def test_a_fallback(
    boots: Boots, capsys: pytest.CaptureFixture[str], cut: pytest.MonkeyPatch
) -> None:
    boots.ill = "no answer"
    for _ in range(2):
        boots.begin(Slot.B, "trial")
        boots.judge()
    boots.begin(Slot.B, "trial")  # which ends before its verdict
    boots.begin(Slot.A, "fallback")
    boots.ill = ""
    with pytest.raises(DeviceFaultError):
        boots.judge()
    cut.delenv(failpoints.VARIABLE)
    assert boots.history() == ["installed", "fallback"]
    for _ in range(2):
        boots.begin(Slot.A, "normal")
        boots.judge()
        assert outcome(boots, capsys) == "fallback"
    assert boots.history() == ["installed", "fallback"]


def test_an_interruption_is_armed_once_more_all_the_same(
    boots: Boots, capsys: pytest.CaptureFixture[str], cut: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    with pytest.raises(DeviceFaultError):
        boots.judge()
    cut.delenv(failpoints.VARIABLE)
    boots.begin(Slot.A, "normal")
    assert "it is armed once more" in boots.judge().text
    assert boots.history() == ["installed", "interrupted", "rearmed"]
    # The next end is another one.
    for _ in range(3):
        boots.begin(Slot.B, "trial")
    boots.begin(Slot.A, "fallback")
    boots.judge()
    assert boots.history() == ["installed", "interrupted", "rearmed", "fallback"]
    assert outcome(boots, capsys) == "fallback"


@pytest.mark.parametrize("point", ["given-up", "told"])
def test_a_rejection(
    boots: Boots,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    """By what the person wanted, and not as a fallback."""
    boots.begin(Slot.B, "trial")
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:error")
    assert boots.device.run("reject") == 11
    monkeypatch.delenv(failpoints.VARIABLE)
    boots.begin(Slot.A, "normal")
    boots.judge()
    assert boots.history() == ["installed", "rejected"]
    assert outcome(boots, capsys) == "rejected"
    story = told(boots.device, capsys, "why")
    assert (story["event"], story["cause"], story["failed"]) == (
        "rejected",
        "rejected by hand",
        True,
    )


def test_armed_again_it_has_an_end_of_its_own(boots: Boots) -> None:
    for _ in range(2):
        boots.begin(Slot.B, "trial")
        assert boots.device.run("reject") == 0
        boots.begin(Slot.A, "normal")
        boots.judge()
        assert boots.device.run("acknowledge") == 0
        assert boots.device.run("arm") == 0
    events = [event for event in boots.history() if event != "acknowledged"]
    assert events == ["installed", "rejected", "rejected"]


def test_a_trial_whose_boot_state_was_lost_is_no_failed_release(
    boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.begin(Slot.B, "trial")
    boots.device.put(PRIMARY, b"")
    boots.judge()
    left = boots.deadline()
    assert left is not None and left.reboot
    boots.begin(Slot.A, "normal")
    boots.judge()
    assert boots.history() == ["installed", "lost"]
    assert outcome(boots, capsys) == "lost"
    assert boots.device.machine.records.failed() == []


def test_with_a_verdict_against_it_it_is_one(boots: Boots) -> None:
    boots.ill = "no answer"
    boots.begin(Slot.B, "trial")
    boots.judge()
    boots.begin(Slot.B, "trial")
    boots.device.put(PRIMARY, b"")
    assert boots.judge().reboot
    boots.ill = ""
    boots.begin(Slot.A, "normal")
    boots.judge()
    assert boots.history() == ["installed", "fallback"]
    (failed,) = boots.device.machine.records.failed()
    assert failed.cause == "required check 'service' failed: no answer (last line)"
