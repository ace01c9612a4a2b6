"""GRUB's rules follow those of a confirmed release: tried once, kept, or left for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from abupdate import failpoints
from abupdate.boot import rules
from abupdate.boot.rules import Choice, Rules
from abupdate.boot.rulesfiles import RulesReading
from abupdate.disk.layout import Slot
from abupdate.update import release_rules, rules_record, verdict
from abupdate.update.slots import Machine
from tests.slots.boot_device import NEW, BootDevice, doctor
from tests.slots.boots import Boots, told

OLD = rules.filled((Path(__file__).parents[2] / "grub" / rules.SOURCE).read_bytes())
POINTS = ["rules-written", "rules-summed", "rules-chosen", "rules-offered", "rules-told"]

Capsys = pytest.CaptureFixture[str]


def numbered(number: int, more: str = "", formats: str = "1") -> bytes:
    """Rules of a release that is yet to come."""
    text = OLD.content.rstrip(b"#\n") + b"\n"
    text = text.replace(b"set rules=%d\n" % OLD.number, b"set rules=%d\n" % number)
    return text.replace(b"formats=1\n", f"formats={formats}\n# {more}\n".encode())


class Release:
    """What the running release brings as its rules."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def brings(self, number: int, more: str = "", formats: str = "1") -> Rules:
        self.path.write_bytes(numbered(number, more, formats))
        return rules.filled(self.path.read_bytes())


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    found = Release(tmp_path / rules.SOURCE)
    monkeypatch.setattr(release_rules, "source", lambda _paths: found.path)
    return found


@pytest.fixture
def boots(idle_boots: Boots) -> Boots:
    """Slot A was healthy once; nothing is in B."""
    idle_boots.judge()
    return idle_boots


def found(boots: Boots) -> RulesReading:
    return boots.device.machine.rules().read()


def next_boot(boots: Boots, *returns: str) -> str:
    """Switch on; which rules started the system, and what its units then say."""
    boots.device.power_on(returns=returns)
    boots.number += 1
    verdict.boot_began(boots.device.machine, boots.events)
    return str(boots.device.machine.arguments().rules)


def events(boots: Boots) -> list[str]:
    return [name for name in boots.history() if name.startswith("rules-")]


def test_the_same_rules_write_nothing(boots: Boots, release: Release) -> None:
    release.path.write_bytes(OLD.content)
    folder = boots.device.paths.esp / "grub"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("rules*")}
    for _ in range(2):
        assert next_boot(boots) == "a"
        assert boots.judge().text == "Slot A is healthy."
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("rules*")} == before
    assert events(boots) == []


def test_newer_rules_are_tried_and_kept(boots: Boots, release: Release, capsys: Capsys) -> None:
    new = release.brings(2)
    next_boot(boots)
    assert "GRUB tries its new rules (2) at the next boot." in boots.judge().text
    reading = found(boots)
    assert reading.choice == Choice("a", "b")
    assert (reading.whole("a"), reading.whole("b")) == (OLD, new)
    status = told(boots.device, capsys, "status")["rules"]
    assert (status["use"], status["number"], status["next"], status["release"]) == ("a", 1, "b", 2)
    # Judged again in the same boot, nothing changes.
    assert boots.judge().text == "Slot A is healthy."
    assert found(boots) == reading
    assert next_boot(boots) == "b"
    assert found(boots).choice == Choice("a")
    assert "new rules are kept" in boots.judge().text
    reading = found(boots)
    assert reading.choice == Choice("b")
    assert reading.whole("a") == OLD, "the way back"
    assert next_boot(boots) == "b"
    assert boots.judge().text == "Slot A is healthy."
    assert events(boots) == ["rules-kept"]
    status = told(boots.device, capsys, "status")["rules"]
    assert (status["runs"], status["use"], status["number"], status["next"]) == ("b", "b", 2, None)


def test_back_and_forth_between_the_two_files(boots: Boots, release: Release) -> None:
    for number, name in ((2, "b"), (3, "a")):
        new = release.brings(number)
        next_boot(boots)
        boots.judge()
        assert next_boot(boots) == name
        boots.judge()
        assert found(boots).choice == Choice(name)
        assert found(boots).whole(name) == new
    assert events(boots) == ["rules-kept"] * 2


@pytest.mark.parametrize("how", ["returns", "hangs"])
def test_rules_that_fail_are_left_for_good(
    boots: Boots, release: Release, capsys: Capsys, how: str
) -> None:
    bad = release.brings(2)
    next_boot(boots)
    boots.judge()
    if how == "hangs":
        # GRUB saves that they are tried, and that is all that it comes to.
        boots.device.put(rules.CHOICE, rules.encode(Choice("a")))
        assert next_boot(boots) == "a"
    else:
        assert next_boot(boots, "b") == "a"
    assert "new rules (2) failed, and the old ones stay" in boots.judge().text
    assert any("failed" in text for text in boots.warnings)
    assert found(boots).choice == Choice("a")
    for _ in range(2):
        assert next_boot(boots) == "a"
        assert boots.judge().text == "Slot A is healthy."
    assert events(boots) == ["rules-failed"]
    assert told(boots.device, capsys, "status")["rules"]["failed"] == 2
    findings = doctor(boots.device, capsys)[1]
    assert "no system that they started came up" in str(findings["rules-failed"]["message"])
    record = rules_record.read(boots.device.paths.state)
    assert [one.digest for one in record.failed] == [bad.digest]
    # Others of that number, or later ones, are tried.
    good = release.brings(2, "mended")
    next_boot(boots)
    boots.judge()
    assert next_boot(boots) == "b"
    boots.judge()
    assert found(boots).whole("b") == good and found(boots).choice == Choice("b")


def test_a_boot_that_was_cut_off_is_no_failure(boots: Boots, release: Release) -> None:
    """Rules that started a system are tried once more; and once more is enough."""
    release.brings(2)
    next_boot(boots)
    boots.judge()
    for text in ("the next boot tries them again", "failed"):
        assert next_boot(boots) == "b"  # and the power goes
        assert next_boot(boots) == "a"
        assert text in boots.judge().text
    assert events(boots) == ["rules-failed"]
    assert found(boots).choice == Choice("a")


def test_a_grub_that_cannot_save_is_asked_nothing(boots: Boots, release: Release) -> None:
    """It could not note that rules are being tried: those that hang would hang for ever."""
    before = found(boots)
    release.brings(2)
    boots.device.power_on(saves=False)
    assert boots.judge().text == "Slot A is healthy."
    assert found(boots) == before


def test_rules_wait_for_a_trial(boots: Boots, release: Release) -> None:
    """One experiment at a time: neither is blamed for what the other did."""
    release.brings(2)
    next_boot(boots)
    boots.judge()
    assert boots.device.run("install", boots.device.top / "2.bundle") == 0
    assert next_boot(boots) == "a"
    assert boots.device.machine.arguments().how == "trial"
    assert boots.judge().text == "Release 2 in slot B is confirmed."
    assert found(boots).choice == Choice("a", "b")
    assert next_boot(boots) == "b"
    boots.judge()
    assert found(boots).choice == Choice("b")


def test_a_trial_replaces_nothing(boots: Boots, release: Release) -> None:
    before = found(boots)
    assert boots.device.run("install", boots.device.top / "2.bundle") == 0
    release.brings(2)
    next_boot(boots)
    assert boots.judge().text == "Release 2 in slot B is confirmed."
    assert found(boots) == before
    assert next_boot(boots) == "a"
    assert "GRUB tries its new rules (2)" in boots.judge().text


def test_older_ones_and_those_that_forget_stay_away(
    boots: Boots, release: Release, capsys: Capsys
) -> None:
    """What a fallback to an older release must not do, and what no release may."""
    release.brings(2, formats="12")
    next_boot(boots)
    boots.judge()
    next_boot(boots)
    boots.judge()
    kept = found(boots)
    for number, formats, ids in ((1, "1", set()), (3, "1", {"rules-differ"})):
        release.brings(number, formats=formats)
        next_boot(boots)
        assert boots.judge().text == "Slot A is healthy."
        assert found(boots) == kept
        assert set(doctor(boots.device, capsys)[1]) == ids | NEW
    release.brings(2, "another", "12")
    next_boot(boots)
    boots.judge()
    assert found(boots) == kept
    # A person may ask for it; it is tried as ever.
    report = doctor(boots.device, capsys, "--repair")[2]
    assert "at the next boot" in str(report["repaired"])
    assert found(boots).choice == Choice("b", "a")
    assert "rules-differ" not in doctor(boots.device, capsys)[1]
    assert next_boot(boots) == "a"
    boots.judge()
    assert found(boots).choice == Choice("a")


@pytest.mark.parametrize(
    ("point", "end"),
    [*((point, "kept") for point in POINTS), ("rules-chosen", "failed"), ("rules-told", "failed")],
)
def test_cut_at_any_write(
    boots: Boots, release: Release, monkeypatch: pytest.MonkeyPatch, point: str, end: str
) -> None:
    """GRUB has rules that work throughout; it ends as without the cut, and is told once."""
    new = release.brings(2)
    cut = False
    for _ in range(5):
        next_boot(boots, *("b" if end == "failed" else ""))
        if not cut:
            monkeypatch.setenv(failpoints.VARIABLE, f"{point}:error")
        boots.judge()
        monkeypatch.delenv(failpoints.VARIABLE, raising=False)
        cut = cut or any("Failpoint" in text for text in boots.warnings)
        reading = found(boots)
        assert reading.choice is not None and reading.whole(reading.choice.use) is not None
    assert cut
    if end == "kept":
        assert found(boots).choice == Choice("b")
        assert found(boots).whole("b") == new
    else:
        assert found(boots).choice == Choice("a")
    assert events(boots) == [f"rules-{end}"]


def test_data_that_is_lost(boots: Boots, release: Release) -> None:
    """Without its record, a boot by new rules still keeps them; failed ones are tried again."""
    release.brings(2)
    next_boot(boots)
    boots.judge()
    record = boots.device.paths.state / "rules.json"
    record.unlink()
    assert next_boot(boots) == "b"
    boots.judge()
    assert found(boots).choice == Choice("b")
    for damage in (b"", b"[]", b'{"format": 1}', b'{"format": 9, "offered": 1, "failed": []}'):
        record.write_bytes(damage)
        assert rules_record.read(boots.device.paths.state) == rules_record.RulesRecord()


def test_rules_that_the_release_cannot_talk_to(
    boots: Boots, release: Release, capsys: Capsys
) -> None:
    """Too new and too old, said in status and doctor."""
    release.path.write_bytes(OLD.content)
    for number, words in ((7, "too new"), (0, "too old")):
        text = numbered(number, formats="2")
        foreign = rules.filled(text if number else text.replace(b"set rules=0", b"# no number"))
        boots.device.remount("rw")
        boots.device.machine.rules().write("a", foreign)
        boots.device.remount("ro")
        problems = told(boots.device, capsys, "status")["problems"]
        assert any(words in text for text in problems), problems
        assert words in str(doctor(boots.device, capsys)[1]["rules-foreign"]["message"])


def harm(device: BootDevice, name: str, how: str) -> None:
    if how == "missing":
        device.remove(name)
    elif how == "empty":
        device.put(name, b"")
    else:
        raw = device.env(name).read_bytes()
        device.put(name, raw[:40] + bytes(8) + raw[48:])


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("rules-a.cfg", "missing"),
        ("rules-a.cfg", "damaged"),
        ("rules-b.cfg", "empty"),
        ("rules-b.sha256", "damaged"),
        ("rules.env", "missing"),
        ("rules.env", "damaged"),
    ],
)
def test_doctor_mends_what_is_lost(
    boots: Boots, release: Release, capsys: Capsys, file: str, how: str
) -> None:
    release.path.write_bytes(OLD.content)
    before = found(boots)
    harm(boots.device, file, how)
    code, findings, _ = doctor(boots.device, capsys)
    wanted = "rules-choice-lost" if file == rules.CHOICE else "rules-damaged"
    assert (code, findings[wanted]["repairable"]) == (11, True)
    code, findings, report = doctor(boots.device, capsys, "--repair")
    assert (code, wanted in findings, report["failed"]) == (0, False, [])
    assert found(boots) == before


def test_doctor_with_nothing_left(boots: Boots, release: Release, capsys: Capsys) -> None:
    release.path.write_bytes(OLD.content)
    before = found(boots)
    for name in ("rules-a.cfg", "rules-b.cfg", "rules-a.sha256", rules.CHOICE):
        boots.device.remove(name)
    assert doctor(boots.device, capsys)[0] == 11
    assert doctor(boots.device, capsys, "--repair")[0] == 0
    assert found(boots) == before


def test_doctor_takes_only_what_is_whole(boots: Boots, release: Release, capsys: Capsys) -> None:
    """A release that is not confirmed gives nothing; the other file does."""
    release.path.write_bytes(OLD.content)
    assert boots.device.run("install", boots.device.top / "2.bundle") == 0
    next_boot(boots)
    for name in ("rules-a.cfg", "rules-b.cfg"):
        harm(boots.device, name, "damaged")
    code, findings, _ = doctor(boots.device, capsys, "--repair")
    assert (code, findings["rules-damaged"]["repairable"]) == (11, False)
    assert found(boots).first is None


def test_a_device_from_before_the_switch(boots: Boots, release: Release, capsys: Capsys) -> None:
    """Nothing of its boot partition is touched by itself."""
    folder = boots.device.paths.esp / "grub"
    for path in sorted(folder.glob("rules*")):
        boots.device.remove(path.name)
    release.brings(2)
    boots.device.start(Slot.A, "normal")
    assert boots.judge().text == "Slot A is healthy."
    assert list(folder.glob("rules*")) == []
    assert told(boots.device, capsys, "status")["rules"] is None
    assert {"rules-damaged", "rules-choice-lost"} <= set(doctor(boots.device, capsys)[1])


def test_rescue_replaces_no_rules(
    boots: Boots, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = found(boots)
    release.brings(2)
    next_boot(boots)
    booted = boots.device.machine.booted()
    monkeypatch.setattr(Machine, "booted", lambda _self: replace(booted, slot=None))
    assert boots.judge().text == "Rescue runs; nothing to confirm."
    assert found(boots) == before
