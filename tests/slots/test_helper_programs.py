"""A program that an install runs is killed, every time or once: the old system boots."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from abupdate import run
from tests.slots.device import Device
from tests.slots.test_install_faults import assert_not_armed

# Killed where its arguments have these words.
KILLED = {
    "git index-pack": "index-pack",
    "git cat-file": "--batch-command",
    "git update-ref": "update-ref",
    "git init": "init",
    "ssh-keygen": "verify",
    "chown": "",
    "tee": "",
    "mv": "",
    "sync": "",
    "rm": "",
    "grub-editenv": "set",
    "tune2fs": "",
    "e2fsck": "-n",
    "mount": "",
}


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


def killed(device: Device, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> Path:
    """Each program from a folder of our own, where this one kills itself."""
    folder = device.top / "programs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for program in run.PACKAGES:
        (folder / program).symlink_to(str(shutil.which(program, path=run.SEARCH_PATH)))
    real = (folder / name).readlink()
    (folder / name).unlink()
    (folder / name).write_text(
        f'#!/bin/sh\ncase "$*" in *{words}*) kill -9 $$;; esac\nexec {real} "$@"\n'
    )
    (folder / name).chmod(0o755)
    monkeypatch.setattr(run, "SEARCH_PATH", str(folder))
    return folder


@pytest.mark.parametrize("which", KILLED)
def test_killed_every_time(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    program = which.partition(" ")[0]
    with monkeypatch.context() as patch:
        killed(device, patch, program, KILLED[which])
        capsys.readouterr()
        assert device.run("install", device.top / "2.bundle") == 11
    said = capsys.readouterr().err
    assert f"'{program} " in said
    assert "signal 9" in said
    assert "prlimit" not in said
    assert "out of memory" in said or "Run the install again" in said
    assert "Traceback" not in said
    assert_not_armed(device)
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize(("program", "words"), [("tune2fs", "newB"), ("e2fsck", "-p")])
def test_a_slot_that_cannot_be_mended_gets_a_new_filesystem(
    device: Device, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    killed(device, monkeypatch, program, words)
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0
