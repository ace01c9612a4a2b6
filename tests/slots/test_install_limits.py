"""Too little memory, and clocks that are wrong, while an install runs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from abupdate.disk.layout import Slot
from abupdate.update import trust
from tests.slots.apart import start_apart
from tests.slots.device import Device
from tests.slots.final import left
from tests.slots.moment import at
from tests.slots.test_install_faults import assert_not_armed


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("size", [48, 64, 72, 76])
def test_memory_that_is_too_little(device: Device, size: int, hard: bool) -> None:
    """Wherever it ends; with a hard limit git has no more either."""
    limit = size << 20
    first = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, "
    first += f"{limit if hard else -1}))"
    process = start_apart(device, "", "install", device.top / "2.bundle", first=first)
    _, said = process.communicate()
    assert process.returncode == 11 or (process.returncode == 0 and size > 48), said
    assert "Traceback" not in said
    if process.returncode:
        assert "memory" in said
        assert_not_armed(device)
    assert device.run("install", device.top / "3.bundle") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("point", ["quarantined", "begun", "materialised", "slot-recorded"])
def test_memory_that_runs_out(
    device: Device,
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    def exhausted() -> None:
        raise MemoryError

    at(monkeypatch, point, exhausted)
    capsys.readouterr()
    assert device.run("install", device.top / "2.bundle") == 11
    said = capsys.readouterr().err
    assert "There is not enough memory" in said
    assert "run it again" in said
    assert "Traceback" not in said
    assert_not_armed(device)
    if point != "quarantined":
        assert device.machine.records.history()[-1].event == "install-failed"
    assert list((device.paths.state / "spool").iterdir()) == []
    assert device.run("install", device.top / "2.bundle") == 0
    assert left(device) == undisturbed


@pytest.mark.row("U28")
@pytest.mark.parametrize("clock", [5.0, 4_102_444_800.0], ids=["1970", "2100"])
def test_a_clock_that_is_wrong(
    device: Device, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    """It makes no difference to what is believed, and the time that counts for that stays."""
    before = trust.not_before(device.paths)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock)
        assert device.run("install", device.top / "2.bundle") == 0
        record = device.machine.records.slot(Slot.B)
        assert record is not None
        assert record.written == clock
        assert left(device) == undisturbed
        device.boot(Slot.B, "trial")
        assert device.run("confirm") == 0
        assert device.run("status") == 0
    believed = trust.not_before(device.paths)
    assert before <= believed < 4_000_000_000
    # Told in the order in which it happened, also when the clock is right again.
    assert device.run("install", device.top / "3.bundle") == 0
    assert trust.not_before(device.paths) >= believed
    events = [entry.event for entry in device.machine.records.history()]
    assert events == ["installed", "confirmed", "installed"]
    assert device.run("verify", "A") == 0


@pytest.mark.parametrize("clock", [5.0, 4_102_444_800.0], ids=["1970", "2100"])
def test_a_clock_that_jumps_in_the_middle(
    device: Device, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    at(monkeypatch, "begun", lambda: monkeypatch.setattr(time, "time", lambda: clock))
    assert device.run("install", device.top / "2.bundle") == 0
    assert left(device) == undisturbed
