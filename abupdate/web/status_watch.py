"""One look at the device for all who watch it: a change of its status is told to each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from abupdate.engine.contract import Engine, EngineError

EVERY = 1.0  # seconds from one look to the next
_STEADY = {"uptime", "deadline", "data_free", "partitions"}  # what changes without any news

_LOG = logging.getLogger("abupdate.web")
Told = tuple[str, dict[str, Any]]


class StatusWatch:
    """Looks while somebody watches, and only then."""

    def __init__(self, engine: Engine, every: float = EVERY) -> None:
        self._engine, self._every = engine, every
        self._news = asyncio.Condition()
        self._told: Told | None = None
        self._mark = ""
        self._number = self._watchers = 0
        self._task: asyncio.Task[None] | None = None

    async def follow(self) -> AsyncIterator[Told]:
        """("status", the status) or ("gone", why the engine does not answer): now, and at news."""
        self._watchers += 1
        if self._task is None:
            self._told, self._mark = None, ""
            self._task = asyncio.create_task(self._look())
        seen = -1
        try:
            while True:
                async with self._news:
                    await self._news.wait_for(lambda: self._told is not None)
                    if seen == self._number:
                        await self._news.wait()
                    told, changed = self._told, seen != self._number
                    seen = self._number
                if told is not None and changed:
                    yield told
        finally:
            self._watchers -= 1
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _look(self) -> None:
        while True:
            told: Told
            try:
                status = (await self._engine.status()).model_dump(mode="json")
                told = ("status", status)
                steady = {key: value for key, value in status.items() if key not in _STEADY}
                mark = json.dumps(steady, sort_keys=True)
            except EngineError as error:
                told, mark = ("gone", {"detail": error.message, "hint": error.hint}), "gone"
            except Exception:  # an answer that makes no sense; those who watch still do
                _LOG.exception("The status cannot be told")
                told, mark = ("gone", {"detail": "The engine's answer is not understood."}), "bad"
            if mark != self._mark:
                async with self._news:
                    self._told, self._mark = told, mark
                    self._number += 1
                    self._news.notify_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(self._every)
