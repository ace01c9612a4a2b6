"""What an install refuses changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from abupdate.update.job import job
from tests.slots.device import SLOT_SIZE, Device, hash_of, make_release, snapshot
from tests.slots.forged import Tree, forged_release
from tests.slots.rootfs import make_rootfs


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


def bad_sources(device: Device) -> dict[str, tuple[Path, int, str]]:
    top = device.top
    whole = (top / "2.bundle").read_bytes()
    (top / "short.bundle").write_bytes(whole[: len(whole) // 2])
    (top / "text.bundle").write_text("this is no bundle\n" * 100)
    (top / "empty.bundle").write_bytes(b"")
    if not (top / "stranger.bundle").exists():
        device.publish("keygen", "--out", top / "stranger")
        shutil.copy(top / "stranger/release", top / "keys/stranger")
        (top / "rootfs9").mkdir()
        make_release(device, make_rootfs(top / "rootfs9/x", "9"), "9", key="stranger")
        shutil.copy(top / "9.bundle", top / "stranger.bundle")
    return {
        "truncated": (top / "short.bundle", 9, "whole"),
        "text": (top / "text.bundle", 9, "bundle"),
        "empty": (top / "empty.bundle", 9, "bundle"),
        "missing": (top / "none.bundle", 9, "none.bundle"),
        "unknown signer": (top / "stranger.bundle", 6, "signer"),
    }


@pytest.mark.row("U10")
@pytest.mark.parametrize("case", ["truncated", "text", "empty", "missing", "unknown signer"])
def test_a_bad_bundle_changes_nothing(
    device: Device, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    path, code, says = bad_sources(device)[case]
    before = snapshot(device)
    capsys.readouterr()
    assert device.run("install", path) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert snapshot(device) == before
    assert list((device.paths.state / "spool").iterdir()) == []


@pytest.mark.row("U10")
def test_no_key_is_told_before_anything_is_read(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", device.paths.vendor], check=True)
    try:
        (device.paths.vendor / "config.toml").write_text('[device]\ncompatible = "testbox"\n')
        before = snapshot(device)
        assert device.run("install", device.top / "2.bundle") == 6
        assert "key" in capsys.readouterr().err
        assert snapshot(device) == before
    finally:
        subprocess.run(["umount", device.paths.vendor], check=True)


@pytest.mark.row("U10")
def test_other_refusals_have_their_code(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(device)
    bundle = device.top / "2.bundle"
    second = device.loops.pop(Slot.B)
    assert device.run("install", bundle) == 7
    assert "no other slot" in capsys.readouterr().err
    device.loops[Slot.B] = second
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert device.run("install", bundle) == 7
    assert "root" in capsys.readouterr().err
    monkeypatch.undo()
    with job(device.paths.runtime, "another"):
        assert device.run("install", bundle) == 5
    assert "another" in capsys.readouterr().err
    assert device.run("status", "--no-such-option") == 2
    assert device.run("verify", "C") == 2
    device.paths.cmdline.write_text("abupdate.slot=B root=PARTUUID=0 quiet\n")
    assert device.run("install", bundle) == 7
    assert "disagree" in capsys.readouterr().err
    device.paths.cmdline.write_text("quiet\n")
    assert device.run("status") == 7
    assert snapshot(device) == before


@pytest.mark.row("S29", "S59")
@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_release_that_does_not_fit_is_refused_before_the_first_write(
    device: Device, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    rootfs = device.top / f"rootfs-large-{what}"
    version = "4" if what == "bytes" else "5"
    if not rootfs.exists():
        make_rootfs(rootfs, version)
        if what == "bytes":
            (rootfs / "usr/large").write_bytes(bytes(SLOT_SIZE * 9 // 10))
        for number in range(0 if what == "bytes" else SLOT_SIZE // 16384):
            (rootfs / f"etc/{number}").touch()
        make_release(device, rootfs, version)
    if what == "inodes":  # not even a new one has enough: one for 16 KiB
        words = ["mke2fs", "-q", "-F", "-L", "newB", "-N", "48", str(device.loops[Slot.B])]
        subprocess.run(words, check=True)
    before = hash_of(device.loops[Slot.B])
    capsys.readouterr()
    assert device.run("install", device.top / f"{version}.bundle") == 8
    said = capsys.readouterr().err
    assert ("and the slot" if what == "bytes" else "and 3072 inodes") in said
    assert hash_of(device.loops[Slot.B]) == before
    assert device.state().good == "Ax"


@pytest.mark.parametrize(
    ("options", "size"), [([], ["8M"]), (["-N", "48"], [])], ids=["bytes", "inodes"]
)
def test_a_filesystem_that_is_smaller_than_its_partition_is_made_anew(
    device: Device, options: list[str], size: list[str]
) -> None:
    slot = device.loops[Slot.B]
    subprocess.run(["mke2fs", "-q", "-F", "-L", "rootB", *options, slot, *size], check=True)
    rootfs = device.top / "rootfs-medium"
    if not rootfs.exists():
        make_rootfs(rootfs, "6.1")
        (rootfs / "usr/large").write_bytes(os.urandom(12 << 20))
        for number in range(100):
            (rootfs / f"etc/{number}").touch()
        make_release(device, rootfs, "6.1")
    assert device.run("install", device.top / "6.1.bundle") == 0
    assert device.run("verify", "B") == 0


def test_the_running_release_is_not_installed_again(device: Device) -> None:
    assert device.run("install", device.top / "1.bundle") == 3


@pytest.mark.row("U6")
def test_a_release_for_another_product_or_from_a_newer_one_only_is_refused(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (device.top / "7.bundle").exists():
        rootfs = make_rootfs(device.top / "rootfs-foreign", "7")
        for version, product, more in (
            ("7", "otherbox", ()),
            ("8", "testbox", ("--min-from", "5")),
        ):
            repo = ("--repo", device.publisher, "--version", version)
            device.publish("commit", rootfs, *repo, "--compatible", product, *more)
            device.publish("sign", *repo, "--key", device.top / "keys/release")
            device.publish("bundle", *repo, "-o", device.top / f"{version}.bundle")
    before = snapshot(device)
    capsys.readouterr()
    assert device.run("install", device.top / "7.bundle") == 7
    assert "'otherbox'" in capsys.readouterr().err
    assert device.run("install", device.top / "8.bundle") == 7
    assert "Install release 5 first" in capsys.readouterr().err
    assert snapshot(device) == before


@pytest.mark.row("U5")
def test_the_floor_of_a_confirmed_release_is_kept(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (device.top / "6.bundle").exists():
        rootfs = make_rootfs(device.top / "rootfs-floor", "6")
        shutil.copy(
            device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers"
        )
        repo = ("--repo", device.publisher, "--version", "6")
        device.publish("commit", rootfs, *repo, "--compatible", "testbox", "--floor", "3")
        device.publish("sign", *repo, "--key", device.top / "keys/release")
        device.publish("bundle", *repo, "-o", device.top / "6.bundle")
    assert device.run("install", device.top / "6.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    capsys.readouterr()
    for command in (("install", device.top / "2.bundle"), ("rollback",)):
        before = snapshot(device)
        assert device.run(*command) == 7
        assert "older than 3" in capsys.readouterr().err
        assert snapshot(device) == before


@pytest.mark.row("U5")
def test_an_older_release_wants_a_word_and_is_on_record(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """The floor allows it; nobody wants it by accident."""
    assert device.run("install", device.top / "3.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    before = snapshot(device)
    for source in (device.top / "2.bundle", "release/1"):
        capsys.readouterr()
        assert device.run("install", source) == 7
        said = capsys.readouterr().err
        assert "older than release 3, which runs here" in said
        assert "--allow-downgrade" in said
    assert snapshot(device) == before
    assert device.run("install", "--allow-downgrade", device.top / "2.bundle") == 0
    entry = device.machine.records.history()[-1]
    assert (entry.event, entry.detail["downgrade_from"]) == ("installed", "3")
    capsys.readouterr()
    assert device.run("history") == 0
    assert "release 2        slot A  older than 3, which ran\n" in capsys.readouterr().out


def _a_file_more(tree: Tree) -> None:
    tree["usr/bin/more"] = tree["usr/bin/same"]


def _a_file_less(tree: Tree) -> None:
    del tree["usr/bin/su"]


def _another_kind(tree: Tree) -> None:
    tree["usr/bin/su"] = ("120000", tree["usr/bin/su"][1])


@pytest.mark.parametrize("proven", [False, True])
@pytest.mark.parametrize(
    ("version", "forge"),
    [("20", _a_file_more), ("21", _a_file_less), ("22", _another_kind)],
)
def test_a_manifest_that_disagrees_with_its_tree_is_refused_before_the_first_write(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    version: str,
    forge: Callable[[Tree], None],
    proven: bool,
) -> None:
    """Also when the plan begins from what the slot is known to hold."""
    if proven:
        assert device.run("install", device.top / "2.bundle") == 0
        assert device.run("reject") == 0
    bundle = device.top / f"{version}.bundle"
    if not bundle.exists():
        bundle = forged_release(device, version, forge)
    before = snapshot(device)
    capsys.readouterr()
    assert device.run("install", bundle) == 6
    said = capsys.readouterr().err
    assert "usr/bin/" in said
    assert "Traceback" not in said
    assert snapshot(device) == before


def _other_content(tree: Tree) -> None:
    tree["etc/acl"] = tree["usr/bin/same"]


def test_content_that_the_manifest_does_not_have_is_never_armed(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen where it is written: only then is it read."""
    bundle = forged_release(device, "23", _other_content)
    capsys.readouterr()
    assert device.run("install", bundle) == 6
    assert "other content for etc/acl" in capsys.readouterr().err
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "x")
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0
