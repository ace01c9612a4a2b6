"""`make vm`: a device with release 1 in a virtual machine, its console on this terminal.

The user is `demo` (in the group sudo), the password is made anew for every run
and printed first. The bundles are on a second disk:

    sudo mount LABEL=medium /mnt
    sudo abupdate install /mnt/2.bundle && sudo reboot
"""

from __future__ import annotations

import secrets
from pathlib import Path

import device
from demo_parts import Parts
from device_vm import make_medium
from network import free_port, network
from vm import VM, Disk, Firmware


def run(parts: Parts, folder: Path, firmware: Firmware, display: str = "none") -> int:
    """Run the machine until it is switched off; QEMU's exit code.

    Its disk is a copy in `folder`. `display` is QEMU's: none, gtk, sdl, vnc=….
    """
    disk = device.copy(parts.disk, folder / "disk.img")
    files = {f"{name}.bundle": path for name, path in parts.bundles.items()}
    medium = Disk(make_medium(folder / "medium.img", files), readonly=True)
    password = secrets.token_hex(4)
    port = free_port()
    with VM(
        [disk, medium],
        firmware=firmware,
        accel=parts.accel,
        password=password,
        display=display,
        extra=network(port),
    ) as vm:
        print(f"\nLog in as demo with the password {password}; Ctrl-a x switches off.")
        print(f"The page: http://localhost:{port}, its first password by `sudo abupdate web code`.")
        print((__doc__ or "").split("\n\n")[-1].rstrip(), end="\n\n", flush=True)
        return vm.run_on_terminal()
