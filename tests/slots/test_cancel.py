"""Ending an install that another process runs."""

from __future__ import annotations

import os
import subprocess

import pytest

from abupdate.disk.layout import Slot
from abupdate.errors import DeviceFaultError
from abupdate.update import cancel as cancel_module
from abupdate.update.job import job
from abupdate.update.records import HistoryEntry, now
from tests.slots.apart import start_apart
from tests.slots.device import Device, snapshot


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


def hanging(device: Device, point: str, *command: str) -> subprocess.Popen[str]:
    """A command, an install as a rule, that came as far as this failpoint."""
    words = command or ("install", str(device.top / "2.bundle"))
    process = start_apart(device, f"{point}:hang", *words)
    assert process.stderr is not None
    while f"failpoint {point}" not in (line := process.stderr.readline()):
        assert line, "it ended"
    return process


@pytest.mark.row("U8")
@pytest.mark.parametrize(
    "point",
    ["locked", "quarantined", "trusted", "joined", "begun", "materialise-half", "synced",
     "read-back", "etc-merged", "label-restored", "slot-recorded"],
)  # fmt: skip
def test_cancelled_anywhere(device: Device, point: str, capsys: pytest.CaptureFixture[str]) -> None:
    process = hanging(device, point)
    assert device.run("cancel") == 0
    assert "the booted slot stays what boots next" in capsys.readouterr().out
    _, told = process.communicate()
    assert process.returncode == 143
    assert "Stopped by SIGTERM" in told
    assert not os.path.ismount(device.paths.runtime / "slot")
    assert list((device.paths.state / "spool").iterdir()) == []
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "x")
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("point", ["refs-dropped", "packed"])
def test_tidying_up_is_stopped_as_well(device: Device, point: str) -> None:
    """It takes long on a slow disk, and nobody has asked for it just now."""
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    assert device.run("install", "--no-arm", device.top / "3.bundle") == 0
    process = hanging(device, point, "store", "prune")
    assert device.run("cancel") == 0
    process.communicate()
    assert process.returncode == 143
    assert device.run("store", "prune") == 0
    assert device.run("store", "check") == 0


def test_nothing_to_cancel(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(device)
    assert device.run("cancel") == 3
    assert "No install is running" in capsys.readouterr().err
    (device.paths.runtime / "job.json").write_text('{"job": "install", "pid": 1}')  # a dead one's
    assert device.run("cancel") == 3
    with job(device.paths.runtime, "confirm"):
        assert device.run("cancel") == 7
    assert "'confirm' is running" in capsys.readouterr().err
    assert snapshot(device) == before


def test_what_arms_is_not_stopped(device: Device) -> None:
    """From the first write of arming on."""
    process = hanging(device, "armed")
    with pytest.raises(DeviceFaultError, match="was told to stop, and still runs"):
        cancel_module.cancel(device.machine, patience=0.5)
    assert device.state().trial == "B"
    process.kill()
    process.communicate()


def test_too_late(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was at its end when it was told to stop."""
    process = subprocess.Popen(["sleep", "100"])

    def ended(_fd: int, _number: int) -> None:
        device.machine.records.append(HistoryEntry("installed", now(), "2", Slot.B))
        process.kill()

    monkeypatch.setattr("signal.pidfd_send_signal", ended)
    with job(device.paths.runtime, "install"):
        record = device.paths.runtime / "job.json"
        record.write_text(f'{{"job": "install", "pid": {process.pid}}}')
        assert device.run("cancel") == 3
    assert "Too late: release 2 is installed in slot B." in capsys.readouterr().err
    process.wait()


def test_it_ended_meanwhile(device: Device) -> None:
    """The record of an install that is gone, and whose lock another one has by now."""
    process = subprocess.Popen(["true"])
    process.wait()
    with job(device.paths.runtime, "install"):
        record = device.paths.runtime / "job.json"
        record.write_text(f'{{"job": "install", "pid": {process.pid}}}')
        assert device.run("cancel") == 3
