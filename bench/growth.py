"""How time and memory grow from 20,000 to 200,000 files, and what a change of modes costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cache

from bench import synthetic
from bench.measure import Command, peak_memory, timed
from bench.slot import Slot
from bench.synthetic import LARGE, SMALL

_INODES = 300_000


def measure(slot: Slot, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds (medians), bytes; see `report.growth`."""
    say("made-up releases")
    made = synthetic.build()
    commits = synthetic.commits(made)
    write = (sys.executable, "-m", "bench.write", made / "store.git")
    found: dict[str, Any] = {}
    for files in (SMALL, LARGE):
        say(f"{files} files")
        old, new = commits[f"{files}-old"], commits[f"{files}-new"]
        full = (*write, old, slot.mountpoint)
        update = (*write, new, slot.mountpoint, old)
        found[str(files)] = {
            "full": _median(slot, None, full, rounds),
            "update": _median(slot, old, update, rounds, full),
            "plan_full": _planned(write, rounds, old),
            "plan_update": _planned(write, rounds, new, old),
            "memory_full": _peak(slot, None, full),
            "memory_update": _peak(slot, old, update, full),
        }
    say("modes only")
    old, new = commits[f"{SMALL}-old"], commits["chmods"]
    full = (*write, old, slot.mountpoint)
    done = _plan(write, new, old)
    found["chmods"] = {
        "seconds": _median(slot, old, (*write, new, slot.mountpoint, old), rounds, full),
        "files": int(done[1]),
        "bytes": int(done[2]),
        "paths": synthetic.CHMODS,
    }
    return found


def _median(
    slot: Slot, over: str | None, command: Command, rounds: int, fill: Command = ()
) -> float:
    times = []
    for _ in range(rounds):
        with _ready(slot, over, fill):
            times.append(timed(slot, [command], synced=True).seconds)
    return round(statistics.median(times), 3)


def _peak(slot: Slot, over: str | None, command: Command, fill: Command = ()) -> int:
    with _ready(slot, over, fill):
        return peak_memory([command])


@contextmanager
def _ready(slot: Slot, over: str | None, fill: Command) -> Iterator[None]:
    """An empty slot, or one that `fill` has written the commit `over` to."""
    if over is None:
        slot.clear(inodes=_INODES)
    else:
        slot.fill(cache.cached("bench-start", (over, _INODES), ".ext4", _filler(slot, fill)))
    with slot.mounted():
        yield


def _filler(slot: Slot, fill: Command) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        slot.clear("rootB", _INODES)
        with slot.mounted():
            subprocess.run(fill, check=True)
            slot.sync()
        slot.save(path)

    return make


def _planned(write: Command, rounds: int, *commits: str) -> float:
    """Seconds in which a plan is made, in a process that has started."""
    times = [float(_plan(write, *commits)[0]) for _ in range(rounds)]
    return round(statistics.median(times), 3)


def _plan(write: Command, new: str, old: str | None = None) -> list[str]:
    words = [*write, new, "-", *([old] if old else [])]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
