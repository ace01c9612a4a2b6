"""The store over the years: what it keeps, what goes, and whether it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from abupdate.disk.layout import Slot
from abupdate.release.version import Version
from abupdate.store import packs
from tests.slots.apart import run_apart
from tests.slots.device import NOBODY, Device

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 2 confirmed in B, 3 confirmed in A and running; 1 in the store only."""
    device = plain_device
    for release, slot in (("2", Slot.B), ("3", Slot.A)):
        assert device.run("install", device.top / f"{release}.bundle") == 0
        device.boot(slot, "trial")
        assert device.run("confirm") == 0
    return device


def kept(device: Device, capsys: Capture) -> dict[str, list[str]]:
    capsys.readouterr()
    assert device.run("store", "list", "--json") == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {one["release"]: one["wanted_by"] for one in report["releases"]}


def assert_whole(device: Device) -> None:
    assert device.run("store", "check") == 0
    for slot in "AB":
        assert device.run("verify", slot) == 0


def test_what_no_slot_holds_goes(device: Device, capsys: Capture) -> None:
    assert kept(device, capsys) == {"3": ["slot A"], "2": ["slot B"], "1": []}
    before = packs.count(device.machine.store())
    assert before.count == 3
    assert device.run("store", "prune") == 0
    assert "Dropped: 1; " in capsys.readouterr().out
    after = packs.count(device.machine.store())
    assert after.count == 1
    assert after.bytes < before.bytes
    assert kept(device, capsys) == {"3": ["slot A"], "2": ["slot B"]}
    assert_whole(device)
    assert device.machine.records.history()[-1].detail == {"dropped": ["1"]}
    # Again: nothing to do, and the pack stays as it is.
    files = sorted((device.paths.state / "store.git/objects/pack").iterdir())
    assert device.run("store", "prune") == 0
    assert sorted((device.paths.state / "store.git/objects/pack").iterdir()) == files
    capsys.readouterr()
    assert device.run("install", "--allow-downgrade", "release/1") == 9
    assert "found 3, 2." in capsys.readouterr().err
    # Deltas to what is kept still come in.
    assert device.run("install", "--allow-downgrade", device.top / "1.bundle") == 0


def test_the_owner_keeps_more(device: Device, capsys: Capture) -> None:
    device.configure("store.keep=1")
    assert kept(device, capsys)["1"] == ["store.keep"]
    assert device.run("store", "prune") == 0
    assert "Dropped: nothing" in capsys.readouterr().out
    assert device.run("install", "--allow-downgrade", "release/1") == 0


def test_what_an_unfinished_install_wants_stays(device: Device, capsys: Capture) -> None:
    assert run_apart(
        device, "intent-recorded:kill", "install", "--allow-downgrade", "release/1"
    ).returncode == -9  # fmt: skip
    assert kept(device, capsys)["1"] == ["the last install"]


@pytest.mark.parametrize("content", ["", "{commit}"])
def test_what_a_slot_holds_stays_though_its_ref_rots(device: Device, content: str) -> None:
    """The ref names nothing, or what is no tag."""
    refs = device.paths.state / "store.git/refs/tags/release"
    held, running = (device.machine.records.slot(slot) for slot in (Slot.B, Slot.A))
    assert held is not None
    assert running is not None
    (refs / "2").write_text(content.format(commit=held.commit))
    (refs / "2_old").write_text(running.commit)
    assert device.run("store", "prune") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("point", ["refs-dropped", "packed", "repacked"])
def test_cut_in_the_middle_and_done_again(device: Device, capsys: Capture, point: str) -> None:
    before = packs.count(device.machine.store())
    assert run_apart(device, f"{point}:kill", "store", "prune").returncode == -9
    assert_whole(device)
    assert device.run("store", "prune") == 0
    after = packs.count(device.machine.store())
    assert after.count == 1
    assert after.bytes < before.bytes
    assert kept(device, capsys) == {"3": ["slot A"], "2": ["slot B"]}
    assert_whole(device)


def test_what_a_killed_git_left_goes(device: Device) -> None:
    store = device.paths.state / "store.git"
    left = [
        store / "objects/pack/tmp_pack_x", store / "packed-refs.lock",
        store / "refs/tags/release/2.lock", store / "config.lock",
    ]  # fmt: skip
    for path in left:
        path.touch()
        os.chown(path, int(NOBODY), int(NOBODY))
    assert device.run("store", "prune") == 0
    assert not any(path.exists() for path in left)
    assert_whole(device)


def test_without_room_the_packs_stay(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(
        packs, "os", SimpleNamespace(statvfs=lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    )
    assert device.run("store", "prune") == 8
    assert "should be free for a moment, found 4096" in capsys.readouterr().err
    monkeypatch.undo()
    assert device.machine.store().resolve(Version("1").ref) is not None
    assert device.machine.records.history()[-1].event != "pruned"
    assert_whole(device)
    assert device.run("store", "prune") == 0
    assert packs.count(device.machine.store()).count == 1


def _zero_the_middle(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(2000))


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_zero_the_middle, _remove])
def test_damage_is_named(device: Device, capsys: Capture, damage: Callable[[Path], None]) -> None:
    assert device.run("store", "check") == 0
    assert "Whole: 3, 2, 1." in capsys.readouterr().out
    folder = device.paths.state / "store.git/objects/pack"
    damage(max(folder.glob("*.pack"), key=lambda path: path.stat().st_size))
    assert device.run("store", "check") == 10
    said = capsys.readouterr().err
    assert "The store should hold every object of its releases" in said
    assert "release 1" in said
    assert "Traceback" not in said
