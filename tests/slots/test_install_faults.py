"""What goes wrong in the middle of an install: the other slot still boots, nothing is armed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from abupdate import failpoints
from abupdate.boot import grubenv, inplace
from abupdate.boot.state import Ustate
from abupdate.disk import filesystem
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from abupdate.events import Events
from abupdate.store.materialise import writers
from abupdate.update import arming
from abupdate.update.slots import Machine
from tests.slots import beneath, loop
from tests.slots.apart import run_apart
from tests.slots.device import SLOT_SIZE, Device
from tests.slots.final import left

# All that an install goes through; the others belong to a confirm, a prune, a first install, a
# repair.
_OTHERS = {"confirmed", "confirm-recorded", "given-up", "rearmed"}
_OTHERS |= {"refs-dropped", "packed", "repacked"}
_OTHERS |= {"table-made", "slot-filled", "data-filled", "esp-written", "rescue-filled"}
_OTHERS |= {"rescue-relabelled", "rescue-written", "rescue-labelled", "reset-folder", "retried"}
_OTHERS |= {"gpt-entries-written", "gpt-half-written", "esp-file-written", "boot-code-half-written"}
_OTHERS |= {"data-checked", "data-made", "store-set-aside", "store-made", "store-fetched"}
_OTHERS |= {"slot-verified", "slot-labelled"}
_OTHERS |= {"rules-written", "rules-summed", "rules-chosen", "rules-offered", "rules-told"}
INSTALL_POINTS = sorted(failpoints.NAMES - _OTHERS)


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@pytest.mark.row("S62", "U29")
@pytest.mark.parametrize("point", INSTALL_POINTS)
def test_killed_anywhere_the_old_slot_boots_and_a_rerun_ends_well(
    device: Device, undisturbed: dict[str, Any], point: str
) -> None:
    if point == "told":  # there must be something to tell: an install that was cut before
        run_apart(device, "begun:kill", "install", device.top / "2.bundle")
    done = run_apart(device, f"{point}:kill", "install", device.top / "2.bundle")
    assert done.returncode == -9, done.stderr
    state = device.state()
    assert state.slot == "A"
    assert "A" in state.good
    assert "B" not in state.good
    superblock = read_superblock(device.loops[Slot.B])
    if state.ustate == Ustate.INSTALLED:
        # Only a slot that is complete is ever armed.
        assert point in ("armed", "state-backup-written")
        assert device.run("verify", "B") == 0
    elif superblock is not None and superblock.label == "rootB":
        assert point in ("label-restored", "slot-recorded", "begin-backup-written")
    assert device.run("install", device.top / "2.bundle") == 0
    assert left(device) == undisturbed
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("point", ["begun", "materialise-half", "read-back", "label-restored"])
def test_an_error_leaves_the_slot_unarmed_and_unmounted(
    device: Device, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:error")
    assert device.run("install", device.top / "2.bundle") == 11
    monkeypatch.delenv(failpoints.VARIABLE)
    assert not os.path.ismount(device.paths.runtime / "slot")
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "x")
    history = device.machine.records.history()
    assert history[-1].event == "install-failed"
    assert device.run("install", device.top / "2.bundle") == 0


def assert_not_armed(device: Device) -> None:
    """The booted slot boots next, and the other is out of `good` and not mounted."""
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "x")
    assert not os.path.ismount(device.paths.runtime / "slot")


BENEATH: dict[str, tuple[str, beneath.Place]] = {
    "data": ("usr/bin/tool", beneath.content),
    "attribute": ("usr/bin/ping", beneath.attributes),
    "symlink": ("usr/bin/sh", beneath.short_symlink),
    "inode of a file": ("usr/bin/su", beneath.mode),
    "inode of a folder": ("etc", beneath.mode),
}


@pytest.mark.parametrize("verify", ["written", "full"])
@pytest.mark.parametrize("what", BENEATH)
def test_what_the_disk_did_not_keep_is_never_armed(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    verify: str,
) -> None:
    """Whatever is damaged after the write, with the filesystem's own check not looking."""
    path, place = BENEATH[what]
    monkeypatch.setattr(filesystem, "check", lambda slot: beneath.change(slot, place(slot, path)))
    capsys.readouterr()
    assert device.run("install", "--verify", verify, device.top / "2.bundle") == 10
    assert f"{path}: " in capsys.readouterr().err
    assert_not_armed(device)
    monkeypatch.undo()
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("what", ["attribute", "symlink", "inode of a file", "inode of a folder"])
def test_the_filesystem_itself_sees_a_damaged_inode(
    device: Device, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path, place = BENEATH[what]
    check = filesystem.check

    def rot(slot: Path) -> None:
        beneath.change(slot, place(slot, path))
        check(slot)

    monkeypatch.setattr(filesystem, "check", rot)
    assert device.run("install", device.top / "2.bundle") == 11
    assert_not_armed(device)


def test_an_io_error_in_the_middle_of_writing(
    device: Device, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The disk beneath slot B has room for its filesystem, but not for what is written."""
    good = device.loops[Slot.B]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", tmp_path], check=True)
    try:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(SLOT_SIZE)
        device.loops[Slot.B] = loop.attach(image, 0, SLOT_SIZE)
        try:
            loop.make_ext4(device.loops[Slot.B], Slot.B.unfinished_label)
            with (tmp_path / "rest").open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            capsys.readouterr()
            assert device.run("install", device.top / "2.bundle") == 11
            said = capsys.readouterr().err
            assert "Input/output error" in said, said
            assert "Traceback" not in said
            assert_not_armed(device)
        finally:
            loop.detach(device.loops[Slot.B])
    finally:
        device.loops[Slot.B] = good
        subprocess.run(["umount", tmp_path], check=True)


def test_a_writer_that_dies(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by the kernel, as when memory runs out."""
    monkeypatch.setattr(writers, "write_file", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    capsys.readouterr()
    assert device.run("install", device.top / "2.bundle") == 11
    assert "A process ended in the middle of its work" in capsys.readouterr().err
    assert_not_armed(device)
    monkeypatch.undo()
    assert device.run("install", device.top / "2.bundle") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_comes_too_late_is_not_told_as_one(
    device: Device, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    arm = arming.arm

    def stopped(machine: Machine, slot: Slot, events: Events) -> None:
        arm(machine, slot, events)
        signal.raise_signal(number)

    monkeypatch.setattr(arming, "arm", stopped)
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.state().trial == "B"
    assert device.machine.records.history()[-1].event == "installed"


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_when_only_the_second_copy_of_the_boot_state_fails_it_is_told_that_it_is_armed(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    """GRUB uses the first one, and tries the slot: that must not be told as if it did not."""
    overwrite = inplace._overwrite

    def failing(path: Path, raw: bytes) -> None:
        if path.name == grubenv.BACKUP and device.state().trial == "B":
            raise OSError(error, os.strerror(error))
        overwrite(path, raw)

    with monkeypatch.context() as patch:
        patch.setattr(inplace, "_overwrite", failing)
        capsys.readouterr()
        assert device.run("install", device.top / "2.bundle") == (
            8 if error == errno.ENOSPC else 11
        )
    said = capsys.readouterr().err
    assert os.strerror(error) in said
    assert "Slot B is armed all the same." in said
    assert device.state().trial == "B"
    assert device.run("verify", "B") == 0
    assert device.run("reject") == 0
    assert_not_armed(device)


@pytest.mark.parametrize("features", ["encrypt,casefold", "quota", "project"])
def test_a_filesystem_that_the_kernel_may_not_know(device: Device, features: str) -> None:
    slot = device.loops[Slot.B]
    subprocess.run(["mke2fs", "-q", "-F", "-O", features, "-L", "rootB", slot], check=True)
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("free", range(0, 44, 4))
def test_a_data_partition_without_room(
    device: Device, capfd: pytest.CaptureFixture[str], free: int
) -> None:
    """Wherever it ends: told as such, and nothing is armed or left behind."""
    data = device.paths.data
    saved = device.top / "elsewhere"
    subprocess.run(["cp", "-a", data, saved], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", data], check=True)
    try:
        subprocess.run(["cp", "-a", f"{saved}/.", data], check=True)
        filesystem = os.statvfs(data)
        left = filesystem.f_bavail * filesystem.f_frsize - (free << 10)
        (data / "ballast").write_bytes(bytes(left))
        capfd.readouterr()
        code = device.run("install", device.top / "3.bundle")
        said = capfd.readouterr().err
        assert code in ((8,) if free < 20 else (0, 8)), said
        assert "Traceback" not in said
        if code:
            assert "Free space on" in said
            assert device.state().trial == "x"
            assert list((device.paths.state / "spool").iterdir()) == []
        assert not os.path.ismount(device.paths.runtime / "slot")
    finally:
        subprocess.run(["umount", data], check=True)
        shutil.rmtree(saved)
