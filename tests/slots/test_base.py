"""What an install starts from: the release that the record proves, or a look at all of the slot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from tests.slots import beneath
from tests.slots.boot_device import BootDevice


@pytest.fixture
def device(device: BootDevice) -> BootDevice:
    """With release 2 in slot B."""
    assert device.run("install", device.top / "2.bundle") == 0
    return device


def audited(device: BootDevice) -> bool:
    """Whether the last install looked at all of the slot."""
    entry = next(e for e in reversed(device.machine.records.history()) if e.event == "installed")
    return bool(entry.detail["audited"])


@contextmanager
def opened(device: BootDevice, options: str = "rw") -> Iterator[Path]:
    """Slot B, mounted by somebody else."""
    target = device.top / "elsewhere"
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", options, device.loops[Slot.B], target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def test_the_release_before_is_what_an_install_starts_from(device: BootDevice) -> None:
    assert audited(device)
    with opened(device, "ro") as slot:  # as a boot does
        assert (slot / "etc/release").read_text() == "release 2\n"
    assert device.run("install", device.top / "3.bundle") == 0
    assert not audited(device)
    assert device.run("verify", "B") == 0


def _edit(slot: Path) -> None:
    (slot / "usr/bin/same").write_text("edited by hand\n")


def _same_size_and_time(slot: Path) -> None:
    path = slot / "usr/bin/same"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _attribute(slot: Path) -> None:
    os.setxattr(slot / "usr/bin/su", "user.added", b"1")


def _remove(slot: Path) -> None:
    (slot / "usr/bin/tool").unlink()


@pytest.mark.row("S61")
@pytest.mark.parametrize("tamper", [_edit, _same_size_and_time, _attribute, _remove])
def test_what_was_written_through_a_mount_is_found_and_repaired(
    device: BootDevice, tamper: Callable[[Path], None]
) -> None:
    with opened(device) as slot:
        tamper(slot)
    assert device.run("install", device.top / "3.bundle") == 0
    assert audited(device)
    assert device.run("verify", "B") == 0


@pytest.mark.row("S61")
def test_what_changed_beneath_the_filesystem_is_found_by_a_full_verify(
    device: BootDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    beneath.change_content(device.loops[Slot.B], b"the same in all releases\n" * 100)
    capsys.readouterr()
    assert device.run("install", "--verify", "full", device.top / "3.bundle") == 10
    assert "usr/bin/same: content differs" in capsys.readouterr().err
    assert device.state().trial == "x"
    # The record of that slot is not clean now, so that the next one looks at all of it.
    assert device.run("install", device.top / "3.bundle") == 0
    assert audited(device)
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("content", [b"tool 3\n" * 1000, b"release 3\n"])
def test_what_the_disk_did_not_keep_is_never_armed(
    device: BootDevice,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    """By the default read-back, of what was written; the filesystem's own check sees nothing."""
    check = filesystem.check

    def rot(slot: Path) -> None:
        check(slot)
        beneath.change_content(slot, content)

    monkeypatch.setattr(filesystem, "check", rot)
    capsys.readouterr()
    assert device.run("install", device.top / "3.bundle") == 10
    assert ": content differs" in capsys.readouterr().err
    assert device.state().trial == "x"
    assert "B" not in device.state().good


def test_a_slot_that_is_not_as_its_record_says_is_looked_at_after_all(
    device: BootDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    loop_device = device.loops[Slot.B]
    superblock = loop_device.read_bytes()[1024:2048]
    with opened(device) as slot:
        _remove(slot)
    # Somebody covered it up; the check of the filesystem mends the counters.
    with loop_device.open("r+b", buffering=0) as file:
        file.seek(1024)
        file.write(superblock)
    assert device.run("install", device.top / "3.bundle") == 0
    assert audited(device)
    assert "not as its record says" in capsys.readouterr().err
    assert device.run("verify", "B") == 0


def test_a_release_that_the_store_has_lost_is_no_base(device: BootDevice) -> None:
    record, store = device.machine.records.slot(Slot.B), device.machine.store()
    assert record is not None
    for pack in sorted((store.path / "objects/pack").glob("pack-*")):
        if store.has(record.commit):
            pack.unlink()
    assert not store.has(record.commit)
    assert device.run("install", device.top / "3.bundle") == 0
    assert audited(device)
    assert device.run("verify", "B") == 0
