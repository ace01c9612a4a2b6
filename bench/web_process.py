"""The processes that the page's figures are of: `python -m bench.web_process web|engine FOLDER`.

`web` is the command that a device runs, with a folder for its disk; it has nothing else in it.
`engine` is the engine's socket in front of what tests have for a device; SIGUSR1 gives it another
name, which all who watch it are told.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from abupdate.paths import Paths
from abupdate.update.slots import Machine

NOBODY = 65534
# What the server imports when it needs it.
_NEEDED = (
    "abupdate.cli.device", "abupdate.cli.trial", "abupdate.cli.web", "abupdate.engine.client",
    "abupdate.web.server", "abupdate.web.pages", "abupdate.web.tls",
    "encodings.idna", "encodings.unicode_escape",
    "uvicorn.lifespan.on", "uvicorn.loops.asyncio", "uvicorn.protocols.websockets.auto",
)  # fmt: skip


def machine(folder: Path) -> Machine:
    """A device in a folder."""
    return Machine(
        Paths(folder / "root", folder / "data", folder / "esp", folder / "run", folder / "cmdline")
    )


def _web(folder: Path) -> int:
    from abupdate.cli.main import main

    if os.geteuid() == 0:
        # Before the rights are gone: nobody may not be able to read where Python is.
        for name in _NEEDED:
            importlib.import_module(name)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    return main(["web"], machine(folder))


def _asked(told: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[[Any], Any]:
    return lambda args: asyncio.run(told(**args.model_dump()))


def _engine(folder: Path) -> int:
    from abupdate.engine import server
    from tests.web.fake_engine import FakeEngine

    fake, runtime = FakeEngine(), folder / "run"
    engine = server.Engine(machine(folder), lambda *_: sys.exit("no job is started here"))
    for name in ("status", "health", "history", "why", "releases", "log"):
        engine.calls[name] = (engine.calls[name][0], _asked(getattr(fake, name)))
    boots = iter(range(1_000_000))
    signal.signal(signal.SIGUSR1, lambda *_: fake.change(hostname=f"box-{next(boots)}"))
    listening = server.listen(runtime)
    if os.geteuid() == 0:
        os.chown(runtime / server.SOCKET, NOBODY, -1)
    asyncio.run(server.serve(engine, listening, {os.geteuid(), NOBODY}))
    return 0


if __name__ == "__main__":
    _, kind, where = sys.argv
    sys.exit((_web if kind == "web" else _engine)(Path(where)))
