"""The checks of the running system, and what its records say, true or not."""

from __future__ import annotations

import json

import pytest

from abupdate.boot.grubenv import PRIMARY
from abupdate.disk.layout import Slot
from abupdate.update.health import health_check
from tests.slots.apart import start_apart
from tests.slots.boot_device import BootDevice
from tests.slots.boots import Boots, told

_ODD_INTENT = (
    '{"format": 1, "slot": "C", "release": "2", "commit": "c", "from_slot": "A", '
    '"from_release": null, "started": 1}'
)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[]", '{"format": 1}', '{"format": 1, "x": 2}', _ODD_INTENT,
     f'{{"event": "x", "time": {"9" * 400}, "release": "2", "slot": "A", "format": 1}}'],
)  # fmt: skip
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


def test_the_verdict_of_a_check_that_nobody_reads(device: BootDevice) -> None:
    words = device.paths.cmdline.read_text().strip()
    device.paths.cmdline.write_text(f"{words} abupdate.health.commands={{app=['false']}}\n")
    process = start_apart(device, "", "check")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 7
