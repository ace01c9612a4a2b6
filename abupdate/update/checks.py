"""The health checks after a boot: executables in required.d and wanted.d.

A check is an executable file; exit code 0 means healthy. A failing check in
`required.d` fails the boot, one in `wanted.d` is told and no more. Both exist
in the slot (/usr/lib/abupdate) and in /etc/abupdate; a file of the owner
replaces one of the same name of the release.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import ProgramError
from abupdate.paths import Paths
from abupdate.run import run

_OUTPUT_TAIL = 2000
_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict; `output` is the end of what it printed."""

    name: str
    required: bool
    passed: bool
    reason: str
    output: str


def run_checks(paths: Paths, timeout: float) -> list[CheckResult]:
    """Run all checks, several at a time, each for `timeout` seconds at most."""
    found = [
        (path, required)
        for folder, required in (("required.d", True), ("wanted.d", False))
        for path in _executables(paths, folder)
    ]
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        running = [pool.submit(_run_one, path, required, timeout) for path, required in found]
        return [check.result() for check in running]


def failures(results: list[CheckResult]) -> list[CheckResult]:
    """The required checks that failed."""
    return [result for result in results if result.required and not result.passed]


def _executables(paths: Paths, folder: str) -> list[Path]:
    by_name: dict[str, Path] = {}
    for base in (paths.vendor, paths.etc):
        directory = base / folder
        if not directory.is_dir():
            continue
        for path in directory.iterdir():
            if path.is_file() and os.access(path, os.X_OK):
                by_name[path.name] = path
    return [by_name[name] for name in sorted(by_name)]


def _run_one(path: Path, required: bool, timeout: float) -> CheckResult:
    try:
        done = run([path], timeout=timeout, ok=range(256))
    except ProgramError as error:
        return CheckResult(path.name, required, False, error.message, error.stderr[-_OUTPUT_TAIL:])
    output = (done.stdout.decode(errors="replace") + done.stderr)[-_OUTPUT_TAIL:].strip()
    passed = done.code == 0
    reason = "ok" if passed else f"exit code {done.code}"
    return CheckResult(path.name, required, passed, reason, output)
