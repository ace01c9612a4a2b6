"""TLS handshakes that have not ended: bounded in time and number, as all else is.

Until a handshake is done nobody but the event loop knows of a connection, which waits a minute for
it. So they are counted where they are accepted; limits.py counts them from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn


@dataclass(frozen=True)
class _Begun:
    connection: socket.socket
    end: asyncio.TimerHandle


class Handshakes:
    """Those that have begun: each may take `seconds`, one address may have `per_address`."""

    def __init__(self, seconds: float, most: int, per_address: int) -> None:
        self._seconds, self._most, self._per_address = seconds, most, per_address
        self._begun: dict[Any, _Begun] = {}

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._begun)

    def begin(self, connection: socket.socket, peer: Any) -> bool:
        """One was accepted from `peer`, as socket(7) names it. False: there are too many."""
        for name, one in list(self._begun.items()):
            if one.connection.fileno() < 0:  # it left before it had ended
                self.ended(name)
        same = sum(name[0] == peer[0] for name in self._begun)
        if len(self._begun) >= self._most or same >= self._per_address:
            return False
        end = asyncio.get_running_loop().call_later(self._seconds, self._give_up, peer)
        self._begun[peer] = _Begun(connection, end)
        return True

    def ended(self, peer: Any) -> None:
        """It is a connection now, or gone."""
        one = self._begun.pop(peer, None)
        if one is not None:
            one.end.cancel()

    def _give_up(self, peer: Any) -> None:
        one = self._begun.pop(peer)
        with contextlib.suppress(OSError):  # the event loop finds its end, and closes it
            one.connection.shutdown(socket.SHUT_RDWR)


class _Door(socket.socket):
    """A listening socket that tells whom it accepts."""

    def __init__(self, listening: socket.socket, handshakes: Handshakes) -> None:
        super().__init__(fileno=listening.detach())
        self._handshakes = handshakes

    def accept(self) -> tuple[socket.socket, Any]:
        connection, peer = super().accept()
        if not self._handshakes.begin(connection, peer):
            connection.close()
            raise ConnectionAbortedError("Too many handshakes.")  # of accept(2): take the next one
        return connection, peer


class TlsServer(uvicorn.Server):
    """uvicorn's server, which counts handshakes."""

    def __init__(self, config: uvicorn.Config, handshakes: Handshakes) -> None:
        super().__init__(config)
        self.handshakes = handshakes

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen."""
        # Whoever comes by a path has no address, and is on this machine.
        networks = (socket.AF_INET, socket.AF_INET6)
        doors = [
            _Door(one, self.handshakes) if one.family in networks else one for one in sockets or ()
        ]
        await super().startup(sockets=doors)
