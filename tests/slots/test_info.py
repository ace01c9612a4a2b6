"""`abupdate info`: all about a bundle, and nothing of it stays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from tests.slots.boot_device import BootDevice
from tests.slots.device import make_release
from tests.slots.rootfs import make_rootfs

Capsys = pytest.CaptureFixture[str]


def about(device: BootDevice, capsys: Capsys, bundle: str) -> dict[str, object]:
    capsys.readouterr()
    assert device.run("info", "--json", device.top / bundle) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def everything(device: BootDevice) -> dict[str, str]:
    """A hash of each file of data and ESP, and of slot B."""
    files = [path for top in (device.paths.data, device.paths.esp) for path in top.rglob("*")]
    wanted = [path for path in files if path.is_file()] + [device.loops[Slot.B]]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted}


def test_tells_what_an_install_would_do_and_changes_nothing(
    device: BootDevice, capsys: Capsys
) -> None:
    before = everything(device)
    found = about(device, capsys, "2.bundle")
    assert (found["release"], found["compatible"], found["signer"]) == ("2", "testbox", "release")
    assert (found["slot"], found["write"], found["refused"], found["needs"]) == (
        "B",
        None,
        None,
        [],
    )
    assert found["transferred"] == (device.top / "2.bundle").stat().st_size
    assert everything(device) == before
    assert device.run("install", device.top / "2.bundle") == 0
    # Now it is known what B holds: all that differs is the tool and the release's name.
    found = about(device, capsys, "3.bundle")
    tool = len(b"tool 3\n") * 40_000
    assert (found["write_files"], found["write"]) == (2, tool + len("release 3\n"))
    assert device.run("info", device.top / "3.bundle") == 0
    said = capsys.readouterr().out
    assert "release    3 for testbox" in said
    assert "into slot B: 0.3 MiB in 2 files would be written" in said


def test_tells_why_a_release_is_refused(device: BootDevice, capsys: Capsys, tmp_path: Path) -> None:
    rootfs = make_rootfs(tmp_path / "large", "4")
    (rootfs / "large").write_bytes(bytes(80 << 20))
    bundle = make_release(device, rootfs, "4")
    found = about(device, capsys, bundle.name)
    assert "and the slot" in str(found["refused"])
    assert device.run("info", bundle) == 0
    assert "refused here: The release needs" in capsys.readouterr().out


def test_the_running_release_would_not_be_installed(device: BootDevice, capsys: Capsys) -> None:
    found = about(device, capsys, "1.bundle")
    assert found["refused"] == "Release 1 is what runs now."


def test_nothing_is_told_of_what_nobody_signed(device: BootDevice, capsys: Capsys) -> None:
    before = everything(device)
    text = device.top / "text.bundle"
    text.write_text("no bundle\n")
    capsys.readouterr()
    assert device.run("info", text) == 9
    assert capsys.readouterr().out == ""
    assert everything(device) == before
