"""All cuts of a phase, judged by several processes, each different state once."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.cuts.judge import Finding, Judge
from tests.cuts.record import Phase
from tests.cuts.releases import Releases
from tests.cuts.states import Cut, cuts


@dataclass
class Replayed:
    """What a phase came to: cuts tried, states that differ, and how many of each outcome."""

    phase: Phase
    tried: int = 0
    distinct: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} times {name}" for name, count in self.outcomes.most_common())
        wrong = f"; {len(self.faults)} FAULTS" if self.faults else ""
        name = self.phase.step.name
        return f"{name}: {self.tried} cuts, {self.distinct} states: {outcomes}{wrong}"


@dataclass(frozen=True)
class _Seen:
    """A state that was judged: at which cut it came first, and at which flushes it was met."""

    cut: str
    flushes: list[int]
    finding: Finding


def replay(
    phase: Phase, releases: Releases, scratch: Path, count: int, seed: int,
    jobs: int | None = None,
) -> Replayed:  # fmt: skip
    """Judge about `count` cuts of a phase."""
    jobs = jobs or os.cpu_count() or 1
    done = Replayed(phase)
    seen: list[_Seen] = []
    with ProcessPoolExecutor(jobs) as pool:
        parts = [
            pool.submit(_judge, phase, releases, scratch, count, seed, number, jobs)
            for number in range(jobs)
        ]
        for part in parts:
            done.tried, found = part.result()
            seen += found
    done.distinct = len(seen)
    done.outcomes.update(one.finding.outcome for one in seen)
    for one in seen:
        done.faults += [f"{phase.step.name}, {one.cut}: {fault}" for fault in one.finding.faults]
    done.faults += _turned_back(phase, seen)
    return done


def _turned_back(phase: Phase, seen: list[_Seen]) -> list[str]:
    """A phase leads from one outcome to another, once, and never back."""
    at = {flush: one.finding.outcome for one in seen for flush in one.flushes}
    order = [at[flush] for flush in sorted(at)]
    old, new = order[0], order[-1]
    faults = [
        f"{phase.step.name}, {one.cut}: boots {one.finding.outcome}; before {old}, after {new}"
        for one in seen
        if one.finding.outcome not in (old, new)
    ]
    changes = sum(before != after for before, after in itertools.pairwise(order))
    if changes != (old != new):
        faults.append(f"{phase.step.name}: what boots changes {changes} times: {order}")
    return faults


def _judge(
    phase: Phase, releases: Releases, scratch: Path, count: int, seed: int, mine: int, of: int
) -> tuple[int, list[_Seen]]:
    """One process's share of the states: those whose number falls to it."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        judge = Judge(phase, releases, Path(name))
        found: dict[tuple[int, ...], _Seen] = {}
        tried = 0
        for cut in _applied(judge, phase, cuts(phase, count, seed)):
            tried += 1
            key = tuple(judge.content.keys().values())
            if sum(key) % of != mine:
                continue
            if key not in found:
                told = f"{cut.epoch} flushes, then {len(cut.sectors)} sectors"
                found[key] = _Seen(told, [], judge.look())
            if not cut.sectors:
                found[key].flushes.append(cut.epoch)
        return tried, list(found.values())


def _applied(judge: Judge, phase: Phase, wanted: Iterator[Cut]) -> Iterator[Cut]:
    """Each cut, with the disk as it leaves it for as long as the caller looks at it."""
    put: Callable[[int, bytes], bytes] = judge.content.put
    flushed = 0
    for cut in wanted:
        while flushed < cut.epoch:
            for write in phase.epochs[flushed]:
                put(write.at, write.data)
            flushed += 1
        before = [(at, put(at, data)) for at, data in cut.sectors.items()]
        yield cut
        for at, data in before:
            put(at, data)
