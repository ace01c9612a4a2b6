"""Healthy is what stays healthy: checks that are repeated until the verdict is sure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abupdate.health.check import Check, CheckResult, failures, look_at_all


@dataclass(frozen=True)
class Patience:
    """All in seconds. `timeout`: for one check; `wait`: what failing ones get to become healthy;
    `settle`: how long all must then stay so; `interval`: from the end of a look to the next."""

    timeout: float
    wait: float = 0.0
    settle: float = 0.0
    interval: float = 5.0


@dataclass(frozen=True)
class Watched:
    """The last look, how many there were, and how long it took."""

    results: list[CheckResult]
    looks: int
    seconds: float

    @property
    def failed(self) -> list[CheckResult]:
        """The required checks that failed in the last look."""
        return failures(self.results)


def watch(
    checks: Sequence[Check],
    patience: Patience,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Look until all required checks were healthy for `settle` seconds without a break.

    A failure ends it once `wait` seconds have passed since the start, so a check
    that comes and goes ends it too.
    """
    start = clock()
    healthy_since: float | None = None
    looks = 0
    while True:
        results = look_at_all(checks, patience.timeout)
        looks += 1
        now = clock()
        if failures(results):
            healthy_since = None
            left = start + patience.wait - now
        else:
            healthy_since = now if healthy_since is None else healthy_since
            left = healthy_since + patience.settle - now
        if left <= 0:
            return Watched(results, looks, round(now - start, 2))
        sleep(min(patience.interval, left))
