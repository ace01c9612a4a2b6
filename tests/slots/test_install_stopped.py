"""An install that a signal stops: nothing is left mounted or locked, and a rerun ends the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from abupdate import failpoints
from abupdate import run as run_module
from abupdate.disk import filesystem
from abupdate.update.job import running_job
from tests.slots.device import NOBODY, Device
from tests.slots.final import left
from tests.slots.moment import at
from tests.slots.test_install_faults import INSTALL_POINTS, assert_not_armed

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# From the first write of arming on, no signal stops it (test_cancel, test_install_faults).
STOPPABLE = sorted(set(INSTALL_POINTS) - {"armed", "state-backup-written"})


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@pytest.mark.row("U29")
@pytest.mark.parametrize("point", STOPPABLE)
def test_stopped_anywhere_and_a_rerun_ends_the_same(
    device: Device,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    point: str,
) -> None:
    """By SIGTERM, then once more by SIGINT, on top of what the first one left."""
    for number, code in CODES.items():
        if point == "told":  # there must be something to tell: an install that failed before
            monkeypatch.setenv(failpoints.VARIABLE, "begun:error")
            assert device.run("install", device.top / "2.bundle") == 11
        # The failpoint hangs there, until the signal.
        hang = SimpleNamespace(sleep=lambda _, number=number: signal.raise_signal(number))
        monkeypatch.setattr(failpoints, "time", hang)
        monkeypatch.setenv(failpoints.VARIABLE, f"{point}:hang")
        capsys.readouterr()
        assert device.run("install", device.top / "2.bundle") == code
        assert "topped" in capsys.readouterr().err
        assert_not_armed(device)
        assert running_job(device.paths.runtime) is None
        assert not (device.paths.runtime / "job.json").exists()
        assert list((device.paths.state / "spool").iterdir()) == []
    monkeypatch.delenv(failpoints.VARIABLE)
    assert device.run("install", device.top / "2.bundle") == 0
    assert left(device) == undisturbed


@pytest.mark.parametrize("program", ["mount", "umount"])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_it_mounts_leaves_nothing_mounted(
    device: Device, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, program: str
) -> None:
    """In the moment after the kernel did it, and before we know."""
    run = run_module.run

    def stopped(argv: list[str | Path], **more: Any) -> object:
        done = run(argv, **more) if program == "mount" else None
        if argv[0] == program:
            os.kill(os.getpid(), number)
        return done or run(argv, **more)

    monkeypatch.setattr(filesystem, "run", stopped)
    assert device.run("install", device.top / "2.bundle") == CODES[number]
    assert_not_armed(device)
    assert running_job(device.paths.runtime) is None


@pytest.mark.row("S62")
def test_locks_that_a_killed_git_left(
    device: Device, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rerun is not stopped by them, and removes those that are in its way."""
    store = device.machine.store().path
    ref = store / "refs/tags/release/2.lock"
    quarantine = device.paths.state / "spool/quarantine-0"

    def killed() -> None:
        (quarantine / "objects/pack").mkdir(parents=True)
        for path in (ref, store / "config.lock", store / "HEAD.lock", store / "index.lock",
                     store / "packed-refs.lock", store / "objects/pack/tmp_pack_0",
                     quarantine / "HEAD.lock", quarantine / "objects/pack/tmp_pack_0"):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        for path in (quarantine, *quarantine.rglob("*"), ref.parent, ref):
            os.chown(path, int(NOBODY), int(NOBODY))

    at(monkeypatch, "locked", killed)
    assert device.run("install", device.top / "2.bundle") == 0
    assert left(device) == undisturbed
    assert not ref.exists()
    assert device.run("install", device.top / "3.bundle") == 0


def test_the_quarantine_that_a_killed_install_left_goes_first(device: Device) -> None:
    left = device.paths.state / "spool/quarantine-0123"
    left.mkdir()
    (left / "tmp_pack").write_bytes(bytes(100))
    for path in (left, left / "tmp_pack"):
        os.chown(path, int(NOBODY), int(NOBODY))
    assert device.run("install", "/no/such.bundle") == 9
    assert not left.exists()
