"""What is told of long work, and how it looks."""

from __future__ import annotations

import io

import pytest

from abupdate import events as events_module
from abupdate.cli.show import terminal_sink
from abupdate.events import Event, EventKind, Events


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(events_module, "time", clock)
    return clock


def test_progress_tells_rate_and_time_left_once_they_mean_something(clock: Clock) -> None:
    told: list[Event] = []
    events = Events(told.append)
    with events.step("write"):
        events.progress(1, 100)
        clock.now += 2
        events.progress(20, 100, files=3, files_total=9)
        clock.now += 0.05
        events.progress(21, 100)  # too soon
        events.progress(100, 100)
    progress = [event for event in told if event.kind is EventKind.PROGRESS]
    assert [event.done for event in progress] == [1, 20, 100]
    assert (progress[0].rate, progress[0].left) == (None, None)
    assert (progress[1].rate, progress[1].left) == (10.0, 8.0)
    assert (progress[1].files, progress[1].files_total) == (3, 9)
    assert progress[2].left == 0.0
    # The next step counts its own time.
    with events.step("verify"):
        events.progress(50, 100)
    assert [event.rate for event in told if event.kind is EventKind.PROGRESS][-1] is None


def test_a_bar_moves_on_a_terminal_only(clock: Clock) -> None:
    screen, log = Terminal(), io.StringIO()
    events = Events(terminal_sink(screen), terminal_sink(log))
    with events.step("write", "Write release 2"):
        clock.now += 10
        events.progress(120 << 20, 480 << 20, files=41, files_total=160)
    shown = screen.getvalue()
    assert "[######..................] 120/480 MiB, 41/160 files, 12 MiB/s, 30 s left" in shown
    assert log.getvalue() == "  Write release 2                                 10.0 s\n"


def test_who_listens_no_more_is_no_reason_to_stop(clock: Clock) -> None:
    heard: list[Event] = []

    def gone(_event: Event) -> None:
        raise BrokenPipeError

    events = Events(gone, heard.append)
    with events.step("write"):
        events.progress(1, 2)
    assert [event.kind for event in heard] == [
        EventKind.STEP_BEGIN,
        EventKind.PROGRESS,
        EventKind.STEP_END,
    ]
