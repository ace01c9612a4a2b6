"""How large the runs are, and which holes are known.

What boots does not depend on what is told: the two are explored apart, the first
with more faults and installs.
"""

from __future__ import annotations

from tests.model.world import Setting

QUICK = (
    Setting(faults=1, installs=1, tears=1, reports=False),
    Setting(faults=0, installs=2, tears=0, reports=False),
    Setting(faults=0, installs=1, tears=0, reports=False, once=True),
    Setting(faults=1, installs=1, tears=0),
)

FULL = (
    Setting(faults=2, installs=2, tears=1, reports=False),
    Setting(faults=0, installs=3, tears=0, reports=False),
    Setting(faults=1, installs=1, tears=1, reports=False, once=True),
    Setting(faults=1, installs=1, tears=1),
    Setting(faults=0, installs=2, tears=0, reinstall=True),
)

# The exception that docs/boot-state-machine.md names: with limit=0 nobody counts.
DOCUMENTED = {
    "loop-limit-0": "limit=0: a confirmed slot that dies is booted for ever",
}

# Not repaired. A run fails on any other, and the test fails when one of these is
# gone: take it off the list then.
KNOWN: dict[str, str] = {}
