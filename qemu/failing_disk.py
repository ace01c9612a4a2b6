"""A disk that fails at one of its reads, writes or flushes, or from that one on.

QEMU's `blkdebug` counts what the machine asks for with its states: the n-th event
of a kind leads from state n to the next one, and errors are injected at the last.
What is called a read, write or flush is one request of the machine's driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["read", "write", "flush"]
_EVENTS = {"read": "read_aio", "write": "write_aio", "flush": "flush_to_disk"}
_EIO = 5


@dataclass(frozen=True)
class Failure:
    """Request `number` (from 1) of that kind fails; `lasting`: the disk answers none after it."""

    kind: Kind
    number: int
    lasting: bool = False

    def __str__(self) -> str:
        rest = "and all that follows it" if self.lasting else "alone"
        return f"{self.kind} {self.number} {rest}"


def node(image: Path, failure: Failure) -> dict[str, object]:
    """The file below a raw disk, for QMP's `blockdev-add`."""
    event = _EVENTS[failure.kind]
    steps = [
        {"event": event, "state": state, "new_state": state + 1}
        for state in range(1, failure.number)
    ]
    kinds = _EVENTS if failure.lasting else (failure.kind,)
    errors = [
        {
            "event": event,
            "state": failure.number,
            "iotype": kind,
            "errno": _EIO,
            "once": not failure.lasting,
        }
        for kind in kinds
    ]
    return {
        "driver": "blkdebug",
        "image": {"driver": "file", "filename": str(image)},
        "set-state": steps,
        "inject-error": errors,
    }
