"""Branches: what nobody has signed, where the owner of a device wants it."""

from __future__ import annotations

import shutil

import pytest

from abupdate.disk.layout import Slot
from abupdate.paths import Paths
from tests.slots.device import Device, Refused
from tests.slots.rootfs import make_rootfs

TAKEN = 'source.unsigned_branches=["dev"]'


@pytest.fixture
def device(newer_device: Device) -> Device:
    """Release 1 runs, 5 and 6 are out."""
    return newer_device


@pytest.fixture
def source(device: Device) -> str:
    rootfs = device.top / "rootfs-dev"
    if not rootfs.exists():
        make_rootfs(rootfs, "7-dev.1")
        shutil.copy(device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate")
    repo = ("--repo", device.publisher, "--version", "7-dev.1", "--floor", "7-dev.1")
    device.publish("commit", rootfs, *repo, "--compatible", "testbox", "--branch", "dev")
    return f"{device.publisher}#branch/dev"


@pytest.mark.row("S16")
def test_refused_where_it_is_not_asked_for(
    device: Device, source: str, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    refused(source, 7, "Nobody signs a branch, and this device takes none")
    assert device.run("status") == 0
    assert "NOBODY" not in capsys.readouterr().out


@pytest.mark.row("S16")
def test_taken_and_shouted_about_where_it_is(
    device: Device, source: str, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    device.configure(TAKEN)
    assert device.run("install", source) == 0
    assert "NOBODY HAS SIGNED branch dev" in " ".join(capsys.readouterr().err.split())
    assert device.run("status") == 0
    assert "NOBODY HAS SIGNED release 7-dev.1 of slot B" in capsys.readouterr().out
    device.run("doctor")
    assert "store-" not in capsys.readouterr().out
    entry = device.machine.records.history()[-1]
    assert (entry.release, entry.detail["signer"]) == ("7-dev.1", "NOBODY (branch dev)")
    assert device.run("verify", "B") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    assert not (device.paths.state / "trust/floor").exists()
    assert device.run("store", "prune") == 0
    assert device.run("verify", "B") == 0
    capsys.readouterr()
    device.configure(TAKEN)
    assert device.run("status") == 0
    assert "Releases of branch dev are taken though NOBODY SIGNS" in capsys.readouterr().out
    # The owner's word is for one branch, and not for tags that are bad.
    refused(source.replace("dev", "other"), 7, "takes dev without")
    assert device.run("install", device.top / "6.bundle", "--allow-downgrade") == 0
    assert device.run("status") == 0
    assert "NOBODY HAS SIGNED release 7-dev.1 of slot B" in capsys.readouterr().out


def test_shouted_about_however_it_is_written(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = device.top / "dev.toml"
    path.write_text('[source]\n"unsigned\\u005fbranches" = ["dev"]\n')
    monkeypatch.setattr(Paths, "config_files", lambda _: [path])
    assert device.run("status") == 0
    assert "Releases of branch dev are taken though NOBODY SIGNS" in capsys.readouterr().out


def test_another_product(device: Device, source: str, refused: Refused) -> None:
    rootfs = make_rootfs(device.top / "rootfs-devx", "8-dev")
    repo = ("--repo", device.publisher, "--version", "8-dev", "--branch", "dev")
    device.publish("commit", rootfs, *repo, "--compatible", "otherbox")
    device.configure(TAKEN)
    refused(source, 7, "is for 'otherbox'")
