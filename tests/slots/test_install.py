"""What an install does, and what comes after it, on real ext4 slots."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from abupdate.boot.state import Ustate
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from tests.slots import beneath
from tests.slots.device import Device, hash_of, make_release
from tests.slots.rootfs import make_rootfs


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


def status(device: Device, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert device.run("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.mark.row("S1", "S38")
def test_an_install_makes_the_other_slot_equal_to_the_commit(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hash_of(device.loops[Slot.A])
    uuid = read_superblock(device.loops[Slot.B])
    assert device.run("install", device.top / "2.bundle") == 0
    said = capsys.readouterr().out
    assert "release 2" in said.lower()
    assert "on trial" in said
    assert hash_of(device.loops[Slot.A]) == before
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "B")
    assert (state.ustate, state.countdown) == (Ustate.INSTALLED, 3)
    superblock = read_superblock(device.loops[Slot.B])
    assert superblock is not None
    assert uuid is not None
    assert superblock.label == "rootB"
    assert superblock.uuid != uuid.uuid
    assert device.run("verify", "B") == 0
    found = status(device, capsys)
    assert found["slots"]["B"]["release"] == "2"  # type: ignore[index]
    assert found["last_install"]["outcome"] == "installed, on trial"  # type: ignore[index]


@pytest.mark.row("S2")
def test_a_byte_changed_beneath_the_filesystem_is_named(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    beneath.change_content(device.loops[Slot.B], b"tool 2\n" * 1000)
    capsys.readouterr()
    assert device.run("verify", "B") == 10
    assert "usr/bin/tool: content differs" in capsys.readouterr().err


@pytest.mark.row("S34")
def test_confirm_needs_passing_checks_and_resets_the_countdown(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    check = device.paths.etc / "required.d" / "50-app"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", device.paths.root / "etc"], check=True)
    try:
        check.parent.mkdir(parents=True)
        check.write_text("#!/bin/sh\necho no answer; exit 3\n")
        check.chmod(0o755)
        quick = "[health]\nwait = 0.0\n[confirm]\nsettle = 1\n"
        (device.paths.etc / "config.toml").write_text(quick)
        assert device.run("check", "--boot") == 7
        assert device.state().ustate == Ustate.INSTALLED
        check.write_text("#!/bin/sh\nexit 0\n")
        assert device.run("check", "--boot") == 0
        assert device.run("confirm", "--boot") == 0
    finally:
        subprocess.run(["umount", device.paths.root / "etc"], check=True)
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("B", "AB", "x")
    assert (state.ustate, state.countdown) == (Ustate.OK, 8)
    found = status(device, capsys)
    assert found["last_install"]["outcome"] == "confirmed"  # type: ignore[index]
    tags = device.machine.store().refs("refs/tags")
    booted = [commit for name, commit in tags.items() if name.startswith("refs/tags/booted-")]
    assert booted == [found["booted"]["commit"]]  # type: ignore[index]
    assert device.run("confirm") == 3


@pytest.mark.row("U16")
def test_what_an_install_did_is_kept(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = device.top / "2.bundle"
    assert device.run("install", bundle) == 0
    capsys.readouterr()
    assert device.run("history", "--json") == 0
    entry = json.loads(capsys.readouterr().out)["entries"][-1]
    detail = entry["detail"]
    assert (entry["event"], entry["release"], entry["slot"]) == ("installed", "2", "B")
    assert detail["source"] == str(bundle)
    assert detail["signer"] == "release"
    assert detail["transferred"] == bundle.stat().st_size
    assert detail["written"]["files"] > 10
    assert detail["written"]["bytes"] > 300_000
    steps = ["trust", "receive", "plan", "store", "begin", "write", "verify", "etc", "mark", "arm"]
    assert [step for step in detail["seconds"] if step in steps] == steps
    assert sum(detail["seconds"].values()) > 0
    assert device.run("history") == 0
    said = capsys.readouterr().out
    assert "installed" in said
    assert "2" in said


def test_rollback_reject_and_history(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.run("rollback") == 7  # nothing to go back to yet
    assert device.run("reject") == 7
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("install", device.top / "3.bundle") == 7  # from inside a trial
    assert device.run("confirm") == 0
    assert device.run("rollback") == 0
    assert device.state().trial == "A"
    assert device.run("reject") == 0
    state = device.state()
    assert (state.slot, state.good, state.ustate) == ("B", "xB", Ustate.FAILED)
    capsys.readouterr()
    assert device.run("history", "--json") == 0
    events = [entry["event"] for entry in json.loads(capsys.readouterr().out)["entries"]]
    assert events == ["installed", "confirmed", "rollback", "rejected"]


def test_install_without_arming_waits_for_arm(device: Device) -> None:
    assert device.run("arm") == 7
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    assert device.state().ustate == Ustate.OK
    assert device.run("arm") == 0
    assert device.state().trial == "B"
    assert device.run("arm") == 3


def test_a_second_install_replaces_the_armed_one(device: Device) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("install", device.top / "3.bundle") == 0
    state = device.state()
    assert (state.trial, state.countdown) == ("B", 3)
    record = device.machine.records.slot(Slot.B)
    assert record is not None
    assert record.release == "3"
    assert device.run("verify", "B") == 0


def test_a_confirm_drops_what_was_kept_of_data(device: Device) -> None:
    """By the initramfs, to be put back after a fallback."""
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(device.booted.other, "trial")
    snapshot = device.paths.state / "snapshot"
    (snapshot / "1.kept").mkdir(parents=True)
    (snapshot / "complete").write_text("B\n")
    assert device.run("confirm") == 0
    assert not snapshot.exists()


def test_etc_changes_go_along_and_stay_behind(device: Device) -> None:
    upper = device.paths.data / "etc/A/upper"
    (upper / "hostname").write_text("mine\n")
    os.setxattr(upper / "hostname", "trusted.overlay.origin", b"lower A")
    os.mknod(upper / "acl", 0o020000, 0)
    assert device.run("install", device.top / "2.bundle") == 0
    other = device.paths.data / "etc/B/upper"
    assert (other / "hostname").read_text() == "mine\n"
    assert "trusted.overlay.origin" not in os.listxattr(other / "hostname")
    assert "trusted.overlay.origin" in os.listxattr(upper / "hostname")
    assert (other / "acl").lstat().st_mode == 0o020000
    assert (device.paths.data / "etc/B/work").is_dir()


@pytest.mark.row("S60")
def test_a_blob_that_three_paths_share_is_there_as_long_as_one_needs_it(device: Device) -> None:
    """Two of them go, one moves, one comes back; the disk takes the bundle and little more."""
    large = random.Random(60).randbytes(300_000)
    for version, names in (("60", ["one", "two", "three"]), ("61", ["moved"]), ("62", ["two"])):
        rootfs = make_rootfs(device.top / f"rootfs{version}", version)
        shutil.copy(
            device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers"
        )
        for name in names:
            (rootfs / "usr" / name).write_bytes(large)
        bundle = make_release(device, rootfs, version)
        before = disk_usage(device.paths.data)
        assert device.run("install", "--verify", "full", bundle) == 0
        assert disk_usage(device.paths.data) - before < 1.1 * bundle.stat().st_size + 65536
        device.boot(device.booted.other, "trial")
        assert device.run("confirm") == 0
        there = {path.name for path in device.paths.root.joinpath("usr").iterdir()}
        assert there & {"one", "two", "three", "moved"} == set(names)
        assert device.run("verify") == 0


def disk_usage(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
