"""A health check, what it found, and many of them side by side."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abupdate.errors import AbupdateError

_SIDE_BY_SIDE = 8
# What a check that keeps its own time may be late.
_GRACE = 5.0


class UnhealthyError(AbupdateError):
    """A check's verdict is no. `output` is the end of what a program printed."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


@dataclass(frozen=True)
class Check:
    """One check. `look` gets its time limit in seconds and returns what is fine, in words.

    It raises `UnhealthyError` with what is not; any other fault counts as one too.
    """

    name: str
    required: bool
    look: Callable[[float], str]


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict, in `seconds`; `output` is the end of what it printed."""

    name: str
    required: bool
    passed: bool
    reason: str
    output: str = ""
    seconds: float = 0.0


def failures(results: Sequence[CheckResult]) -> list[CheckResult]:
    """The required checks that failed."""
    return [result for result in results if result.required and not result.passed]


def look_at_all(checks: Sequence[Check], timeout: float) -> list[CheckResult]:
    """Run checks, several at a time, each for `timeout` seconds at most; results in their order.

    A check that does not come back (a mount whose server is gone) is left behind, and fails.
    """
    free = threading.BoundedSemaphore(_SIDE_BY_SIDE)
    return [pending.result() for pending in [_Pending(check, timeout, free) for check in checks]]


class _Pending:
    """A check in a thread of its own, which nobody waits for at the end of the process."""

    def __init__(self, check: Check, timeout: float, free: threading.BoundedSemaphore) -> None:
        self._check, self._timeout = check, timeout
        self._answer: queue.SimpleQueue[CheckResult] = queue.SimpleQueue()
        self._free = free
        free.acquire(timeout=timeout + _GRACE)
        threading.Thread(target=self._run, daemon=True).start()
        self._start = time.monotonic()

    def result(self) -> CheckResult:
        """What it found, as soon as it is known."""
        left = self._start + self._timeout + _GRACE - time.monotonic()
        try:
            return self._answer.get(timeout=max(left, 0.001))
        except queue.Empty:
            late = f"not finished after {self._timeout:g} seconds"
            return CheckResult(self._check.name, self._check.required, False, late)

    def _run(self) -> None:
        start = time.monotonic()
        passed, reason, output = _verdict(self._check, self._timeout)
        seconds = round(time.monotonic() - start, 2)
        check = self._check
        self._answer.put(CheckResult(check.name, check.required, passed, reason, output, seconds))
        try:
            self._free.release()
        except ValueError:
            return  # it came too late, and another took its place


def _verdict(check: Check, timeout: float) -> tuple[bool, str, str]:
    try:
        return True, check.look(timeout), ""
    except UnhealthyError as error:
        return False, error.message, error.output
    except AbupdateError as error:
        return False, error.message, ""
    except Exception as error:  # a check's own fault is a verdict too, never the end of the others
        return False, f"{type(error).__name__}: {error}", ""
