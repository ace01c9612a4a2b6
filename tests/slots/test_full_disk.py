"""Data, slot or boot partition full at a step of an install: told as such, the old system boots."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from abupdate.update import prepare
from tests.slots.device import SLOT_SIZE, Device, make_release
from tests.slots.final import left
from tests.slots.moment import at
from tests.slots.rootfs import make_rootfs
from tests.slots.test_install_faults import assert_not_armed


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@contextmanager
def small(folder: Path, size: str) -> Iterator[None]:
    """A folder becomes a filesystem of this size with the same content."""
    aside = folder.with_name(f"{folder.name}-aside")
    subprocess.run(["cp", "-a", folder, aside], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
        shutil.rmtree(aside)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# The step that fails first when data is full from this failpoint on.
FULL_FROM = {
    "source-opened": "the quarantine",
    "quarantined": "joining the store",
    "joined": "the intent",
    "begun": "the record of a slot that is being written",
    "read-back": "the copy of /etc",
    "etc-merged": "the record of a slot that is complete",
    "slot-recorded": "what is armed",
}


@pytest.mark.row("U27")
@pytest.mark.parametrize("point", FULL_FROM)
def test_data_that_is_full_from_there_on(
    device: Device,
    undisturbed: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    data = device.paths.data
    with small(data, "4m"):
        before = device.state()
        (data / "etc/A/upper/large").write_bytes(bytes(100_000))
        with monkeypatch.context() as patch:
            at(patch, point, lambda: fill(data))
            capfd.readouterr()
            assert device.run("install", device.top / "2.bundle") == 8
        said = capfd.readouterr().err
        assert "Free space on" in said
        assert "Traceback" not in said
        assert_not_armed(device)
        if list(FULL_FROM).index(point) < 3:
            assert device.state() == before
        assert list((device.paths.state / "spool").iterdir()) == []
        assert not list(data.rglob(".*.new"))
        (data / "ballast").unlink()
        (data / "etc/A/upper/large").unlink()
        assert device.run("install", device.top / "2.bundle") == 0
        assert left(device) == undisturbed


@pytest.mark.parametrize("point", ["armed", "state-backup-written"])
def test_what_is_armed_is_installed_though_no_note_of_it_can_be_made(
    device: Device,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    data = device.paths.data
    with small(data, "4m"):
        at(monkeypatch, point, lambda: fill(data))
        capfd.readouterr()
        assert device.run("install", device.top / "2.bundle") == 0
        assert "No space left on device" in capfd.readouterr().err
        assert device.state().trial == "B"
        assert device.run("verify", "B") == 0


def test_a_boot_partition_that_is_full(
    device: Device, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of the boot state is missing, and there is no room to make it anew."""
    esp = device.paths.esp
    with small(esp, "64k"):
        (esp / "grub/grubenv.bak").unlink()
        before = (esp / "grub/grubenv").read_bytes()
        fill(esp)
        capsys.readouterr()
        assert device.run("install", device.top / "2.bundle") == 8
        said = capsys.readouterr().err
        assert "The boot state could not be written to" in said
        assert "on the boot partition" in said
        assert (esp / "grub/grubenv").read_bytes() == before
        assert_not_armed(device)
        (esp / "ballast").unlink()
        assert device.run("install", device.top / "2.bundle") == 0
        assert left(device) == undisturbed


def test_a_slot_that_is_full(
    device: Device,
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The release needs more than what was reckoned."""
    if not (device.top / "40.bundle").exists():
        rootfs = make_rootfs(device.top / "rootfs40", "40")
        (rootfs / "usr/large").write_bytes(os.urandom(1000) * (SLOT_SIZE // 1000))
        make_release(device, rootfs, "40")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "needed", lambda _: prepare.Need(0, 0))
        capsys.readouterr()
        assert device.run("install", device.top / "40.bundle") == 8
    said = capsys.readouterr().err
    assert "The slot is full" in said
    assert "Make the release smaller" in said
    assert "Traceback" not in said
    assert_not_armed(device)
    assert device.machine.records.history()[-1].event == "install-failed"
    assert device.run("install", device.top / "2.bundle") == 0
    found = left(device)
    for what in ("slot", "boot state", "history"):
        assert found[what] == undisturbed[what]
