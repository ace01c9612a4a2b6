"""`python -m tests.cuts`: record a device's life, and judge what power cuts leave of it."""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qemu"))

import cache

from tests.cuts import releases
from tests.cuts.record import Phase, Recorder, debian
from tests.cuts.replay import replay

SEED = 20261121


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cuts of each phase (about)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, help="at a time (default: one a processor)")
    parser.add_argument("--only", default="", help="phases whose name has this text")
    parser.add_argument("--keep", type=Path, help="a folder to keep what was recorded in")
    options = parser.parse_args()
    start, states, faults = time.monotonic(), 0, 0
    made = releases.build()
    with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".cuts-") as name:
        scratch = Path(name)
        phases = _recorded(options.keep or scratch, made)
        print(f"recorded in {time.monotonic() - start:.0f} s, seed {options.seed}", flush=True)
        for phase in phases:
            if options.only not in phase.step.name:
                continue
            begun = time.monotonic()
            done = replay(phase, made, scratch, options.count, options.seed, options.jobs)
            states += done.distinct
            faults += len(done.faults)
            print(f"{done} ({phase.writes} sectors, {len(phase.epochs)} flushes, "
                  f"{time.monotonic() - begun:.0f} s)", flush=True)  # fmt: skip
            for fault in done.faults[:10]:
                print(f"  {fault}", flush=True)
    print(f"{states} states, {faults} faults, {time.monotonic() - start:.0f} s")
    return 1 if faults else 0


def _recorded(folder: Path, made: releases.Releases) -> list[Phase]:
    """The phases of a life that is kept in a folder; recorded where there is none yet."""
    kept = folder / "life.pickle"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with debian(folder) as machine:
            phases = Recorder(machine, made, folder).life()
        kept.write_bytes(pickle.dumps(phases))
    found: list[Phase] = pickle.loads(kept.read_bytes())
    return found


if __name__ == "__main__":
    sys.exit(main())
