"""Time, bytes written, and peak memory of one command."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.slot import Slot

_SAMPLE_SECONDS = 0.02
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Sample:
    """One round: seconds until all was on the device, bytes written to it."""

    seconds: float
    written: int


def timed(slot: Slot, commands: Sequence[Command], synced: bool) -> Sample:
    """Run commands one after the other, and sync the slot where that is wanted. Raises."""
    before, start = slot.written(), time.monotonic()
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    if synced:
        slot.sync()
    seconds = time.monotonic() - start
    return Sample(seconds, slot.written() - before)


def peak_memory(commands: Sequence[Command], service: int | None = None) -> int:
    """The highest sum of PSS (bytes) of a command's whole process tree, sampled.

    `service` is one more process that works for it. Not in a timed round:
    looking costs time.
    """
    peak = 0
    for command in commands:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tops = [process.pid] if service is None else [process.pid, service]
        while process.poll() is None:
            peak = max(peak, sum(_pss(pid) for top in tops for pid in _tree(top)))
            time.sleep(_SAMPLE_SECONDS)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def _tree(top: int) -> list[int]:
    found, pending = [], [top]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pending += [int(word) for word in task.read_text().split()]
            except OSError:
                continue  # it has ended
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended
    return 0


def median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """The median of a field."""
    return statistics.median(of(sample) for sample in samples)
