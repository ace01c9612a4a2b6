"""The acceptance rows: marks must name rows that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_marks_name_rows_that_exist() -> None:
    known = set(re.findall(r"^\| ([SU]\d+) \|", (ROOT / "docs/acceptance.md").read_text(), re.M))
    used = {
        row
        for path in (ROOT / "tests").rglob("test_*.py")
        for mark in re.findall(r"mark\.row\(([^)]*)\)", path.read_text())
        for row in re.findall(r"[SU]\d+", mark)
    }
    assert used <= known, sorted(used - known)
    assert len(known) == 62 + 34
