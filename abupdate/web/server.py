"""The server: where it listens, what it may take up, and that it is nobody's root."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from abupdate.errors import DeviceFaultError, RefusedError, UsageError
from abupdate.web.app import make_app
from abupdate.web.context import WebContext
from abupdate.web.handshakes import Handshakes, TlsServer
from abupdate.web.limits import HEAD, bounded_protocol

_FIRST = 3  # the first descriptor that systemd hands over (sd_listen_fds(3))


def handed_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd handed over; none if it did not start us."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "")
    if not count.isdecimal():
        return []
    found = []
    for number in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(number, False)
        found.append(socket.socket(fileno=number))
    return found


def own_socket(listen: str) -> socket.socket:
    """A socket at HOST:PORT. Raises `UsageError`, `DeviceFaultError`."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise UsageError(f"[web] listen: '{listen}' is no address here: {error}.") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise DeviceFaultError(
            f"The page cannot listen on {listen}: {error.strerror}.",
            "Does it run already, or another program there? [web] listen chooses another place.",
        ) from error
    return listening


def refuse_root() -> None:
    """Raise `RefusedError` for root: what the network talks to has no rights to lose."""
    if os.geteuid() == 0:
        raise RefusedError(
            "The page does not run as root.",
            "`systemctl enable --now abupdate-web.socket` starts it as abupdate-web.",
        )


def server_of(context: WebContext, files: tuple[Path, Path] | None) -> uvicorn.Server:
    """The server of this context; `files`: certificate and key."""
    context.secure = files is not None
    limits = context.limits
    handshakes = Handshakes(limits.head, limits.handshakes, limits.handshakes_per_address)
    config = uvicorn.Config(
        make_app(context),
        http=bounded_protocol(limits, handshakes if files else None),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        # Whoever says to speak for somebody else is not believed.
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        backlog=128,
        ssl_certfile=str(files[0]) if files else None,
        ssl_keyfile=str(files[1]) if files else None,
    )
    return TlsServer(config, handshakes) if files else uvicorn.Server(config)


def serve(
    context: WebContext, sockets: list[socket.socket], files: tuple[Path, Path] | None
) -> None:
    """Serve until a signal ends it."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server_of(context, files).run(sockets=sockets)
