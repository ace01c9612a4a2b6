"""Fixtures of the VM tests: a new device in a virtual machine, with bundles on a second disk.

    def test_it(new_device: NewDevice) -> None:
        machine = new_device("bios")
        machine.power_on()
        machine.wait_for_boot("1")
        machine.mount_medium()
        machine.install("2.bundle")

Everything that is built is cached in `.cache`; each machine gets a copy of the
disk, and is switched off at the end of the test. What its console said is
shown with a failure.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

QEMU = Path(__file__).resolve().parents[2] / "qemu"
sys.path.insert(0, str(QEMU))

if TYPE_CHECKING:
    from demo_parts import Parts
    from device_vm import DeviceVM
    from vm import Disk, Firmware

    NewDevice = Callable[..., DeviceVM]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder boot machines."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def parts() -> Parts:
    """Releases 1, 2 (good) and 3 (its check fails), bundled; a new device's disk with 1."""
    if os.geteuid() != 0:
        pytest.skip("making root filesystems needs root")
    from demo_parts import Timeline, build

    return build(Timeline())


@pytest.fixture(scope="module")
def new_device(parts: Parts) -> Iterator[NewDevice]:
    """Make a machine: `new_device(firmware, bundles={}, disks=[])`, switched off.

    `bundles` are more files for the medium (name → path); `disks` are attached
    behind the device's own and the medium. It lives until the module's end.
    """
    import cache
    import device
    from device_vm import DeviceVM, make_medium
    from vm import VM, Disk

    with ExitStack() as stack:

        def make(
            firmware: Firmware = "uefi",
            bundles: Mapping[str, Path] | None = None,
            disks: tuple[Disk, ...] = (),
        ) -> DeviceVM:
            name = tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".test-")
            folder = Path(stack.enter_context(name))
            files = {f"{name}.bundle": path for name, path in parts.bundles.items()}
            medium = make_medium(folder / "medium.img", {**files, **(bundles or {})})
            disk = device.copy(parts.disk, folder / "disk.img")
            all_disks = [Disk(disk), Disk(medium, readonly=True), *disks]
            vm = stack.enter_context(VM(all_disks, firmware=firmware, accel=parts.accel))
            stack.callback(lambda: print(vm.serial.tail()))
            return DeviceVM(vm)

        yield make
