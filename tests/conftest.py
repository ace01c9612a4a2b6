"""Keeps, for `make rows`, which tests cover which acceptance row and how they ended."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator
from pathlib import Path

import pytest

ROWS_FILE = Path(__file__).parent.parent / ".cache" / "rows.json"
_MOST_ROWS = 3

Outcomes = dict[str, dict[str, str]]
_OUTCOMES = pytest.StashKey[Outcomes]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_OUTCOMES] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        rows = _rows(item)
        if len(rows) > _MOST_ROWS:
            raise pytest.UsageError(f"{item.nodeid} claims {len(rows)} rows, {_MOST_ROWS} at most")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    outcomes = item.config.stash[_OUTCOMES]
    for row in _rows(item):
        tests = outcomes.setdefault(row, {})
        # The worst phase decides: a test that passed and then broke in its teardown failed.
        if report.failed or (report.when == "call") or report.skipped:
            tests[item.nodeid] = report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add this run's results to the last ones, so that a partial run loses nothing."""
    outcomes = session.config.stash[_OUTCOMES]
    if not outcomes:
        return
    ROWS_FILE.parent.mkdir(exist_ok=True)
    # Processes of one run end at about the same time.
    with ROWS_FILE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known: Outcomes = json.loads(ROWS_FILE.read_text()) if ROWS_FILE.exists() else {}
        for row, tests in outcomes.items():
            known.setdefault(row, {}).update(tests)
        ROWS_FILE.write_text(json.dumps(known, indent=1, sort_keys=True))


def _rows(item: pytest.Item) -> list[str]:
    return [row for mark in item.iter_markers("row") for row in mark.args]
