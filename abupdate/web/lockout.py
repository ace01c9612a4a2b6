"""How often one may guess: per address, and all addresses together. Bounded tables."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5  # wrong guesses of one address before it must wait
FIRST_WAIT, LONGEST_WAIT = 30.0, 900.0  # seconds; each wrong one more doubles it
MOST = 1024  # addresses that are remembered; the one unseen for longest is forgotten
BURST, EACH = 20, 6.0  # guesses of everybody together at once, and then one in so many seconds


@dataclass
class _Guesses:
    wrong: int = 0
    until: float = 0.0
    last: float = 0.0


class Lockout:
    """Asked before each guess, which counts as wrong until `passed` says otherwise."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._table: OrderedDict[str, _Guesses] = OrderedDict()
        self._left, self._filled = float(BURST), clock()

    def begin(self, address: str) -> float:
        """Seconds to wait before a guess may be made; 0: it may, and is counted."""
        now, name = self._clock(), _network(address)
        guesses = self._table.get(name, _Guesses())
        if now - guesses.last > LONGEST_WAIT or now < guesses.last:
            guesses = _Guesses()
        if now < guesses.until:
            return guesses.until - now
        self._left = min(float(BURST), self._left + max(0.0, now - self._filled) / EACH)
        self._filled = now
        if self._left < 1:
            return (1 - self._left) * EACH
        self._left -= 1
        guesses.wrong += 1
        guesses.last = now
        if guesses.wrong >= FREE:
            guesses.until = now + min(LONGEST_WAIT, FIRST_WAIT * 2 ** (guesses.wrong - FREE))
        self._table[name] = guesses
        self._table.move_to_end(name)
        while len(self._table) > MOST:
            self._table.popitem(last=False)
        return 0.0

    def passed(self, address: str) -> None:
        """The guess was right."""
        self._table.pop(_network(address), None)
        self._left = min(float(BURST), self._left + 1)


def _network(address: str) -> str:
    """Whoever has an IPv6 address has 2^64 of them."""
    try:
        found = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return "other"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
