"""Commands inside a test guest, through its agent on a virtio-serial port.

The other end is `guest/files/agent`, which has the format.
"""

from __future__ import annotations

import json
import queue
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serial_console import SerialConsole, VMError

# What the transport may take on top of the command's own time.
_TRANSPORT_SECONDS = 30.0


@dataclass(frozen=True)
class Done:
    """A command that ended in the guest."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class CommandFailedError(VMError):
    """A command in the guest ended with another exit code than was asked for."""

    def __init__(self, done: Done) -> None:
        super().__init__(
            f"{' '.join(done.argv)!r} in the guest ended with {done.code}\n"
            f"--- stdout ---\n{done.stdout}\n--- stderr ---\n{done.stderr}"
        )
        self.done = done


class Agent:
    """The agent of one machine, over all its boots."""

    def __init__(self, serial: SerialConsole) -> None:
        self._serial = serial
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._number = 0

    def attach(self, connection: socket.socket) -> None:
        """Use this connection; messages of an earlier power cycle are forgotten."""
        self._messages = queue.Queue()
        self._connection = connection
        arguments = (connection, self._messages)
        self._thread = threading.Thread(target=_read, args=arguments, daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """The machine is off."""
        if self._connection is not None:
            if self._thread is not None:
                self._thread.join(5)
            self._connection.close()
            self._connection = None

    def wait(self, timeout: float, cmdline: str = "") -> str:
        """Wait for the agent of a new boot; its kernel command line. `timeout` in seconds.

        `cmdline`: a pattern that the kernel command line must match; boots that
        do not are passed over.
        """
        deadline = time.monotonic() + timeout
        wanted = f" of a boot with {cmdline!r}" if cmdline else ""
        while True:
            message = self._next(deadline, f"no agent{wanted} in {timeout:g} s")
            if "hello" in message and re.search(cmdline, message["cmdline"]):
                return str(message["cmdline"])

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        stdin: str = "",
        ok: Sequence[int] | None = (0,),
    ) -> Done:
        """Run a command as root. Raises `CommandFailedError` for an exit code not in `ok`.

        `ok=None` takes any exit code. A reboot or a time-out is a `VMError`.
        """
        if self._connection is None:
            raise VMError("The machine is off.")
        self._number += 1
        request = {"id": self._number, "argv": list(argv), "timeout": timeout, "stdin": stdin}
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout + _TRANSPORT_SECONDS
        while True:
            message = self._next(deadline, f"no answer to {' '.join(argv)!r}")
            if "hello" in message:
                tail = self._serial.tail()
                raise VMError(f"the guest rebooted during {' '.join(argv)!r}\n{tail}")
            if message.get("id") == self._number:
                break
        if message["code"] is None:
            raise VMError(f"{' '.join(argv)!r} not finished in {timeout:g} s\n{message['stdout']}")
        done = Done(tuple(argv), message["code"], message["stdout"], message["stderr"])
        if ok is not None and done.code not in ok:
            raise CommandFailedError(done)
        return done

    def start(self, argv: Sequence[str]) -> None:
        """Start a command and do not wait for it (a reboot, or what a power cut will end)."""
        self.run(["systemd-run", "--quiet", "--collect", "--no-block", *argv])

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        try:
            return self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise VMError(f"{what}\n{self._serial.tail()}") from None


def _read(connection: socket.socket, messages: queue.Queue[dict[str, Any]]) -> None:
    pending = b""
    while True:
        try:
            chunk = connection.recv(1 << 20)
        except OSError:
            return
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # empty, or half of what an earlier boot wanted to say
            messages.put(message)
