"""What every page and call works with: the engine, the settings, and the server's own state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import HTTPConnection

from abupdate.config import WebSection
from abupdate.engine.contract import Engine
from abupdate.web.sessions import Sessions
from abupdate.web.uploads import Uploads


@dataclass
class WebContext:
    """Made once at start; `request.app.state.context` has it.

    `state` is the folder that the server may write, /data/abupdate/web. `clock` gives
    seconds since the epoch. `secure`: it is reached by https.
    """

    engine: Engine
    settings: WebSection
    state: Path
    clock: Callable[[], float] = time.time
    secure: bool = False
    uploads: Uploads = field(init=False)
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        """Open the state folder. Raises `OSError`."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.uploads = Uploads(self.state / "uploads", self.settings.max_upload, self.clock)
        self.sessions = Sessions(self.state / "sessions.json", self.clock)


def context_of(request: HTTPConnection) -> WebContext:
    """The context of the server that got this request."""
    context = request.app.state.context
    assert isinstance(context, WebContext)
    return context
