"""The serial console of a virtual machine: a log with times, and waiting for a text."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_TAIL_LINES, _MOST_LINES = 40, 400
_ESCAPES = re.compile(
    r"\x1b(\[[0-9:;?=!]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>78c])"
)


class VMError(Exception):
    """The machine did not do what was waited for."""


@dataclass(frozen=True)
class Line:
    """A line of the console, without escape sequences. `seconds` since the console was made."""

    seconds: float
    text: str


class SerialConsole:
    """Reads the console in a thread of its own, over all power cycles of a machine."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("w", encoding="utf-8", buffering=1)
        self._born = time.monotonic()
        self._lines: list[Line] = []
        self._partial = ""
        self._changed = threading.Condition()
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def attach(self, connection: socket.socket) -> None:
        """Read from this connection until it ends."""
        self._connection = connection
        self._thread = threading.Thread(target=self._read, args=(connection,), daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """The machine is off: take what is left."""
        if self._connection is not None:
            if self._thread is not None:
                self._thread.join(5)
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the log."""
        self.detach()
        self._log.close()

    @property
    def position(self) -> int:
        """Where the log ends now; give it to `wait_for` to look at later lines only."""
        with self._changed:
            return len(self._lines)

    def lines(self, since: int = 0) -> list[Line]:
        """All complete lines from a position on."""
        with self._changed:
            return self._lines[since:]

    def find(self, pattern: str, since: int = 0) -> list[re.Match[str]]:
        """Matches of a pattern in complete lines from a position on, one a line."""
        found = (re.search(pattern, line.text) for line in self.lines(since))
        return [match for match in found if match]

    def wait_for(self, pattern: str, timeout: float, since: int = 0) -> re.Match[str]:
        """Wait for a line (or a prompt) from a position on that matches; `timeout` in seconds."""
        deadline = time.monotonic() + timeout
        wanted, seen = re.compile(pattern), since
        while True:
            with self._changed:
                for line in self._lines[seen:]:
                    if match := wanted.search(line.text):
                        return match
                seen = len(self._lines)
                if match := wanted.search(self._partial):
                    return match
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 1.0))
        raise VMError(f"no {pattern!r} on the console in {timeout:g} s\n{self.tail(since)}")

    def write(self, text: str) -> None:
        """Type on the console."""
        if self._connection is None:
            raise VMError("The machine is off.")
        self._connection.sendall(text.encode())

    def tail(self, since: int | None = None) -> str:
        """The end of the log, for error messages; from a position on, unless that is much."""
        with self._changed:
            end = len(self._lines)
            begin = end - _TAIL_LINES if since is None else max(since, end - _MOST_LINES)
            lines = self._lines[max(begin, 0) :]
            last = [f"{line.seconds:8.2f} {line.text}" for line in lines]
            return "\n".join(["--- serial console ---", *last, f"{'':8} {self._partial}"])

    def _read(self, connection: socket.socket) -> None:
        while True:
            try:
                chunk = connection.recv(65536)
            except OSError:
                chunk = b""
            if not chunk:
                break
            self._take(chunk.decode("utf-8", "replace"))
        self._take("\n")

    def _take(self, text: str) -> None:
        now = time.monotonic() - self._born
        with self._changed:
            *complete, rest = (self._partial + text).split("\n")
            for raw in complete:
                line = Line(now, _ESCAPES.sub("", raw).strip("\r"))
                if line.text:
                    self._lines.append(line)
                    self._log.write(f"{now:9.3f} {line.text}\n")
            self._partial = rest
            self._changed.notify_all()
