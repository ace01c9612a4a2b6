"""docs/benchmarks.md has the figures that were measured, and says which aims were not reached."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import report
from bench.report import DOCS


@pytest.fixture
def results() -> dict[str, Any]:
    found = json.loads((DOCS / "benchmarks.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_page_has_the_figures_of_the_results(results: dict[str, Any]) -> None:
    text = (DOCS / "benchmarks.md").read_text()
    assert text == report.page(text, results), "run `make docs`"


@pytest.mark.row("U30")
def test_installs_are_timed_against_others_in_one_run(results: dict[str, Any]) -> None:
    rows = [row for row in results["methods"] if row["group"] == "install"]
    names = " ".join(row["name"] for row in rows)
    for peer in ("RAUC", "SWUpdate", "OSTree", "abupdate, delta", "abupdate, full"):
        assert peer in names
    assert all(len(row["rounds"]) >= 5 for row in rows)
    text = report.text(results)
    assert all(f"| {row['name']} | {row['seconds']:.2f} |" in text for row in rows)


def test_an_aim_that_was_missed_is_said(results: dict[str, Any]) -> None:
    def verdict(ours: float) -> str:
        for row in results["methods"]:
            if row["name"] in ("abupdate", "tar x"):
                row["seconds"] = ours if row["name"] == "abupdate" else 2.0
        lines = report.text(results).splitlines()
        return next(line for line in lines if line.startswith("| full write ÷ `tar x`"))

    assert verdict(2.0).endswith("| ≤ 1.00 | 1.00: yes |")
    assert verdict(3.0).endswith("| ≤ 1.00 | 1.50: no, 1.50 times that |")
