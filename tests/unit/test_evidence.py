"""What a boot leaves behind: crash text that the kernel kept, failed units, its log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate.health.check import CheckResult
from abupdate.update import evidence
from abupdate.update.trials import Judged, TrialBoot, Trials, Verdict, cause, reasons


def dump(root: Path, name: str, text: str, time: float) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def crash(root: Path, known: set[str] | None = None) -> tuple[str, ...]:
    dumps = evidence.crash_dumps(root)
    return evidence.crash_text([dump for dump in dumps if dump.identity not in (known or set())])


def test_the_newest_crash(tmp_path: Path) -> None:
    assert crash(tmp_path) == ()
    dump(tmp_path, "var/lib/systemd/pstore/1/dmesg.txt", "old\nOops\n", 1000.0)
    dump(tmp_path, "sys/fs/pstore/dmesg-erst-1", "newer\nKernel panic\n", 2000.0)
    dump(tmp_path, "sys/fs/pstore/console-ramoops-0", "Kernel panic of no crash\n", 3000.0)
    assert crash(tmp_path) == ("newer", "Kernel panic")
    known = {found.identity for found in evidence.crash_dumps(tmp_path)}
    assert crash(tmp_path, known) == ()
    dump(tmp_path, "sys/fs/pstore/dmesg-erst-2", "clock lost\nOops\n", 0.0)
    assert crash(tmp_path, known) == ("clock lost", "Oops")


def test_an_orderly_reboot_is_no_crash(tmp_path: Path) -> None:
    dump(tmp_path, "sys/fs/pstore/dmesg-erst-1", "<6>[ 9.0] reboot: Restarting system\n", 2000.0)
    assert crash(tmp_path) == ()


def test_the_joined_text_of_a_crash_is_taken(tmp_path: Path) -> None:
    for part in ("dmesg-efi-1", "dmesg-efi-2"):
        dump(tmp_path, f"var/lib/systemd/pstore/9/{part}", "Oops: a part\n", 2000.0)
    dump(tmp_path, "var/lib/systemd/pstore/9/dmesg.txt", "Oops: all\n", 2000.0)
    assert crash(tmp_path) == ("Oops: all",)


def test_long_crashes_are_cut(tmp_path: Path) -> None:
    lines = [f"{number} Oops {'x' * 1000}" for number in range(100)]
    dump(tmp_path, "sys/fs/pstore/dmesg-efi-1", "\n".join(lines), 2000.0)
    found = crash(tmp_path)
    assert len(found) == 60
    assert found[-1].startswith("99 Oops x")
    assert max(map(len, found)) == 400


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setattr("abupdate.run.SEARCH_PATH", f"{tmp_path}:/usr/bin:/bin")

    def add(body: str) -> None:
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "systemctl").chmod(0o755)

    return add


def test_units_that_failed_and_those_that_still_start(systemctl: Callable[[str], None]) -> None:
    systemctl(
        'case "$1" in\n'
        "list-units) echo kiosk.service loaded failed failed Kiosk;;\n"
        "*) echo 123 endless.service start running; echo 9 boot-complete.target start waiting;;\n"
        "esac"
    )
    assert evidence.failed_units() == (
        "failed: kiosk.service",
        "still starting: endless.service",
    )
    systemctl("exit 1")
    assert evidence.failed_units() == ()


def test_a_cut_in_a_record_costs_that_line_only(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    trials.started("c", TrialBoot("one", 1, 5.0))
    with (tmp_path / "trials/c.jsonl").open("ab") as file:
        file.write(b'{"boot_id": "tw')
    trials.started("c", TrialBoot("three", 2, 6.0))
    check = CheckResult("app", required=True, passed=False, reason="exit code 1", output="a\nb")
    trials.judged("c", "three", Judged(Verdict.FAILED, 9.0, reasons([check]), (check,)))
    first, second = trials.boots("c")
    assert (first.boot_id, first.verdict, first.against_it) == ("one", None, False)
    assert (second.attempt, second.started, second.verdict) == (2, 6.0, "failed")
    assert second.checks == (check,)
    assert cause([first, second]) == "required check 'app' failed: exit code 1 (b)"
    assert cause([first]) == "no boot of it reached a verdict"
    assert cause([]) == "no boot of it reached userland"
    assert trials.boots("other") == []


def test_what_a_crash_was() -> None:
    console = (
        "Panic#1 Part1",
        "<4>[   12.3] Call Trace:",
        "<0>[   12.4] Kernel panic - not syncing: sysrq",
        "<0>[   12.5] Kernel Offset: 0",
    )
    boot = TrialBoot("one", 1, 5.0, console=console)
    assert cause([boot]) == "the kernel crashed: Kernel panic - not syncing: sysrq"


def test_a_later_verdict_takes_the_place_of_the_first(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    trials.started("c", TrialBoot("one", 1, 5.0))
    trials.judged("c", "one", Judged(Verdict.PASSED, 9.0))
    trials.judged("c", "one", Judged(Verdict.UNJUDGED, 900.0, ("nobody confirmed it",)))
    (boot,) = trials.boots("c")
    assert (boot.verdict, boot.seconds, boot.against_it) == ("unjudged", 900.0, True)


HOSTILE = [
    "[]",
    "7",
    '{"boot_id": "x", "verdict": "weird"}',
    '{"boot_id": "x", "checks": ["no"]}',
    '{"boot_id": "x", "checks": 5}',
    '{"boot_id": "x", "seconds": "long"}',
    '{"boot_id": "x", "more": 1}',
    '{"boot_id": ["x"], "attempt": 1}',
    "[" * 100_000,
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:30])
def test_what_is_no_record_is_left_out(tmp_path: Path, line: str) -> None:
    trials = Trials(tmp_path)
    trials.started("c", TrialBoot("one", 1, 5.0))
    with (tmp_path / "trials/c.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert trials.boots("c") == [TrialBoot("one", 1, 5.0)]


def test_logs_are_for_root(tmp_path: Path) -> None:
    Trials(tmp_path).started("c", TrialBoot("one", 1, 5.0))
    assert (tmp_path / "trials").stat().st_mode & 0o777 == 0o700
