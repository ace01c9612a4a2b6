"""Addresses that answer, a way out, names that resolve."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from abupdate.errors import ProgramError
from abupdate.health.check import UnhealthyError
from abupdate.run import run

_MAX_BODY = 64 * 1024
_MAX_ROUTES = 1024 * 1024
_BAD_REQUEST = 400
# Flags of a route, as in linux/route.h: usable, and one that refuses.
_UP, _REJECT = 0x1, 0x200


def answers(addresses: Sequence[str], timeout: float) -> str:
    """All these http and https addresses answer with a status of 200 to 399.

    No proxy is asked. Redirects are followed.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + timeout
    for address in addresses:
        if not address.startswith(("http://", "https://")):
            raise UnhealthyError(f"{address} is not an address that begins with http")
        left = max(0.1, end - time.monotonic())
        try:
            with opener.open(address, timeout=left) as answer:
                answer.read(_MAX_BODY)
        except urllib.error.HTTPError as error:
            if error.code < _BAD_REQUEST:
                continue  # a redirect to nowhere, or "not modified": it answers
            raise UnhealthyError(f"{address} answers with {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UnhealthyError(f"{address} does not answer: {reason}") from error
    return "all answer"


def default_route(_timeout: float, proc: Path = Path("/proc")) -> str:
    """There is a default route, IPv4 or IPv6."""
    for line in _lines(proc / "net/route")[1:]:
        words = line.split()
        # Destination and mask are 0.
        if len(words) > 7 and words[1] == words[7] == "0" * 8 and _usable(words[3]):
            return f"through {words[0]}"
    for line in _lines(proc / "net/ipv6_route"):
        words = line.split()
        # The kernel has a line of its own for "nowhere", which refuses.
        if len(words) > 9 and words[:2] == ["0" * 32, "00"] and _usable(words[8]):
            return f"through {words[9]}"
    raise UnhealthyError("there is no default route")


def names_resolve(names: Sequence[str], timeout: float) -> str:
    """All these host names have an address."""
    for name in names:
        try:
            done = run(["getent", "ahosts", "--", name], timeout=timeout, ok=range(256))
        except ProgramError as error:
            raise UnhealthyError(f"{name} does not resolve in {timeout:g} seconds") from error
        if done.code:
            raise UnhealthyError(f"{name} does not resolve")
    return "all resolve"


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_UP | _REJECT) == _UP


def _lines(path: Path) -> list[str]:
    try:
        with path.open() as file:
            return file.read(_MAX_ROUTES).splitlines()
    except OSError:
        return []
