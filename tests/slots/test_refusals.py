"""What is refused before anything is read: told with what to do, and nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abupdate import run
from abupdate.boot.grubenv import Grubenv
from abupdate.disk.find import boot_disk
from abupdate.disk.layout import Slot
from tests.slots import loop
from tests.slots.apart import start_apart
from tests.slots.device import PARTUUIDS, Device, snapshot
from tests.slots.final import left

Situation = Callable[[Device, pytest.MonkeyPatch, ExitStack], object]


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@contextmanager
def mounted(*words: str | Path) -> Iterator[None]:
    subprocess.run(["mount", *words], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", words[-1]], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    with mounted("--bind", folder, folder):
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield


def protect_slot(device: Device, _: pytest.MonkeyPatch, undo: ExitStack) -> None:
    subprocess.run(["blockdev", "--setro", device.other], check=True)
    undo.callback(lambda: subprocess.run(["blockdev", "--setrw", device.other], check=True))


def protect_esp(device: Device, _: pytest.MonkeyPatch, undo: ExitStack) -> None:
    """The boot partition's block device takes no writes."""
    esp, image = device.paths.esp, device.top / "esp-image"
    saved = device.top / "esp-aside"
    shutil.copytree(esp, saved)
    undo.callback(shutil.rmtree, saved)
    with image.open("wb") as file:
        file.truncate(4 << 20)
    undo.callback(image.unlink)
    subprocess.run(["mke2fs", "-q", "-F", "-d", saved, image], check=True)
    protected = loop.attach(image, 0, 4 << 20, "--read-only")
    undo.callback(loop.detach, protected)
    undo.enter_context(mounted("-o", "ro", protected, esp))


def protect_data(device: Device, _: pytest.MonkeyPatch, undo: ExitStack) -> None:
    undo.enter_context(read_only(device.paths.data))


def no_data(device: Device, _: pytest.MonkeyPatch, undo: ExitStack) -> None:
    undo.enter_context(mounted("-t", "tmpfs", "tmpfs", device.paths.data))


def live(device: Device, monkeypatch: pytest.MonkeyPatch, undo: ExitStack) -> None:
    """The root filesystem is in memory, whatever the command line says."""
    monkeypatch.setattr(Device, "_disk", lambda _, root: boot_disk(root))
    undo.enter_context(mounted("-t", "tmpfs", "tmpfs", device.paths.root))
    vendor = device.paths.vendor
    vendor.mkdir(parents=True)
    (vendor / "config.toml").write_text('[device]\ncompatible = "testbox"\n')


def not_ours(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    device.paths.cmdline.write_text("boot=live quiet\n")


def other_slot_claimed(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    partuuid = PARTUUIDS[Slot.A]
    device.paths.cmdline.write_text(f"root=PARTUUID={partuuid} abupdate.slot=B\n")


def other_partition_claimed(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    partuuid = PARTUUIDS[Slot.B]
    device.paths.cmdline.write_text(f"root=PARTUUID={partuuid} abupdate.slot=A\n")


def rescue_claimed(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    device.paths.cmdline.write_text("abupdate.slot=R abupdate.boot=rescue\n")


def write_state(device: Device, **changes: Any) -> None:
    Grubenv(device.paths.esp / "grub").write(replace(device.state(), **changes))


def in_a_trial(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    write_state(device, slot="B", good="xB", trial="A", ustate=1, countdown=2)


def not_good(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    write_state(device, good="xB")


def no_boot_state(device: Device, _: pytest.MonkeyPatch, __: ExitStack) -> None:
    for name in ("grubenv", "grubenv.bak"):
        (device.paths.esp / "grub" / name).write_bytes(b"")


def slot_mounted(device: Device, _: pytest.MonkeyPatch, undo: ExitStack) -> None:
    folder = device.top / "elsewhere"
    folder.mkdir()
    undo.callback(folder.rmdir)
    undo.enter_context(mounted("-o", "ro", device.other, folder))


def slot_held(device: Device, _: pytest.MonkeyPatch, undo: ExitStack) -> None:
    """As swap, RAID and the mounts of a container hold it: not among the mounts seen from here."""
    undo.callback(os.close, os.open(device.other, os.O_RDONLY | os.O_EXCL))


# What a person reads: what was found, and what to do.
SITUATIONS: dict[str, tuple[Situation, tuple[str, str]]] = {
    "write-protected slot": (
        protect_slot, ("Not a writable boot medium", "write-protect switch")),
    "write-protected boot partition": (
        protect_esp, ("Not a writable boot medium", "write-protect switch")),
    "data read-only": (
        protect_data, ("Not a writable boot medium", "mount -o remount,rw")),
    "no data": (no_data, ("The store should be at", "Is the data partition mounted?")),
    "live medium": (live, ("Not a writable boot medium", "start the installed system")),
    "not booted by our GRUB": (
        not_ours, ("there is no abupdate.slot=", "start the installed system")),
    "another slot on the command line": (
        other_slot_claimed, ("The command line says slot B", "while the two disagree; reboot")),
    "another partition on the command line": (
        other_partition_claimed, (PARTUUIDS[Slot.B], "while the two disagree; reboot")),
    "rescue on the command line": (
        rescue_claimed, ("The command line says slot R", "while the two disagree; reboot")),
    "inside a trial": (in_a_trial, ("Slot A runs on trial", "`abupdate confirm`")),
    "booted slot not good": (not_good, ("the boot state has good=xB", "Boot a slot that is good")),
    "no boot state": (no_boot_state, ("The boot state in", "Reboot: GRUB then starts rescue")),
    "slot mounted": (slot_mounted, ("it is mounted at", "Unmount it first: umount")),
    "slot held": (slot_held, ("something has a hold of it", "A container, swap, RAID")),
}  # fmt: skip


@pytest.mark.row("S15", "U27")
@pytest.mark.parametrize("case", SITUATIONS)
def test_refused_with_what_to_do_and_nothing_written(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    arrange, says = SITUATIONS[case]
    with ExitStack() as undo:
        arrange(device, monkeypatch, undo)
        before = _all(device)
        capsys.readouterr()
        for command in (["install", device.top / "2.bundle"], ["arm"]):
            assert device.run(*command) == 7
            said = capsys.readouterr().err
            for words in says:
                assert words in said
            assert "Traceback" not in said
        assert _all(device) == before
        if case != "live medium":
            assert not os.path.ismount(device.machine.mountpoint)


def _all(device: Device) -> tuple[object, ...]:
    """As `snapshot`, and all names on data; what is mounted there may be empty."""
    names = sorted(map(str, device.paths.data.rglob("*")))
    return (*(snapshot(device) if device.paths.state.exists() else ()), names)


@pytest.mark.parametrize("program", sorted(run.PACKAGES))
def test_a_program_that_is_not_installed(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    program: str,
) -> None:
    """Told before anything is read, with the package that has it."""
    for name in run.PACKAGES.keys() - {program}:
        (tmp_path / name).symlink_to(str(shutil.which(name, path=run.SEARCH_PATH)))
    monkeypatch.setattr(run, "SEARCH_PATH", str(tmp_path))
    before = snapshot(device)
    capsys.readouterr()
    assert device.run("install", device.top / "2.bundle") == 11
    said = capsys.readouterr().err
    assert f"This needs {program}, and found none" in said
    assert f"in Debian: {run.PACKAGES[program]})" in said
    assert snapshot(device) == before


@pytest.mark.row("U26")
def test_two_at_once(
    device: Device, capsys: pytest.CaptureFixture[str], undisturbed: dict[str, Any]
) -> None:
    """While an install waits for the rest of its bundle, all else that changes a thing is busy."""
    bundle, pipe = (device.top / "2.bundle").read_bytes(), device.top / "pipe"
    os.mkfifo(pipe)
    first = start_apart(device, "", "install", pipe)
    with pipe.open("wb", buffering=0) as source:
        source.write(bundle[:100])
        while not (device.paths.runtime / "job.json").exists():
            assert first.poll() is None
        before = snapshot(device)
        for words in (["install", device.top / "3.bundle"], ["install", "-"], ["arm"],
                      ["confirm"], ["reject"], ["rollback"], ["info", device.top / "3.bundle"],
                      ["verify", "A"], ["doctor", "--repair"]):  # fmt: skip
            capsys.readouterr()
            assert device.run(*words) == 5, words
            said = capsys.readouterr().err
            assert f"'install' (process {first.pid}) is running" in said
            assert "`abupdate cancel` stops it" in said
        assert device.run("status") == 0
        assert snapshot(device) == before
        source.write(bundle[100:])
    assert first.wait() == 0, first.communicate()
    first.communicate()
    pipe.unlink()
    assert left(device) == undisturbed
    assert device.run("install", device.top / "3.bundle") == 0
