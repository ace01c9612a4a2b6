"""What every kind of source does, whatever it reads from: it gives a release on its way."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from abupdate.bundle.candidate import Candidate
from abupdate.bundle.quarantine import Room
from abupdate.config import SourceSection
from abupdate.events import Events
from abupdate.release.channel import ChannelTag
from abupdate.release.tag import Statement
from abupdate.store.repository import Repository

# Bytes per second; slower than that for the time of `stall` is a stall.
LEAST_RATE = 500
_GRAPHIC = re.compile(r"[\x21-\x7e]+")


def is_graphic(address: str) -> bool:
    """Whether it has only what an address of the network is made of: no blanks, no controls."""
    return _GRAPHIC.fullmatch(address) is not None


class Arriving(Protocol):
    """A release of which the beginning is here.

    `statement`: what its signers say, None where only the whole tells.
    """

    @property
    def statement(self) -> Statement | None:
        """What its signers say, where that is known before all of it has come."""
        ...

    @property
    def channel(self) -> ChannelTag | None:
        """The channel that named it."""
        ...

    @property
    def branch(self) -> str | None:
        """The branch whose newest commit it is: then nobody has signed it."""
        ...

    def receive(self) -> Candidate:
        """Have all of it come, into quarantine. Raises `SourceError`."""
        ...


@dataclass(frozen=True)
class Into:
    """Where a release is to come: `max_bytes` of one bundle, and `room` for what is in it."""

    store: Repository
    max_bytes: int
    room: Room | None
    settings: SourceSection
    events: Events


class Source(Protocol):
    """A place that has a release."""

    @property
    def name(self) -> str:
        """What people are told; without passwords."""
        ...

    def opened(self, into: Into) -> AbstractContextManager[Arriving]:
        """Begin to read it. Raises `SourceError`."""
        ...
