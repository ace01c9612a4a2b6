"""What every page and call works with: the engine, the settings, and the server's own state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import HTTPConnection

from abupdate.config import WebSection
from abupdate.engine.contract import Engine
from abupdate.web.audit import Audit
from abupdate.web.auth import Passwords, Tokens
from abupdate.web.limits import Limits
from abupdate.web.lockout import Lockout
from abupdate.web.sessions import Sessions
from abupdate.web.status_watch import StatusWatch
from abupdate.web.uploads import Uploads


@dataclass
class WebContext:
    """Made once at start; `request.app.state.context` has it.

    `state` is the folder that the server may write, /data/abupdate/web. `clock` gives
    seconds since the epoch. `secure`: it is reached by https. `cost`: of scrypt.
    """

    engine: Engine
    settings: WebSection
    state: Path
    clock: Callable[[], float] = time.time
    secure: bool = False
    limits: Limits = field(default_factory=Limits)
    cost: dict[str, int] | None = None
    uploads: Uploads = field(init=False)
    sessions: Sessions = field(init=False)
    passwords: Passwords = field(init=False)
    tokens: Tokens = field(init=False)
    lockout: Lockout = field(init=False)
    audit: Audit = field(init=False)
    watch: StatusWatch = field(init=False)
    streams: int = 0  # of events, open now

    def __post_init__(self) -> None:
        """Open the state folder. Raises `OSError`."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.uploads = Uploads(self.state / "uploads", self.settings.max_upload, self.clock)
        self.passwords = Passwords(self.state, self.cost)
        mark = self.passwords.mark
        self.sessions = Sessions(self.state / "sessions.json", self.clock, mark)
        self.tokens = Tokens(self.state / "tokens.json")
        self.lockout = Lockout(self.clock)
        self.audit = Audit(self.state / "audit.jsonl", self.clock)
        self.watch = StatusWatch(self.engine)

    @property
    def cookie(self) -> str:
        """The name of the session's cookie. `__Host-`: no other host can have set it."""
        return "__Host-abupdate" if self.secure else "abupdate"


def context_of(request: HTTPConnection) -> WebContext:
    """The context of the server that got this request."""
    context = request.app.state.context
    assert isinstance(context, WebContext)
    return context
