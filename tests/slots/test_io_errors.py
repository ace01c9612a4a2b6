"""A disk that no longer gives back, or takes, what an install needs of it at some step."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from tests.slots import loop
from tests.slots.device import SLOT_SIZE, Device
from tests.slots.moment import at
from tests.slots.test_install_faults import assert_not_armed


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@contextmanager
def own_image(device: Device, image: Path) -> Iterator[None]:
    """Slot B on a file of its own: what is cut off it can no longer be read."""
    good = device.loops[Slot.B]
    with image.open("wb") as file:
        file.truncate(SLOT_SIZE)
    device.loops[Slot.B] = loop.attach(image, 0, SLOT_SIZE)
    try:
        loop.make_ext4(device.loops[Slot.B], Slot.B.unfinished_label)
        yield
    finally:
        loop.detach(device.loops[Slot.B])
        device.loops[Slot.B] = good


# How much of the disk can still be read from there on, and what then ends the install.
UNREADABLE = {
    ("unmounted", 0): 11,  # its check
    ("checked", 0): 11,  # mounting it
    ("checked", 5 << 20): 10,  # reading a file
    ("read-back", 0): 11,  # its label
    ("label-restored", 0): 11,  # its record, without which nothing is armed
}


@pytest.mark.parametrize(("point", "size"), UNREADABLE)
def test_a_slot_that_can_no_longer_be_read(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    point: str,
    size: int,
) -> None:
    image = tmp_path / "image"
    with own_image(device, image):
        with monkeypatch.context() as patch:
            at(patch, point, lambda: os.truncate(image, size))
            capsys.readouterr()
            assert device.run("install", device.top / "2.bundle") == UNREADABLE[point, size]
        said = capsys.readouterr().err
        assert "the disk is failing" in said or "the disk may be failing" in said
        assert "Traceback" not in said
        assert_not_armed(device)
        assert device.machine.records.history()[-1].event == "install-failed"
        os.truncate(image, SLOT_SIZE)  # another disk, empty
        assert device.run("install", device.top / "2.bundle") == 0
        assert device.run("verify", "B") == 0


# What the kernel says of it: a loop device hands on why its own disk takes no more.
WORDS = ("Input/output error", "Read-only file system", "disk of", "No space left on device")


@pytest.mark.parametrize("point", ["source-opened", "quarantined", "joined"])
def test_data_that_no_longer_takes_writes(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    point: str,
) -> None:
    """Its filesystem has room, and the disk beneath fails: no fault of the bundle."""
    data = device.paths.data
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], check=True)
    try:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mke2fs", "-qF", "-t", "ext4", "-J", "size=4", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, data], check=True)
        try:
            subprocess.run(["cp", "-a", f"{device.top}/saved/.", data], check=True)
            subprocess.run(["sync", "-f", data], check=True)

            def fail() -> None:
                with (tmp_path / "ballast").open("wb", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(4096))

            at(monkeypatch, point, fail)
            before = device.state()
            capsys.readouterr()
            assert device.run("install", device.top / "2.bundle") in (7, 8, 11)
            said = capsys.readouterr().err
            assert any(words in said for words in WORDS), said
            assert "Get the bundle again" not in said
            assert "Traceback" not in said
            assert device.state() == before
        finally:
            subprocess.run(["umount", data], check=True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
