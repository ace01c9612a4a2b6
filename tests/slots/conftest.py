"""A device with a real boot side."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from tests.slots import loop
from tests.slots.boot_device import BootDevice, make_boot_device
from tests.slots.device import make_device, make_release
from tests.slots.rootfs import make_rootfs


@pytest.fixture(scope="package")
def shared_device() -> Iterator[BootDevice]:
    """Tests put it back to what it was."""
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    device = make_boot_device(make_device(top))
    for version in ("2", "3"):
        make_release(device, make_rootfs(top / f"rootfs{version}", version), version)
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
