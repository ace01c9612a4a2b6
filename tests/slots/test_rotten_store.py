"""Bytes of the store change on the disk: updates go on, and a full bundle makes it whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from tests.slots.device import Device

Capture = pytest.CaptureFixture[str]
# Of a release: its description, its manifest, folders, a file that the others have as well.
OBJECTS = [".abupdate/release.toml", ".abupdate/manifest", "usr/bin", "etc", "", "usr/bin/same"]


def _git(repository: Path, *words: str | Path) -> str:
    argv = ["git", "--git-dir", repository, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def rot(device: Device, release: str, path: str) -> None:
    """Change some bytes of an object, in each pack that has it."""
    store = device.paths.state / "store.git"
    oid = _git(store, "rev-parse", f"refs/tags/release/{release}^{{}}:{path}").strip()
    changed = 0
    for index in sorted((store / "objects/pack").glob("*.idx")):
        for line in _git(store, "verify-pack", "-v", index).splitlines():
            words = line.split()
            if words[:1] == [oid]:
                changed += 1
                pack = index.with_suffix(".pack")
                pack.chmod(0o600)
                with pack.open("r+b") as file:
                    file.seek(int(words[4]) + max(4, int(words[3]) // 2))
                    old = file.read(4)
                    file.seek(-4, 1)
                    file.write(bytes(byte ^ 0x5A for byte in old))
    assert changed


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 runs in A, B holds 2, which was given up; its record proves what B holds."""
    assert plain_device.run("install", plain_device.top / "2.bundle") == 0
    assert plain_device.run("reject") == 0
    return plain_device


@pytest.fixture
def both_good(device: Device) -> Device:
    """Release 3 runs in A, B holds 2, both good; release 1 in the store only."""
    for release, slot in (("2", Slot.B), ("3", Slot.A)):
        again = ("--retry-failed", device.top / f"{release}.bundle")
        assert device.run("install", *again) == 0
        device.boot(slot, "trial")
        assert device.run("confirm") == 0
    assert device.state().good == "AB"
    return device


@pytest.mark.parametrize("path", OBJECTS)
def test_what_the_slot_holds_rots_in_the_store(device: Device, capsys: Capture, path: str) -> None:
    """No plan can be made from it: the slot is looked at, and a full bundle comes in."""
    rot(device, "2", path)
    assert device.run("install", device.top / "3.bundle") == 0, capsys.readouterr().err
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("path", [*OBJECTS, "usr/bin/tool"])
def test_a_stored_release_that_rots_costs_nothing_and_is_made_whole(
    both_good: Device, capsys: Capture, path: str
) -> None:
    device = both_good
    rot(device, "1", path)
    capsys.readouterr()
    if path != "usr/bin/same":  # the slot has that one: it is not read
        assert device.run("install", "--allow-downgrade", "release/1") in (6, 11)
        assert "Traceback" not in capsys.readouterr().err
    assert device.state().good == "AB"
    assert device.run("store", "check") == 10
    whole = ("--allow-downgrade", device.top / "1.bundle")
    assert device.run("install", *whole) == 0, capsys.readouterr().err
    assert device.run("verify", "B") == 0
    assert device.run("reject") == 0
    assert device.run("install", "--retry-failed", "--allow-downgrade", "release/1") == 0


@pytest.mark.parametrize("content", [b"", bytes(65), b"garbage\n"])
def test_a_ref_that_rots(both_good: Device, capsys: Capture, content: bytes) -> None:
    device = both_good
    (device.paths.state / "store.git/refs/tags/release/1").write_bytes(content)
    capsys.readouterr()
    assert device.run("install", "--allow-downgrade", "release/1") == 9
    assert "found 3, 2." in capsys.readouterr().err
    assert device.run("install", "--allow-downgrade", device.top / "1.bundle") == 0
    assert device.run("reject") == 0
    assert device.run("install", "--retry-failed", "--allow-downgrade", "release/1") == 0
