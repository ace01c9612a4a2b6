"""Executables as health checks: required.d, wanted.d, commands; whatever they do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from abupdate.health.check import CheckResult, failures, look_at_all
from abupdate.health.programs import programs


def add(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return folder / name


def run_all(*bases: Path, timeout: float = 10.0) -> list[CheckResult]:
    return look_at_all(programs(bases, {"ABUPDATE_BOOT": "trial"}), timeout)


def run_one(tmp_path: Path, body: str, timeout: float = 10.0) -> CheckResult:
    add(tmp_path / "required.d", "check", body)
    (result,) = run_all(tmp_path, timeout=timeout)
    return result


def test_only_required_checks_fail_a_boot(tmp_path: Path) -> None:
    add(tmp_path / "required.d", "10-good", "exit 0")
    add(tmp_path / "wanted.d", "10-bad", "echo sorry; exit 7")
    results = run_all(tmp_path)
    assert [(r.name, r.required, r.passed, r.reason) for r in results] == [
        ("10-good", True, True, "ok"),
        ("10-bad", False, False, "exit code 7"),
    ]
    assert failures(results) == []


def test_a_failure_says_which_and_why(tmp_path: Path) -> None:
    found = run_one(tmp_path, "echo 'no answer' >&2; exit 3")
    assert (found.passed, found.reason, found.output) == (False, "exit code 3", "no answer")


def test_a_check_is_told_of_the_boot_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of this process")
    found = run_one(tmp_path, 'echo "$ABUPDATE_BOOT $SECRET$DISPLAY"; exit 1')
    assert found.output == "trial"


def test_checks_run_side_by_side_and_end_in_time(tmp_path: Path) -> None:
    for number in range(6):
        add(tmp_path / "required.d", f"{number}", "sleep 60")
    start = time.monotonic()
    results = run_all(tmp_path, timeout=1.0)
    assert time.monotonic() - start < 5
    assert [r.reason for r in results] == ["not finished after 1 seconds"] * 6


def test_what_a_hanging_check_has_started_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    found = run_one(tmp_path, f"sleep 60 & echo $! > {pid}; echo begun; wait", timeout=1.0)
    assert (found.passed, found.output) == (False, "begun")
    assert not running(int(pid.read_text()))


def test_a_child_that_keeps_the_output_open_does_not_keep_us(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    start = time.monotonic()
    found = run_one(tmp_path, f"sleep 60 & echo $! > {pid}; echo fine", timeout=30.0)
    assert time.monotonic() - start < 10
    assert found.passed
    assert not running(int(pid.read_text()))


def test_endless_output_is_bounded(tmp_path: Path) -> None:
    found = run_one(tmp_path, "echo first; exec yes 0123456789", timeout=1.0)
    assert found.reason == "not finished after 1 seconds"
    assert found.output.endswith("0123456789")
    assert len(found.output) <= 4000


def test_a_program_that_cannot_be_started_fails(tmp_path: Path) -> None:
    path = add(tmp_path / "required.d", "check", "")
    path.write_text("#!/no/such/interpreter\n")
    (found,) = run_all(tmp_path)
    assert not found.passed
    assert "No such file" in found.reason


def test_what_cannot_be_run_is_a_failed_check(tmp_path: Path) -> None:
    """Not one less: a release that lost a check's target must not pass for that."""
    folder = tmp_path / "required.d"
    add(folder, "10-mode", "exit 0").chmod(0o644)
    (folder / "20-lost").symlink_to("/no/such/program")
    (folder / "30-folder").mkdir()
    assert [(r.name, r.passed, r.reason) for r in run_all(tmp_path)][:2] == [
        ("10-mode", False, "it is not executable"),
        ("20-lost", False, "it is not there"),
    ]
    assert not run_all(tmp_path)[2].passed


def test_copies_of_editors_and_package_managers_are_no_checks(tmp_path: Path) -> None:
    for name in ("10-app~", ".10-app.swp", "10-app.dpkg-old", "10-app.bak"):
        add(tmp_path / "required.d", name, "exit 1")
    assert run_all(tmp_path) == []


def test_one_that_dies_of_a_signal_fails(tmp_path: Path) -> None:
    assert run_one(tmp_path, "kill -SEGV $$").reason == "ended by signal 11"


def test_output_that_is_no_text_is_told_all_the_same(tmp_path: Path) -> None:
    assert run_one(tmp_path, r"printf '\377\000x'; exit 1").output == "\ufffd\0x"


def test_the_owners_check_replaces_the_releases(tmp_path: Path) -> None:
    vendor, owner = tmp_path / "vendor", tmp_path / "owner"
    add(vendor / "required.d", "10-app", "exit 1")
    add(vendor / "required.d", "20-gone", "exit 1")
    add(owner / "required.d", "10-app", "exit 0")
    (owner / "required.d/20-gone").symlink_to("/dev/null")
    assert [(r.name, r.passed) for r in run_all(vendor, owner)] == [("10-app", True)]


def test_an_empty_file_takes_no_check_away(tmp_path: Path) -> None:
    """A cut may have left it."""
    vendor, owner = tmp_path / "vendor", tmp_path / "owner"
    add(vendor / "required.d", "10-app", "exit 0")
    add(owner / "required.d", "10-app", "")
    for mode, reason in ((0o644, "it is not executable"), (0o755, "Exec format error")):
        (owner / "required.d/10-app").write_bytes(b"")
        (owner / "required.d/10-app").chmod(mode)
        (found,) = run_all(vendor, owner)
        assert not found.passed
        assert reason in found.reason


def running(pid: int) -> bool:
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True
