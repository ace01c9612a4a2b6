"""Where a person finds the page, as consoles tell it: addresses, and a picture for a camera."""

from __future__ import annotations

import json
from pathlib import Path

from abupdate.errors import AbupdateError

UNIT = Path("/usr/lib/systemd/system/abupdate-web.service")
_PORT = 8080


def has_page() -> bool:
    """Whether this system has the page installed."""
    return UNIT.exists()


def page_addresses() -> list[str]:
    """`http://ADDRESS:8080` of each address that others reach; none without systemd-networkd."""
    from abupdate.run import run

    try:
        told = json.loads(run(["networkctl", "--json=short", "list"]).stdout)
        links = [link for link in told["Interfaces"] if link["Name"] != "lo"]
        parts = [
            one["Address"]
            for link in links
            for one in link.get("Addresses", [])
            if len(one["Address"]) == 4
        ]
    except (AbupdateError, ValueError, KeyError, TypeError):
        return []
    return [f"http://{'.'.join(map(str, address))}:{_PORT}" for address in parts]


def qr_code(text: str) -> str:
    """A picture of it in characters; empty where `qrencode` is not installed."""
    from abupdate.run import run

    try:
        # Black on white, on consoles of any colour; ASCII, for serial ones.
        return run(["qrencode", "--type=ANSI256UTF8", "--margin=2", text]).stdout.decode()
    except (AbupdateError, UnicodeDecodeError):
        return ""
