"""`make rows`: each acceptance row with its tests and whether they passed in the last run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_ROW = re.compile(r"^\| ([SU]\d+) \|[^|]*\| (.*?) \|.*\| ([^|]+) \|$")
_MARK = re.compile(r"mark\.row\(([^)]*)\)")


def main() -> int:
    rows = [
        match.groups()
        for line in (ROOT / "docs/acceptance.md").read_text().splitlines()
        if (match := _ROW.match(line))
    ]
    last = ROOT / ".cache/rows.json"
    results: dict[str, dict[str, str]] = json.loads(last.read_text()) if last.exists() else {}
    marked = _marked()
    passed = 0
    for row, behaviour, owner in rows:
        tests = {
            name: outcome
            for name, outcome in results.get(row, {}).items()
            if (ROOT / name.partition("::")[0]).exists()
        }
        verdict = _verdict(tests, row in marked)
        passed += verdict == "passed"
        print(f"{row:<4} {verdict:<8} {behaviour}  [{owner.strip()}]")
        for name, outcome in sorted(tests.items()):
            print(f"       {outcome:<8} {name}")
    print(f"{passed} of {len(rows)} rows have passing tests, {len(rows) - passed} are open")
    return 0


def _verdict(tests: dict[str, str], marked: bool) -> str:
    if not tests:
        return "not run" if marked else "open"
    if "failed" in tests.values():
        return "failed"
    return "passed" if "passed" in tests.values() else "skipped"


def _marked() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for mark in _MARK.finditer(path.read_text()):
            found.update(re.findall(r"[SU]\d+", mark[1]))
    return found


if __name__ == "__main__":
    sys.exit(main())
