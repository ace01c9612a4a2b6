"""One stream of steps and progress, read by the terminal, the page, JSON and the journal.

A use case gets an `Events` and tells it what happens; whoever shows it
subscribes a sink. Nothing here knows how an event is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class EventKind(StrEnum):
    """What an event tells."""

    STEP_BEGIN = "step-begin"
    STEP_END = "step-end"
    STEP_FAILED = "step-failed"
    PROGRESS = "progress"
    NOTE = "note"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    `time` is seconds since the epoch, `seconds` the duration of a step that
    ended, `done` and `total` count `unit`s (`total` None when not known), `files`
    and `files_total` whole files where that is known. `rate` is in units a
    second since the step began, `left` the seconds that it will take at that
    rate.
    """

    kind: EventKind
    step: str
    text: str = ""
    time: float = 0.0
    seconds: float | None = None
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    files: int | None = None
    files_total: int | None = None
    rate: float | None = None
    left: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the fields that are not set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


Sink = Callable[[Event], None]

# More than ten lines a second tell nobody anything and slow the work down.
_PROGRESS_INTERVAL = 0.1
# A rate says nothing before so many seconds.
_RATE_AFTER = 0.5


class Events:
    """The stream: use cases write, sinks read, in order and in this thread."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)
        self._step = ""
        self._began = time.monotonic()
        self._last_progress = 0.0
        self.seconds: dict[str, float] = {}

    def subscribe(self, sink: Sink) -> None:
        """Add a reader; it sees events from now on."""
        self._sinks.append(sink)

    @contextmanager
    def step(self, name: str, text: str = "") -> Iterator[None]:
        """A named step with its duration; a failure is told before it travels on."""
        outer, self._step = self._step, name
        start = self._began = time.monotonic()
        self._last_progress = 0.0
        self._emit(Event(EventKind.STEP_BEGIN, name, text))
        kind = EventKind.STEP_FAILED
        try:
            yield
            kind = EventKind.STEP_END
        finally:
            elapsed = time.monotonic() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            self._emit(Event(kind, name, text, seconds=round(elapsed, 3)))
            self._step = outer

    def progress(
        self,
        done: int,
        total: int | None,
        unit: str = "bytes",
        *,
        files: int | None = None,
        files_total: int | None = None,
    ) -> None:
        """How far the current step is; told at most ten times a second, and at its end."""
        now = time.monotonic()
        if done != total and now - self._last_progress < _PROGRESS_INTERVAL:
            return
        self._last_progress = now
        rate = left = None
        if done and now - self._began > _RATE_AFTER:
            rate = round(done / (now - self._began), 1)
            left = round((total - done) / rate, 1) if total is not None else None
        self._emit(
            Event(
                EventKind.PROGRESS,
                self._step,
                done=done,
                total=total,
                unit=unit,
                files=files,
                files_total=files_total,
                rate=rate,
                left=left,
            )
        )

    def note(self, text: str) -> None:
        """Something a person may want to know."""
        self._emit(Event(EventKind.NOTE, self._step, text))

    def warning(self, text: str) -> None:
        """Something a person should know."""
        self._emit(Event(EventKind.WARNING, self._step, text))

    def _emit(self, event: Event) -> None:
        stamped = Event(**{**asdict(event), "kind": event.kind, "time": round(time.time(), 3)})
        for sink in list(self._sinks):
            try:
                sink(stamped)
            except OSError:
                # Nobody listens any more (a terminal that went away): no reason to stop the work.
                self._sinks.remove(sink)
