"""The events of jobs, folded once and kept, so that a page which looks each second costs little."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from abupdate.engine.contract import Engine, Job
from abupdate.web.pages.views.steps import Folded

_KEPT = 20
_LONGEST = 5.0  # seconds; what is not here by then is shown at the next look


class Folding:
    """Folded events by job."""

    def __init__(self) -> None:
        self._folded: OrderedDict[str, Folded] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}

    async def of(self, engine: Engine, job: Job) -> Folded:
        """A job's events up to now."""
        async with self._locks.setdefault(job.id, asyncio.Lock()):
            folded = self._folded.setdefault(job.id, Folded())
            self._folded.move_to_end(job.id)
            if folded.n < job.events:
                try:
                    async with asyncio.timeout(_LONGEST):
                        await _catch_up(engine, job, folded)
                except TimeoutError:
                    pass
        while len(self._folded) > _KEPT:
            old, _ = self._folded.popitem(last=False)
            self._locks.pop(old, None)
        return folded


async def _catch_up(engine: Engine, job: Job, folded: Folded) -> None:
    events = engine.events(job.id, folded.n)
    try:
        async for event in events:
            if event.n > folded.n:
                folded.add(event)
            if folded.n >= job.events:
                return
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
