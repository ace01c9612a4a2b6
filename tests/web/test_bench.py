"""The benchmark of the page runs, with little of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(180)


@pytest.mark.row("S45")
def test_the_figures_can_be_taken(tmp_path: Path) -> None:
    out = tmp_path / "figures.md"
    words = ["-m", "bench.web_upload", "--quick", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if "is in memory" in done.stderr:
        pytest.skip("a disk is wanted, this folder is in memory")
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    # Times depend on the machine; memory and who was told do not.
    assert "| listeners that were told what is new | 200 | 20 of 20 |" in text
    (memory,) = (line for line in text.splitlines() if line.startswith("| highest resident"))
    assert memory.endswith("| reached |")
