"""Linters, types and import contracts are tests: what they find is red."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="ruff"),
        pytest.param(["ruff", "format", "--check", "."], id="format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["lint-imports"], id="imports"),
    ],
)
def test_linter_finds_nothing(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "owner"),
    [
        ("subprocess", "run.py"),
        ("sh", "run.py"),
        ("pyudev", "disk/find.py"),
        ("parted", "disk/partition.py"),
    ],
)
def test_one_module_owns_each_way_out(module: str, owner: str) -> None:
    users = {
        str(path.relative_to(ROOT / "abupdate"))
        for path in (ROOT / "abupdate").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.split("#")[0].strip() in (f"import {module}", f"import {module}  ")
        or line.strip().startswith((f"from {module} ", f"import {module} "))
    }
    assert users == {owner}
