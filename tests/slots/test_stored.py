"""`install release/VERSION`: a release that an earlier install left in the store."""

from __future__ import annotations

import shutil

import pytest

from abupdate.disk.layout import Slot
from tests.slots import loop
from tests.slots.device import Device, Refused
from tests.slots.moment import passing

# How the bytes of a release are had, and hashed: by a bundle's way in, or in the store.
_READING = ("receive", "check-store")


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@pytest.mark.row("S30")
def test_upgrade_and_downgrade_take_the_same_steps(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 2 and 3 by bundles, to 1 and 2 from the store: the same failpoints in one order."""
    passed: list[str] = []
    traces: list[tuple[list[str], list[str]]] = []
    passing(monkeypatch, passed.append)
    bundles = [device.top / f"{release}.bundle" for release in "23"]
    for source, release, slot in (
        (bundles[0], "2", Slot.B),
        (bundles[1], "3", Slot.A),
        ("release/1", "1", Slot.B),
        ("release/2", "2", Slot.A),
    ):
        passed.clear()
        assert device.run("install", "--allow-downgrade", source) == 0
        entry = device.machine.records.history()[-1]
        assert (entry.release, entry.slot) == (release, slot)
        steps = [name for name in entry.detail["seconds"] if name not in _READING]
        traces.append((passed[:], steps))
        device.boot(slot, "trial")
        assert device.run("confirm") == 0
        assert device.state().slot == slot
    assert traces[0][0][:4] == ["locked", "source-opened", "quarantined", "trusted"]
    assert traces[0] == traces[1] == traces[2] == traces[3]


def test_only_what_the_store_has(
    device: Device, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    refused("release/2", 9, "The store should have release 2, found 1.")
    refused("release/../1", 2, "A version is dotted numbers")
    assert device.run("install", "release/1") == 3
    assert "Release 1 is what runs now." in capsys.readouterr().err


def test_a_release_that_was_given_up(
    device: Device, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("reject") == 0
    capsys.readouterr()
    assert device.run("info", "release/2") == 0
    assert "tried here and given up" in capsys.readouterr().out
    refused("release/2", 7, "--retry-failed")
    assert device.run("install", "--retry-failed", "release/2") == 0
    assert device.run("verify", "B") == 0


def test_its_key_is_asked_again(device: Device, refused: Refused) -> None:
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    trust = device.paths.state / "trust"
    trust.mkdir(exist_ok=True)
    shutil.copy(device.top / "keys/release.pub", trust / "revoked")
    refused("release/2", 6, "revoked")


def test_a_store_that_rots(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """What it hands out is hashed: nothing of it is armed."""
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    loop.make_ext4(device.loops[Slot.B], Slot.B.unfinished_label)
    before = device.state()
    for path in (device.paths.state / "store.git" / "objects").rglob("*.pack"):
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 3)
            file.write(bytes(path.stat().st_size // 3))
    assert device.run("install", "release/2") in (6, 9, 11)
    assert "Traceback" not in capsys.readouterr().err
    assert device.state() == before


def test_rollback_to_a_release(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """The other slot's is armed as it is; an older one comes from the store."""
    for release, slot in (("2", Slot.B), ("3", Slot.A)):
        assert device.run("install", device.top / f"{release}.bundle") == 0
        device.boot(slot, "trial")
        assert device.run("confirm") == 0
    assert device.run("rollback", "2") == 0
    assert device.machine.records.history()[-1].event == "rollback"
    assert device.state().trial == Slot.B
    assert device.run("reject") == 0
    assert device.run("rollback", "1") == 0
    entry = device.machine.records.history()[-1]
    assert (entry.event, entry.release, entry.detail["downgrade_from"]) == ("installed", "1", "3")
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    assert device.run("rollback", "77") == 9
    assert device.run("rollback", "no version") == 2
    assert "Traceback" not in capsys.readouterr().err
