"""`abupdate info`: all about a bundle, and nothing of it stays."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
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
    # The tool, by two names, and the release's name; not what was only made at another time.
    files = {"added": 0, "removed": 0, "changed": 2, "attributes": 0}
    assert (found["running"], found["changes"]) == ("1", {"packages": [], "files": files})
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


def test_tells_which_packages_change(device: BootDevice, capsys: Capsys, tmp_path: Path) -> None:
    rootfs = make_rootfs(tmp_path / "packed", "5")
    records = rootfs / "var/lib/dpkg"
    records.mkdir(parents=True)
    (records / "status").write_text("Package: curl\nStatus: install ok installed\nVersion: 8.1\n")
    (rootfs / "usr/bin/same").unlink()  # and the file of signers is not there either
    (rootfs / "usr/bin/su").chmod(0o755)
    bundle = make_release(device, rootfs, "5")
    changes = about(device, capsys, bundle.name)["changes"]
    assert changes == {
        "packages": [{"name": "curl", "old": None, "new": "8.1"}],
        "files": {"added": 4, "removed": 2, "changed": 2, "attributes": 1},
    }
    assert device.run("info", bundle) == 0
    said = capsys.readouterr().out
    assert "since 1: files 4 added, 2 changed, 2 removed, 1 with other attributes" in said
    assert "curl is new: 8.1" in said


def test_a_store_without_the_old_release_tells_no_changes(
    device: BootDevice, capsys: Capsys
) -> None:
    """What runs was lost from the store; the rest is told all the same."""
    record = device.machine.records.slot(Slot.A)
    assert record is not None
    device.machine.records.write_slot(replace(record, commit="0" * 64))
    found = about(device, capsys, "2.bundle")
    assert (found["release"], found["running"], found["changes"]) == ("2", "1", None)


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


@pytest.mark.row("S17", "U7")
def test_a_dry_run_tells_what_the_install_then_does(device: BootDevice, capsys: Capsys) -> None:
    """Bytes to fetch and to write, files, space, and the verdict; nothing is touched."""
    before = everything(device)
    bundle = device.top / "3.bundle"
    assert device.run("install", device.top / "2.bundle", "--dry-run") == 0
    assert everything(device) == before
    assert device.run("install", device.top / "2.bundle", "--no-arm") == 0
    before = everything(device)
    capsys.readouterr()
    assert device.run("install", "--dry-run", bundle) == 0
    said = capsys.readouterr().out
    found = about(device, capsys, "3.bundle")
    assert everything(device) == before
    assert f"{found['write_files']} files would be written, {found['kept']} paths stay" in said
    assert "It would be installed. Nothing was changed." in said
    assert "of 45 MiB" in said
    assert device.run("install", bundle) == 0
    detail = device.machine.records.history()[-1].detail
    assert detail["transferred"] == found["transferred"] == bundle.stat().st_size
    assert detail["written"]["bytes"] == found["write"]
    assert detail["written"]["files"] == found["write_files"]


@pytest.mark.row("U7")
def test_a_dry_run_ends_as_the_install_would(device: BootDevice, capsys: Capsys) -> None:
    assert device.run("install", "release/1", "--dry-run") == 3
    assert "Release 1 is what runs now" in capsys.readouterr().out
    trust = device.paths.state / "trust"
    trust.mkdir(exist_ok=True)
    (trust / "floor").write_text("4\n")
    before = everything(device)
    assert device.run("install", device.top / "2.bundle", "--dry-run") == 7
    assert "is older than 4" in capsys.readouterr().out
    assert everything(device) == before
    (trust / "floor").unlink()
    mounted = device.top / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-o", "ro", device.loops[Slot.B], mounted], check=True)
    try:
        assert device.run("install", device.top / "2.bundle", "--dry-run") == 7
        assert "is mounted" in capsys.readouterr().out
    finally:
        subprocess.run(["umount", mounted], check=True)
