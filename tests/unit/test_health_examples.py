"""The example checks do what their first lines say."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "healthcheck/examples"


def run(name: str, tmp_path: Path, stubs: dict[str, str], **env: str) -> tuple[int, str]:
    for program, body in stubs.items():
        path = tmp_path / program
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    done = subprocess.run(
        [EXAMPLES / name],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def test_all_are_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {"crash-loop", "measurements", "uplink"}
    assert all(os.access(path, os.X_OK) for path in EXAMPLES.iterdir())


@pytest.mark.parametrize(
    ("restarts", "code", "says"),
    [("0", 0, ""), ("2", 0, ""), ("3", 1, "restarted 3 times")],
)
def test_crash_loop(tmp_path: Path, restarts: str, code: int, says: str) -> None:
    asked = f'case "$*" in *NRestarts*a.service) echo {restarts};; *LoadState*) echo loaded;; esac'
    found = run("crash-loop", tmp_path, {"systemctl": asked}, UNIT="a.service")
    assert found[0] == code
    assert says in found[1]


@pytest.mark.parametrize(
    ("route", "ping", "code", "says"),
    [
        ("default via 192.0.2.1 dev eth0", "0", 0, ""),
        ("default via 192.0.2.1 dev eth0", "1", 1, "192.0.2.1 does not answer"),
        ("", "0", 1, "no default route"),
        ("default dev ppp0 scope link", "0", 1, "no default route with a gateway"),
    ],
)
def test_uplink(tmp_path: Path, route: str, ping: str, code: int, says: str) -> None:
    stubs = {"ip": f"echo {route}", "ping": f"exit {ping}"}
    found = run("uplink", tmp_path, stubs)
    assert found[0] == code
    assert says in found[1]


def test_crash_loop_of_a_unit_that_is_not_there(tmp_path: Path) -> None:
    found = run("crash-loop", tmp_path, {"systemctl": "echo not-found"}, UNIT="a.service")
    assert found == (1, "there is no a.service")


def test_measurements(tmp_path: Path) -> None:
    folder = tmp_path / "measurements"
    folder.mkdir()
    nothing = (1, f"no measurement has come in since the boot, in {folder}")
    assert run("measurements", tmp_path, {}, FOLDER=str(folder)) == nothing
    (folder / "a.csv").write_text("1")
    assert run("measurements", tmp_path, {}, FOLDER=str(folder)) == (0, "")
    old = time.time() - 100
    os.utime(folder / "a.csv", (old, old))
    code, says = run("measurements", tmp_path, {}, FOLDER=str(folder), MAX_AGE="50")
    assert code == 1
    assert "100 s old, and should be 50" in says
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 10
    os.utime(folder / "a.csv", (before, before))
    assert run("measurements", tmp_path, {}, FOLDER=str(folder), MAX_AGE="1e9") == nothing
