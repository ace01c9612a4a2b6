"""Where others reach this device, as consoles tell it, and a picture of that for a camera.

Read from the kernel: neither iproute2 nor a system bus need be there, in a rescue system least.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

from abupdate.errors import AbupdateError

UNIT = Path("/usr/lib/systemd/system/abupdate-web.service")
_PORT = 8080
_SIOCGIFADDR = 0x8915  # netdevice(7): the IPv4 address of an interface
_REQUEST = 40  # bytes of struct ifreq; the address begins at 20
_INET6 = Path("/proc/net/if_inet6")  # address, index, prefix, scope, flags, name


def has_page() -> bool:
    """Whether this system has the page installed."""
    return UNIT.exists()


def addresses() -> list[tuple[str, str]]:
    """Interface and address of each that has one, without the loopback; IPv4 first."""
    found = [(name, told) for _, name in socket.if_nameindex() if (told := _ipv4(name))]
    lines = _INET6.read_text().splitlines() if _INET6.exists() else []
    found += [
        (fields[5], str(ipaddress.IPv6Address(bytes.fromhex(fields[0]))))
        for fields in map(str.split, lines)
    ]
    return [(name, address) for name, address in found if name != "lo"]


def _ipv4(name: str) -> str | None:
    request = struct.pack(f"{_REQUEST}s", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFADDR, request)
        except OSError:
            return None  # it has none
    return socket.inet_ntoa(answer[20:24])


def page_addresses() -> list[str]:
    """`http://ADDRESS:8080` of each IPv4 address."""
    return [f"http://{address}:{_PORT}" for _, address in addresses() if ":" not in address]


def qr_code(text: str) -> str:
    """A picture of it in characters; empty where `qrencode` is not installed."""
    from abupdate.run import run

    try:
        return run(["qrencode", "--type=ANSI256UTF8", "--margin=2", text]).stdout.decode()
    except (AbupdateError, UnicodeDecodeError):
        return ""
