"""The runner of required.d and wanted.d."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from abupdate.paths import Paths
from abupdate.update.checks import failures, run_checks
from abupdate.update.trials import cause, judge


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(root=tmp_path)


def add(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_only_required_checks_fail_a_boot(paths: Paths) -> None:
    add(paths.vendor / "required.d", "10-good", "exit 0")
    add(paths.vendor / "wanted.d", "10-bad", "echo sorry; exit 7")
    results = run_checks(paths, 10)
    assert [(r.name, r.required, r.passed) for r in results] == [
        ("10-good", True, True),
        ("10-bad", False, False),
    ]
    assert failures(results) == []


def test_a_failure_says_which_and_why(paths: Paths) -> None:
    add(paths.vendor / "required.d", "20-service", "echo 'no answer' >&2; exit 3")
    found = failures(run_checks(paths, 10))
    assert [(r.name, r.reason, r.output) for r in found] == [
        ("20-service", "exit code 3", "no answer")
    ]
    told = cause([judge(1, 0.0, found)])
    assert told == "required check '20-service' failed: exit code 3 (no answer)"


def test_a_hanging_check_fails_in_time_and_beside_the_others(paths: Paths) -> None:
    for name in ("a", "b", "c"):
        add(paths.vendor / "required.d", name, "sleep 60")
    start = time.monotonic()
    results = run_checks(paths, 1.0)
    assert time.monotonic() - start < 30
    assert [r.passed for r in results] == [False] * 3
    assert all("not finished" in r.reason for r in results)


def test_the_owners_check_replaces_the_releases(paths: Paths) -> None:
    add(paths.vendor / "required.d", "10-app", "exit 1")
    add(paths.etc / "required.d", "10-app", "exit 0")
    (paths.etc / "required.d" / "notes.txt").write_text("not executable")
    assert [(r.name, r.passed) for r in run_checks(paths, 10)] == [("10-app", True)]
