"""What became of each trial boot, kept on data: the post-mortem of a fallback.

`trials/<commit>.jsonl` has a line when a boot of the trial starts, as early as
userland can, and one for its verdict, written before the machine reboots. What
the kernel kept of a crash (pstore) is added by the boot after it. A boot that
started and has no verdict was cut off: by its power, a crash or a reset.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from abupdate.health.check import CheckResult
from abupdate.update.evidence import CRASH
from abupdate.update.records import sync_directory

_MAX_FILE = 8 * 1024 * 1024
_LEVEL_AND_TIME = re.compile(r"^<\d+>\[[ .\d]+\] *")


class Verdict(StrEnum):
    """What a trial boot came to."""

    PASSED = "passed"
    FAILED = "failed"
    UNJUDGED = "unjudged"  # its deadline passed


@dataclass(frozen=True)
class TrialBoot:
    """One boot of a trial. `attempt` counts from 1, and begins anew when it is armed again.

    `started` is seconds since the epoch, `seconds` the time from the start of the
    kernel to the verdict. `reasons` says in a line each what was against it.
    `journal` is the end of its log, `console` what the kernel kept of a crash.
    """

    boot_id: str
    attempt: int
    started: float
    verdict: str | None = None
    seconds: float | None = None
    reasons: tuple[str, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    journal: tuple[str, ...] = ()
    console: tuple[str, ...] = ()

    @property
    def against_it(self) -> bool:
        """Whether anything on record speaks against the release."""
        return self.verdict in (Verdict.FAILED, Verdict.UNJUDGED) or bool(self.console)


@dataclass(frozen=True)
class Judged:
    """The verdict on a boot, with what led to it; the fields of `TrialBoot`."""

    verdict: Verdict
    seconds: float
    reasons: tuple[str, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    journal: tuple[str, ...] = field(default=(), repr=False)


def reasons(failed: Sequence[CheckResult]) -> tuple[str, ...]:
    """A line for each required check that failed."""
    return tuple(
        f"required check '{result.name}' failed: {result.reason}"
        + (f" ({result.output.splitlines()[-1]})" if result.output else "")
        for result in failed
    )


class Trials:
    """The records under `/data/abupdate/trials`."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "trials"

    def forget(self, commit: str) -> None:
        """Begin anew: a release that is installed again is judged by its new boots."""
        self._path(commit).unlink(missing_ok=True)

    def started(self, commit: str, boot: TrialBoot) -> None:
        """Note that a boot began, flushed."""
        started = {"attempt": boot.attempt, "started": boot.started}
        self._append(commit, {"boot_id": boot.boot_id, **started})

    def judged(self, commit: str, boot_id: str, judged: Judged) -> None:
        """Keep one boot's verdict, flushed. A later one takes its place."""
        self._append(commit, {"boot_id": boot_id, **asdict(judged)})

    def crashed(self, commit: str, boot_id: str, console: Sequence[str]) -> None:
        """Add what the kernel kept of the crash that ended a boot."""
        self._append(commit, {"boot_id": boot_id, "console": list(console)})

    def boots(self, commit: str) -> list[TrialBoot]:
        """All boots of a release's last trial, oldest first."""
        try:
            with self._path(commit).open("rb") as file:
                lines = file.read(_MAX_FILE).splitlines()
        except OSError:
            return []
        found: dict[str, TrialBoot] = {}
        for line in lines:
            try:
                told = _decode(json.loads(line))
                boot_id = told.pop("boot_id")
                before = found.get(boot_id) or TrialBoot(boot_id, 0, 0.0)
                found[boot_id] = replace(before, **told)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                continue  # a cut damaged it, or somebody else wrote it
        return list(found.values())

    def _append(self, commit: str, line: dict[str, Any]) -> None:
        # Logs are for root: 0700.
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path(commit).open("ab") as file:
            # A cut may have left a line without its end: an empty one costs nothing.
            file.write(b"\n" + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._directory)

    def _path(self, commit: str) -> Path:
        return self._directory / f"{commit}.jsonl"


def cause(boots: Sequence[TrialBoot]) -> str:
    """Why a trial was given up, in one line."""
    told = [text for boot in boots for text in boot.reasons if boot.against_it]
    if told:
        return told[-1]
    crashed = [boot for boot in boots if boot.console]
    if crashed:
        return f"the kernel crashed: {_crash_line(crashed[-1].console)}"
    if not boots:
        return "no boot of it reached userland"
    return "no boot of it reached a verdict"


def _crash_line(console: Sequence[str]) -> str:
    """The line of a crash that says what it was, without the kernel's level and time."""
    telling = [line for line in console if CRASH.search(line)]
    return _LEVEL_AND_TIME.sub("", (telling or console)[-1])


def _decode(told: dict[str, Any]) -> dict[str, Any]:
    """The fields of a line in their types. Raises for what is none."""
    for name in ("reasons", "journal", "console"):
        if name in told:
            told[name] = tuple(str(text) for text in told[name])
    if "checks" in told:
        told["checks"] = tuple(_check(check) for check in told["checks"])
    if told.get("verdict") is not None:
        told["verdict"] = Verdict(told["verdict"]).value
    for name, kind in (("attempt", int), ("started", float), ("seconds", float)):
        if told.get(name) is not None:
            told[name] = kind(told[name])
    return told


def _check(told: dict[str, Any]) -> CheckResult:
    return CheckResult(
        str(told["name"]),
        bool(told["required"]),
        bool(told["passed"]),
        str(told["reason"]),
        str(told["output"]),
        float(told["seconds"]),
    )
