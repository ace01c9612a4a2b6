"""A whole device under Secure Boot: Debian's shim, GRUB and kernel."""

from __future__ import annotations

from pathlib import Path

import demo_parts
import device
import publisher
import pytest
import secure_boot
from device_vm import DeviceVM
from vm import VM


@pytest.mark.row("U32")
def test_device_boots_and_reports(parts: demo_parts.Parts, tmp_path: Path) -> None:
    signers = publisher.key().allowed_signers
    built = device.build(parts.bundles["1"], signers, signed=secure_boot.signed())
    disk = device.copy(built, tmp_path / "disk.img")
    with VM([disk], secure_boot=True, accel=parts.accel) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot("1", "normal")
        assert machine.settle() == "running", vm.serial.tail()
        assert "secureboot: Secure boot enabled" in machine.run("dmesg").stdout
        lockdown = machine.run("cat", "/sys/kernel/security/lockdown").stdout
        assert "[integrity]" in lockdown
        boot = machine.status()["boot"]
        assert (boot["slot"], boot["good"], boot["ustate"]) == ("A", "Ax", 0)
        machine.power_off()
