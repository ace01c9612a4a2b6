"""Commands in a process of their own, to be stopped at a failpoint."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from abupdate import failpoints
from tests.slots.device import Device

TOP = Path(__file__).parent.parent.parent


def start_apart(
    device: Device, failpoint: str, *argv: str | Path, first: str = ""
) -> subprocess.Popen[str]:
    """Start a command that meets a failpoint (`NAME:ACTION`), or none (empty)."""
    return subprocess.Popen(
        command(device, *argv, first=first),
        env={**os.environ, **({failpoints.VARIABLE: failpoint} if failpoint else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )


def command(device: Device, *argv: str | Path, first: str = "") -> list[str]:
    """What starts a command on this device, from `TOP`. `first`: Python for its process before."""
    code = (
        "import pickle, sys\n"
        f"device = pickle.loads(bytes.fromhex({pickle.dumps(device).hex()!r}))\n"
        f"{first}\n"
        "sys.exit(device.run(*sys.argv[1:]))\n"
    )
    return [sys.executable, "-c", code, *map(str, argv)]


def run_apart(
    device: Device, failpoint: str, *argv: str | Path
) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start_apart(device, failpoint, *argv)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
