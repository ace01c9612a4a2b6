"""Devices to try things on."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from abupdate.health.check import Check, UnhealthyError
from abupdate.health.watch import Patience
from abupdate.update import evidence, verdict
from abupdate.update.health import HealthCheck
from tests.slots import loop
from tests.slots.boot_device import BootDevice, make_boot_device
from tests.slots.boots import Boots
from tests.slots.device import LARGE, Device, Refused, make_device, make_release, snapshot
from tests.slots.final import left
from tests.slots.rootfs import make_rootfs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need what only root may make."""
    needs = pytest.mark.skipif(
        not loop.have_loop_devices(), reason="needs root and loop devices for real ext4"
    )
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(needs)


@pytest.fixture(scope="package", autouse=True)
def own_mounts() -> None:
    """Tests run side by side."""
    loop.leave_the_mounts_of_others()


@pytest.fixture(scope="package")
def shared_device() -> Iterator[BootDevice]:
    """Tests put it back to what it was."""
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    device = make_boot_device(make_device(top))
    for version in ("2", "3"):
        rootfs = make_rootfs(top / f"rootfs{version}", version)
        shutil.copy(top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers")
        make_release(device, rootfs, version)
    shutil.copytree(device.paths.data, top / "saved", symlinks=True)
    subprocess.run(["chown", "-R", "65534:65534", top / "saved/abupdate/store.git"], check=True)
    yield device
    device.close()


@pytest.fixture
def device(shared_device: BootDevice) -> BootDevice:
    """Release 1 in A, started by GRUB and not judged yet; nothing in B."""
    shared_device.boot(Slot.A, "normal")
    shutil.rmtree(shared_device.paths.data)
    subprocess.run(["cp", "-a", shared_device.top / "saved", shared_device.paths.data], check=True)
    loop.make_ext4(shared_device.loops[Slot.B], Slot.B.unfinished_label)
    shared_device.fill_esp()
    shared_device.power_on()
    return shared_device


@pytest.fixture
def boots(idle_boots: Boots) -> Boots:
    """Release 2 installed into B, nothing booted yet. Only our own check is asked."""
    device = idle_boots.device
    assert device.run("install", device.top / "2.bundle") == 0
    return idle_boots


@pytest.fixture
def idle_boots(device: BootDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boots:
    """Release 1 in A, and nothing in B. Only our own check is asked."""
    found = Boots(device, [], tmp_path)

    def look(_timeout: float) -> str:
        if found.ill:
            raise UnhealthyError(found.ill, "first line\nlast line")
        return "fine"

    checks = HealthCheck([Check("service", True, look)], Patience(5.0))
    monkeypatch.setattr(verdict, "health_check", lambda _machine: checks)
    monkeypatch.setattr(evidence, "boot_id", lambda: f"boot-{found.number}")
    monkeypatch.setattr(evidence, "uptime", lambda: found.uptime)
    monkeypatch.setattr(evidence, "journal_tail", lambda: ("a line of the log",))
    monkeypatch.setattr(evidence, "failed_units", lambda: ("failed: kiosk.service",))
    dumps = evidence.crash_dumps
    monkeypatch.setattr(evidence, "crash_dumps", lambda _root: dumps(tmp_path))
    monkeypatch.setattr(evidence, "boot_is_complete", lambda: False)
    return found


@pytest.fixture(scope="package")
def shared_plain_device() -> Iterator[Device]:
    """A device whose slot B is free; tests put it back to that."""
    # Not in pytest's folder: git runs as another user and must be able to get there.
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    device = make_device(top)
    for version, since in (("2", ["1"]), ("3", [])):
        rootfs = make_rootfs(top / f"rootfs{version}", version)
        shutil.copy(top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers")
        make_release(device, rootfs, version, since=since)
    yield device
    device.close()


@pytest.fixture(scope="module")
def own_releases(shared_plain_device: Device) -> Iterator[None]:
    """What a file of tests publishes is gone after it: others use the same versions."""
    top, publisher = shared_plain_device.top, shared_plain_device.publisher
    saved = top / "saved-publisher"
    if not saved.exists():
        subprocess.run(["cp", "-a", publisher, saved], check=True)
    before = {path.name for path in top.iterdir()}
    keys = {path.name for path in (top / "keys").iterdir()}
    yield
    new = [path for path in top.iterdir() if path.name not in before]
    new += [path for path in (top / "keys").iterdir() if path.name not in keys]
    for path in new:
        if not path.name.startswith("saved") and not os.path.ismount(path):
            subprocess.run(["rm", "-rf", path], check=True)
    shutil.rmtree(publisher)
    subprocess.run(["cp", "-a", saved, publisher], check=True)


@pytest.fixture
def plain_device(shared_plain_device: Device, own_releases: None) -> Device:
    """Release 1 in A, nothing in B, nothing remembered; ESP and data are folders."""
    return put_back(shared_plain_device)


@pytest.fixture
def newer_device(plain_device: Device) -> Device:
    """A device with release 1, whose publisher has released 5 and 6 since.

    All have the same large file; 6 has a small one more.
    """
    device = plain_device
    if not device.top.joinpath("6.bundle").exists():
        for version in "56":
            rootfs = make_rootfs(device.top / f"rootfs{version}", version)
            shutil.copy(
                device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers"
            )
            (rootfs / "usr/large").write_bytes(random.Random(0).randbytes(LARGE))
            make_release(device, rootfs, version)
    return device


@pytest.fixture
def copies(device: Device) -> Iterator[Path]:
    """A folder that the store's user can read."""
    folder = device.top / "copies"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def refused(device: Device, capsys: pytest.CaptureFixture[str]) -> Refused:
    """An install from `source` ends with `code`, says something, and changes nothing."""

    def check(source: str | Path, code: int, says: str) -> None:
        capsys.readouterr()
        before = snapshot(device)
        assert device.run("install", source) == code
        said = " ".join(capsys.readouterr().err.split())
        assert says in said, said
        assert snapshot(device) == before
        spool = device.paths.state / "spool"
        assert not spool.exists() or list(spool.iterdir()) == []

    return check


@pytest.fixture(scope="package")
def undisturbed(shared_plain_device: Device) -> dict[str, Any]:
    """What an install of release 2 leaves that nothing disturbed."""
    device = put_back(shared_plain_device)
    assert device.run("install", device.top / "2.bundle") == 0
    return left(device)


def put_back(shared: Device) -> Device:
    """Release 1 in A, nothing in B, nothing remembered."""
    saved = shared.top / "saved"
    if not saved.exists():
        subprocess.run(["cp", "-a", shared.paths.data, saved], check=True)
        subprocess.run(["cp", "-a", shared.paths.esp, shared.top / "saved-esp"], check=True)
        subprocess.run(["cp", shared.loops[Slot.A], shared.top / "saved-A"], check=True)
    shutil.rmtree(shared.paths.data)
    subprocess.run(["cp", "-a", saved, shared.paths.data], check=True)
    shutil.rmtree(shared.paths.esp)
    subprocess.run(["cp", "-a", shared.top / "saved-esp", shared.paths.esp], check=True)
    shared.machine.unmount_leftovers()
    shared.boot(Slot.A, "normal")
    slot = shared.loops[Slot.A]
    if read_superblock(slot) != read_superblock(shared.top / "saved-A"):  # a test installed into it
        subprocess.run(["umount", shared.paths.root], check=True)
        subprocess.run(["dd", f"if={shared.top}/saved-A", f"of={slot}", "bs=4M", "conv=fsync"],
                       check=True, capture_output=True)  # fmt: skip
        shared.boot(Slot.A, "normal")
    loop.make_ext4(shared.loops[Slot.B], Slot.B.unfinished_label)
    return shared
