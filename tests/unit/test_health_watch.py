"""Healthy for N seconds: repeats, patience, and checks that never come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from abupdate.health.check import Check, UnhealthyError, look_at_all
from abupdate.health.watch import Patience, Watched, watch


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def played(answers: str, patience: Patience, required: bool = True) -> Watched:
    """A check that is healthy (`.`) or not (`x`), look by look; the last answer stays."""
    looks: Iterator[str] = iter(answers)
    last = answers[-1]

    def look(_timeout: float) -> str:
        if next(looks, last) == "x":
            raise UnhealthyError("not yet")
        return "fine"

    clock = Clock()
    checks = [Check("service", required, look)]
    return watch(checks, patience, clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize(
    ("answers", "wait", "settle", "healthy", "looks"),
    [
        (".", 0, 0, True, 1),
        ("x", 0, 0, False, 1),
        ("xx.", 30, 0, True, 3),
        ("x", 30, 0, False, 7),
        (".", 0, 10, True, 3),
        (".x", 0, 10, False, 2),  # did not stay so
        (".x.", 30, 10, True, 5),
        (".x.x.x.x.x.x.x.x.x", 30, 10, False, 8),  # comes and goes
        ("xxxxxx.x", 30, 10, False, 8),  # healthy in time, and not for long
    ],
)
def test_a_verdict_is_sure(
    answers: str, wait: float, settle: float, healthy: bool, looks: int
) -> None:
    found = played(answers, Patience(1.0, wait, settle, 5.0))
    assert (not found.failed, found.looks) == (healthy, looks)


def test_a_wanted_check_is_not_waited_for() -> None:
    found = played("x", Patience(1.0, 30.0, 0.0, 5.0), required=False)
    assert (found.looks, found.failed, found.results[0].passed) == (1, [], False)


def test_the_last_look_is_not_put_off_by_a_long_interval() -> None:
    assert played("x", Patience(1.0, 30.0, 0.0, 1000.0)).seconds == 30.0


def test_without_checks_a_boot_is_healthy() -> None:
    assert watch([], Patience(1.0)).failed == []


def test_a_check_that_never_comes_back_fails_and_holds_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("abupdate.health.check._GRACE", 0.2)
    for_ever = threading.Event()

    def hang(_timeout: float) -> str:
        for_ever.wait(60)
        return "late"

    checks = [Check(str(number), True, hang) for number in range(20)]
    checks.append(Check("good", True, lambda _timeout: "fine"))
    start = time.monotonic()
    results = look_at_all(checks, 0.2)
    for_ever.set()
    assert time.monotonic() - start < 20
    assert [r.passed for r in results] == [False] * 20 + [True]


def test_a_check_with_a_fault_of_its_own_fails_alone() -> None:
    def broken(_timeout: float) -> str:
        raise KeyError("odd")

    results = look_at_all([Check("a", True, broken), Check("b", True, lambda _: "fine")], 1.0)
    assert [(r.passed, r.reason) for r in results] == [(False, "KeyError: 'odd'"), (True, "fine")]
