"""A network card for a machine, and the way to its page from this one."""

from __future__ import annotations

import socket

PORT = 8080


def network(port: int) -> list[str]:
    """QEMU's command line: a network card, and the page of the device on a port of this machine.

    Nobody else can reach it there. Port 0: no forwarding.
    """
    forward = f",hostfwd=tcp:127.0.0.1:{port}-:{PORT}" if port else ""
    watchdog = ["-device", "i6300esb"]
    return ["-netdev", f"user,id=net0{forward}", "-device", "virtio-net-pci,netdev=net0", *watchdog]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port
