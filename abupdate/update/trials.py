"""What the health checks found on each trial boot, kept on data.

One line a boot in `trials/<commit>.jsonl`, written before the machine reboots,
so that a fallback can say why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from abupdate.update.checks import CheckResult, failures
from abupdate.update.records import sync_directory

_MAX_FILE = 4 * 1024 * 1024


@dataclass(frozen=True)
class TrialBoot:
    """One judged boot of a trial. `attempt` counts from 1; `failed` explains each failed check."""

    attempt: int
    time: float
    passed: bool
    failed: tuple[str, ...]


def judge(attempt: int, time: float, results: Sequence[CheckResult]) -> TrialBoot:
    """The line to keep for these results."""
    failed = tuple(
        f"required check '{result.name}' failed: {result.reason}"
        + (f" ({result.output.splitlines()[-1]})" if result.output else "")
        for result in failures(list(results))
    )
    return TrialBoot(attempt, time, not failed, failed)


class Trials:
    """The records under `/data/abupdate/trials`."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "trials"

    def forget(self, commit: str) -> None:
        """Begin anew: a release that is installed again is judged by its new boots."""
        self._path(commit).unlink(missing_ok=True)

    def append(self, commit: str, boot: TrialBoot) -> None:
        """Keep one boot's verdict, flushed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._path(commit).open("ab") as file:
            file.write(json.dumps(asdict(boot)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._directory)

    def boots(self, commit: str) -> list[TrialBoot]:
        """All judged boots of a release's last trial, oldest first."""
        try:
            with self._path(commit).open("rb") as file:
                lines = file.read(_MAX_FILE).splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                value = json.loads(line)
                found.append(TrialBoot(**{**value, "failed": tuple(value["failed"])}))
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def _path(self, commit: str) -> Path:
        return self._directory / f"{commit}.jsonl"


def cause(boots: Sequence[TrialBoot]) -> str:
    """Why a trial was given up, in one line."""
    told = [text for boot in boots for text in boot.failed]
    if not told:
        return "no boot of it reached a verdict"
    return told[-1]
