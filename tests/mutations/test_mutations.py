"""The boot tests can fail: each patch here breaks a rule, and a test has to see it.

A patch is applied to a copy of the tree; its head says what would happen on a
device, and which judge is asked: the model, or a sweep of real boots.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PATCHES = sorted(HERE.glob("*.patch"))

# What a judge is started with, and what it says when it has seen the difference.
JUDGES = {
    "sweep": (["tests.grub.sweep", "--count", "200", "--first", "--jobs", "1"], "DIFFERS: "),
    "switch": (["tests.grub.switchbox"], "DIFFERS: "),
    "model": (["tests.model", "--quick", "--first"], " states, "),
}
_SECONDS = 300.0


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
@pytest.mark.row("S31")
def test_a_broken_rule_is_seen(patch: Path, tmp_path: Path) -> None:
    for name in ("abupdate", "grub", "qemu", "tests"):
        shutil.copytree(
            PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    subprocess.run(["git", "apply", patch], cwd=tmp_path, check=True, timeout=60)
    seen_by = re.search(r"^Seen by: (.+)$", patch.read_text(), re.MULTILINE)
    assert seen_by is not None
    judge, *options = shlex.split(seen_by[1])
    words, says = JUDGES[judge]
    done = subprocess.run(
        [sys.executable, "-m", *words, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{tmp_path}/qemu"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stdout, done.stdout + done.stderr


def test_there_are_twelve() -> None:
    assert len(PATCHES) >= 12
