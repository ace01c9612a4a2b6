"""The disk that the Yocto layer makes starts a device, and the QEMU scripts run it.

The release is the demo's Debian: what a Yocto build would put into it is another matter, and the
disk's parts, what is written outside of them, and the scripts are the same.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import demo_parts
import device
import network
import publisher
import pytest
import release_test
import yocto_disk
from device_vm import DeviceVM
from vm import VM, Disk, Firmware

from abupdate.events import Events
from tests.yocto.wic import assemble

ROOT = Path(__file__).parent.parent.parent
SIZES = yocto_disk.Sizes(boot=64, rescue=32, slot=1024, data=2048)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wic(parts: demo_parts.Parts, images: Path) -> Path:
    """As do_abupdate_parts, wic and what follows it leave it."""
    made = images / "yocto-parts"
    release = yocto_disk.Release(parts.bundles["1"], publisher.key().allowed_signers)
    yocto_disk.make_parts(release, SIZES, yocto_disk.FIRMWARE, made, Events())
    path = assemble(made, SIZES, images / "yocto.wic")
    yocto_disk.finish(path, made)
    return path


@pytest.mark.row("S51")
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_the_disk_starts_and_is_what_it_says(
    wic: Path, parts: demo_parts.Parts, images: Path, firmware: Firmware
) -> None:
    disk = device.copy(wic, images / f"yocto-{firmware}.img")
    with VM([Disk(disk, bootindex=1)], firmware=firmware, accel=parts.accel) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        marker = machine.wait_for_boot()
        assert (marker.release, marker.slot, marker.boot) == ("1", "A", "normal")
        assert machine.settle() == "running"
        machine.run("abupdate", "verify", "A", timeout=600)
        boot = machine.status()["boot"]
        assert {name: boot[name] for name in ("slot", "good", "ustate")} == {
            "slot": "A",
            "good": "Ax",
            "ustate": 0,
        }
        machine.power_off()


@pytest.mark.row("S51")
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_release_is_tried_on_it(
    wic: Path, parts: demo_parts.Parts, tmp_path: Path, firmware: Firmware
) -> None:
    """What `run_image.py test` does."""
    disk = device.copy(wic, tmp_path / "disk.img")
    extra = network.network(0)
    bundle = parts.bundles["2"]
    boots = release_test.play(bundle, disk, tmp_path, firmware, parts.accel, extra=extra)
    assert [(one.release, one.slot, one.boot) for one in boots] == [
        ("1", "A", "normal"),
        ("2", "B", "trial"),
        *[("1", "A", "trial")] * release_test.TRIES,
        ("2", "B", "normal"),
    ]


@pytest.mark.row("S51")
@pytest.mark.parametrize("script", ["run-efi.sh", "run-bios.sh"])
@pytest.mark.parametrize("which", ["yocto", "debian"])
def test_the_scripts_reach_a_login(wic: Path, script: str, which: str) -> None:
    words = [*([str(wic)] if which == "yocto" else []), "--fresh", "--port", "0", "--until-login"]
    done = subprocess.run(
        [ROOT / "qemu" / script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "login:" in done.stdout
