"""`python -m tests.model`: explore, print figures and counterexamples.

Exit code 0: nothing but holes that are known (tests/model/plans.py). 1: a new one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from tests.model.explore import explore
from tests.model.plans import DOCUMENTED, FULL, KNOWN, QUICK
from tests.model.report import summary, trace_text
from tests.model.world import Setting


def main() -> int:
    """Run as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller runs: about a minute")
    add("--first", action="store_true", help="stop at the first that is not known")
    add("--faults", type=int, help="one run instead, with so many faults")
    add("--installs", type=int, default=1, help="of that run")
    add("--tears", type=int, default=1, help="cuts between the two copies, of that run")
    add("--reports", action="store_true", help="follow what is told (P8), in that run")
    add("--once", action="store_true", help="rescue may be asked for, in that run")
    add("--reinstall", action="store_true", help="the last release may come again, in that run")
    add("--tries", type=int, default=2)
    add("--limit", type=int, default=2)
    chosen = parser.parse_args()
    plan: tuple[Setting, ...] = QUICK if chosen.quick else FULL
    if chosen.faults is not None:
        own = (chosen.faults, chosen.installs, chosen.tears)
        again, once, reports = chosen.reinstall, chosen.once, chosen.reports
        plan = (Setting(2, 2, *own, reinstall=again, once=once, reports=reports),)
    new = 0
    for setting in plan:
        new += _run(replace(setting, tries=chosen.tries, limit=chosen.limit), chosen.first)
        if new and chosen.first:
            break
    return 1 if new else 0


def _run(setting: Setting, first: bool) -> bool:
    """One exploration; True when it found something new."""
    excused = {**KNOWN, **(DOCUMENTED if setting.limit == 0 else {})}
    result = explore(setting, ignore=excused if first else None)
    print(summary(result), flush=True)
    for name, found in result.counterexamples.items():
        known = f"known: {excused[name]}\n" if name in excused else ""
        print(f"\n{known}{result.times[name]} x {trace_text(found, result.states)}\n", flush=True)
    return bool(result.counterexamples.keys() - excused.keys())


if __name__ == "__main__":
    sys.exit(main())
