"""`python -m tests.cuts`: record a device's life, and judge what power cuts leave of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qemu"))

import cache

from tests.cuts import releases
from tests.cuts.record import recorded
from tests.cuts.replay import Replayed, replay

SEED = 20261121


_ROW = "| {:27} | {:>7} | {:>7} | {:>5} | {:>6} | {} |"


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cuts of each phase (about)")
    parser.add_argument("--minimum", type=int, default=0, help="states that each part must have")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, help="at a time (default: one a processor)")
    parser.add_argument("--only", default="", help="phases whose name has this text")
    parser.add_argument("--keep", type=Path, help="a folder to keep what was recorded in")
    options = parser.parse_args()
    start = time.monotonic()
    made = releases.build()
    replayed: list[Replayed] = []
    with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".cuts-") as name:
        scratch = Path(name)
        phases = recorded(options.keep or scratch, made)
        print(f"recorded in {time.monotonic() - start:.0f} s, seed {options.seed}\n")
        print(_ROW.format("phase", "sectors", "flushes", "cuts", "states", "what boots"))
        print("|---|---|---|---|---|---|", flush=True)
        for phase in phases:
            if options.only in phase.step.name:
                done = replay(phase, made, scratch, options.count, options.seed, options.jobs)
                replayed.append(done)
                print(_row(done), flush=True)
                for fault in done.faults[:10]:
                    print(f"  {fault}", flush=True)
    return _summary(replayed, options.minimum, time.monotonic() - start)


def _row(done: Replayed) -> str:
    numbers = (done.phase.writes, len(done.phase.epochs), done.tried, done.distinct)
    outcomes = ", ".join(f"{count:,} x {what}" for what, count in done.outcomes.most_common())
    return _ROW.format(done.phase.step.name, *(f"{number:,}" for number in numbers), outcomes)


def _summary(replayed: list[Replayed], minimum: int, seconds: float) -> int:
    parts: Counter[str] = Counter()
    for done in replayed:
        parts[done.phase.step.part] += done.distinct
    faults = sum(len(done.faults) for done in replayed)
    print()
    for part, states in parts.items():
        few = f", and at least {minimum:,} are wanted" if states < minimum else ""
        print(f"{part}: {states:,} states{few}")
    print(f"{parts.total():,} states, {faults} faults, {seconds:.0f} s")
    return 1 if faults or min(parts.values(), default=0) < minimum else 0


if __name__ == "__main__":
    sys.exit(main())
