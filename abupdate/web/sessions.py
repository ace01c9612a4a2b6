"""Who is logged in: sessions that live here, while the browser has a random number only.

They are kept in a file (the number itself is not: its digest), for a page that watches an
update must still be logged in after the reboot that it waited for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from abupdate.web.files import read_json, write_json

IDLE = 30 * 60.0  # seconds without a request after which one has to log in again
LONGEST = 12 * 3600.0  # seconds after which one has to in any case
MOST = 64  # sessions; the one unused for longest makes room
_SAVE = 60.0  # seconds: what may be lost of `seen` by a power cut
_LOG = logging.getLogger("abupdate.web")


@dataclass
class Session:
    """A session. `csrf`: what a form must bring along. Times are seconds since the epoch.

    `mark`: of the password that was used; with another password it is over.
    """

    csrf: str
    created: float
    seen: float
    address: str
    mark: str


class Sessions:
    """The sessions of this server, by digest of their number."""

    def __init__(
        self, path: Path, clock: Callable[[], float], mark: Callable[[], str] = str
    ) -> None:
        self._path, self._clock, self._mark = path, clock, mark
        self._saved = clock()
        self._open = _read(path)

    def create(self, address: str) -> tuple[str, Session]:
        """A new session: its number, for the cookie alone, and itself."""
        number, now = secrets.token_urlsafe(32), self._clock()
        session = Session(secrets.token_urlsafe(32), now, now, address, self._mark())
        self._open[_digest(number)] = session
        while len(self._open) > MOST:
            del self._open[min(self._open, key=lambda name: self._open[name].seen)]
        self._save()
        return number, session

    def find(self, number: str | None) -> Session | None:
        """The session with this number, which counts as used now; None: log in again."""
        if not number or len(number) > 100:
            return None
        session = self._open.get(_digest(number))
        if session is None:
            return None
        now = self._clock()
        if self._expired(session):
            self.end(number)
            return None
        session.seen = now
        if abs(now - self._saved) > _SAVE:
            self._save()
        return session

    def is_open(self, session: Session) -> bool:
        """Whether it still is; asking does not count as its use."""
        return any(one is session for one in self._open.values()) and not self._expired(session)

    def _expired(self, session: Session) -> bool:
        now = self._clock()
        if session.mark != self._mark():
            return True
        return now - session.seen > IDLE or abs(now - session.created) > LONGEST

    def end(self, number: str) -> None:
        """Log one out."""
        if self._open.pop(_digest(number), None) is not None:
            self._save()

    def end_all(self) -> None:
        """Log everybody out."""
        self._open.clear()
        self._save()

    def _save(self) -> None:
        """A full disk logs nobody out: the page may be what makes room on it.

        After a restart everybody logs in again then, whoever had logged out above all.
        """
        self._saved = self._clock()
        try:
            write_json(self._path, {name: asdict(one) for name, one in self._open.items()})
        except OSError as error:
            _LOG.warning("Who is logged in cannot be kept: %s", error.strerror)
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def _digest(number: str) -> str:
    return hashlib.sha256(number.encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path) -> dict[str, Session]:
    try:
        return {str(name): Session(**one) for name, one in (read_json(path) or {}).items()}
    except (TypeError, AttributeError, json.JSONDecodeError):
        return {}  # one logs in again
