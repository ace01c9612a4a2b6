"""What others do to a slot between two looks of ours, and what fails after GRUB was told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from abupdate.boot import inplace
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from tests.slots.apart import run_apart, start_apart
from tests.slots.device import Device
from tests.slots.fixed import make_fixed
from tests.slots.moment import at

Capture = pytest.CaptureFixture[str]
_TIME = 10**18


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@contextmanager
def elsewhere(device: Device, slot: Slot, options: str = "rw") -> Iterator[Path]:
    """A slot, mounted by somebody else."""
    target = device.top / "mounted-elsewhere"
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", options, device.loops[slot], target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def _constant(rootfs: Path) -> None:
    """A file that both releases have alike."""
    (rootfs / "srv").mkdir()
    (rootfs / "srv/constant").write_text("the same in both\n")
    for path in ("srv/constant", "srv"):
        os.utime(rootfs / path, ns=(_TIME, _TIME))


@pytest.mark.parametrize("point", ["trusted", "intent-recorded"])
def test_a_slot_that_is_written_after_the_plan_was_made(
    device: Device, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    one, two = (make_fixed(device, {}, change=_constant) for _ in range(2))
    assert device.run("install", one) == 0

    def edit() -> None:
        with elsewhere(device, Slot.B) as mounted:
            (mounted / "srv/constant").write_text("edited by hand\n")
            os.utime(mounted / "srv/constant", ns=(_TIME, _TIME))

    at(monkeypatch, point, edit)
    assert device.run("install", two) == 0
    assert device.machine.records.history()[-1].detail["audited"]
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("options", ["ro", "rw"])
def test_a_slot_that_is_mounted_during_the_download(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: Capture, options: str
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    mounted = elsewhere(device, Slot.B, options)

    def mount() -> None:
        mounted.__enter__()

    at(monkeypatch, "quarantined", mount)
    try:
        before = device.state()
        assert device.run("install", device.top / "3.bundle") == 7
        superblock = read_superblock(device.loops[Slot.B])
    finally:
        mounted.__exit__(None, None, None)
    assert "it is mounted at" in capsys.readouterr().err
    assert superblock is not None
    assert superblock.label == "rootB"
    assert device.state() == before


def test_a_slot_that_is_written_before_it_is_armed(device: Device, capsys: Capture) -> None:
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    with elsewhere(device, Slot.B) as mounted:
        (mounted / "usr/bin/tool").unlink()
    capsys.readouterr()
    assert device.run("arm") == 7
    assert "was written to since" in capsys.readouterr().err
    assert device.state().trial == "x"
    assert device.run("install", device.top / "2.bundle") == 0


_STOPPED = """
import os, signal
from abupdate.store import verify
from abupdate.store.materialise import audit
def stopping(real):
    def stop(fd, name, *more):
        if name == b"tool":
            os.kill(os.getpid(), signal.{})
        return real(fd, name, *more)
    return stop
audit.hash_file = stopping(audit.hash_file)
verify.open_file = stopping(verify.open_file)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("command", ["install", "verify"])
def test_stopped_while_it_looks_at_the_slot(
    device: Device, command: str, name: str, code: int
) -> None:
    """Folders that are open would keep it mounted, and hide why it ended."""
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("reject") == 0
    if command == "install":
        (device.paths.state / "slots/B.json").unlink()
    words = ("install", device.top / "3.bundle") if command == "install" else ("verify", "B")
    process = start_apart(device, "", *words, first=_STOPPED.format(name))
    _, said = process.communicate()
    assert process.returncode == code, said
    assert str(device.paths.runtime) not in Path("/proc/self/mounts").read_text()


def _lose_the_backup(device: Device) -> Path:
    """It cannot be written: a folder is in its place."""
    backup = device.paths.esp / "grub/grubenv.bak"
    backup.unlink()
    (backup / "x").mkdir(parents=True)
    return backup


@pytest.mark.parametrize(
    ("command", "says", "event"),
    [("rollback", "Slot A is armed all the same.", "rollback"),
     ("reject", "It is given up all the same.", "rejected"),
     ("confirm", "It is confirmed all the same.", None)],
)  # fmt: skip
def test_when_the_second_copy_fails_it_is_told_what_is_so(
    device: Device, capsys: Capture, command: str, says: str, event: str | None
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    if command == "rollback":
        assert device.run("confirm") == 0
    backup = _lose_the_backup(device)
    capsys.readouterr()
    assert device.run(command) == 11
    assert says in capsys.readouterr().err
    shutil.rmtree(backup)
    assert event in (None, device.machine.records.history()[-1].event)


def test_when_nothing_can_be_read_back_it_is_said(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(path: Path, limit: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    at(
        monkeypatch,
        "state-primary-written",
        lambda: monkeypatch.setattr(inplace, "read_from_disk", broken),
    )
    capsys.readouterr()
    assert device.run("arm") == 11
    assert "it may be that slot B is armed all the same." in capsys.readouterr().err
    monkeypatch.undo()
    assert device.state().trial == "B"


def test_a_rollback_with_nothing_noted_is_one(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    state = device.paths.state

    def read_only() -> None:
        subprocess.run(["mount", "--bind", state, state], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", state], check=True)

    at(monkeypatch, "state-backup-written", read_only)
    try:
        assert device.run("rollback") == 0
    finally:
        subprocess.run(["umount", state], check=True)
    assert "warning: intent" in capsys.readouterr().err
    assert device.state().trial == "A"


def test_a_rollback_to_a_slot_that_lost_its_label(device: Device, capsys: Capture) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    before = device.state()
    subprocess.run(
        ["tune2fs", "-L", "other", device.loops[Slot.A]], check=True, capture_output=True
    )
    try:
        assert device.run("rollback") != 0
    finally:
        subprocess.run(
            ["tune2fs", "-L", "rootA", device.loops[Slot.A]], check=True, capture_output=True
        )
    assert "Traceback" not in capsys.readouterr().err
    assert device.state() == before


@pytest.mark.parametrize("end", ["reject", "confirm"])
def test_an_install_that_did_not_begin_is_not_what_was_given_up(device: Device, end: str) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    run_apart(device, "intent-recorded:kill", "install", device.top / "3.bundle")
    assert device.state().trial == "B"
    device.boot(Slot.B, "trial")
    assert device.run(end) == 0
    if end == "reject":
        assert [failed.release for failed in device.machine.records.failed()] == ["2"]
        device.boot(Slot.A, "fallback")
        assert device.run("confirm", "--boot") == 0
    intent = device.machine.records.intent()
    assert intent is not None
    assert (intent.release, intent.outcome) == ("3", "unfinished")


def test_a_slot_whose_record_was_cut_is_not_compared(device: Device, capsys: Capture) -> None:
    bundle = make_fixed(device, {"1": "echo x > /etc/out"}, ["etc/out"])
    assert run_apart(device, "label-restored:kill", "install", bundle).returncode == -9
    capsys.readouterr()
    assert device.run("verify", "B") == 7
    assert "the record 'writing'" in capsys.readouterr().err


def test_records_of_a_newer_abupdate_are_read(device: Device) -> None:
    """Release 2 brought one that notes more; it falls back, and is not tried again by itself."""
    assert device.run("install", device.top / "2.bundle") == 0
    for name in ("intent.json", "slots/B.json"):
        path = device.paths.state / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "newer": [1]}))
    device.boot(Slot.B, "trial")
    assert device.run("reject") == 0
    device.boot(Slot.A, "fallback")
    assert device.run("install", device.top / "2.bundle") == 7


@pytest.mark.parametrize(("name", "text"), [("floor", "\0\0"), ("newest", "9" * 30)])
def test_what_is_trusted_rots(device: Device, capsys: Capture, name: str, text: str) -> None:
    path = device.paths.state / "trust" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert device.run("install", device.top / "2.bundle") == 11
    said = capsys.readouterr().err
    assert f"trust/{name} should hold" in said
    assert device.state().good == "Ax"


def test_a_stored_release_clears_what_a_killed_install_left(device: Device) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("reject") == 0
    run_apart(device, "quarantined:kill", "install", device.top / "3.bundle")
    assert list((device.paths.state / "spool").iterdir()) != []
    assert device.run("install", "--retry-failed", "release/2") == 0
    assert list((device.paths.state / "spool").iterdir()) == []


@pytest.mark.parametrize("words", [("info", "release/1"), ("verify", "A"), ("store", "list")])
def test_without_a_store(device: Device, capsys: Capture, words: tuple[str, ...]) -> None:
    store = device.paths.state / "store.git"
    store.rename(store.with_name("away.git"))
    try:
        assert device.run(*words) == 7
    finally:
        store.with_name("away.git").rename(store)
    said = capsys.readouterr().err
    assert "The store should be at" in said
    assert "findmnt" in said
