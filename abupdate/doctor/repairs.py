"""What a repair is: the findings that it answers, what it says before, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from abupdate.config import Settings
from abupdate.events import Events


@dataclass(frozen=True)
class Repair:
    """Something that can be mended here and now.

    `answers`: ids of findings. `says`: what it will do and why, in one sentence. `risk`: what may
    be lost by it, as one sentence; None where it is safe by itself. `act` does it, and tells what
    came of it; whatever moment the power goes at, doing it again is right.
    """

    id: str
    answers: tuple[str, ...]
    says: str
    act: Callable[[], str]
    risk: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a finding of that kind is not mended here, and what to do instead."""

    answers: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Wishes:
    """What a person asked for.

    `also`: ids of repairs by which something may be lost. `sources`: where releases may be
    fetched again, as `abupdate install` takes them; `REMOTE#` is any release of a git
    repository.
    """

    settings: Settings = field(default_factory=Settings)
    events: Events = field(default_factory=Events)
    also: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()


Plan = list[Repair | Refusal]
