"""Named points in production code where a test can make it fail.

`ABUPDATE_FAILPOINT=NAME:ACTION` with the action `kill` (SIGKILL to this
process), `error` (a device fault) or `hang` (until somebody ends it). Every
arrow of an update is such a point, so that "and if the power goes here?" is a
test and not a thought. Without the variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from abupdate.errors import DeviceFaultError, UsageError

VARIABLE = "ABUPDATE_FAILPOINT"

NAMES = frozenset(
    {
        "locked",
        "source-opened",
        "quarantined",
        "trusted",
        "joined",
        "intent-recorded",
        "begin-backup-written",
        "begun",
        "slot-relabelled",
        "slot-mounted",
        "materialise-half",
        "materialised",
        "fixups-run",
        "synced",
        "unmounted",
        "cache-dropped",
        "checked",
        "read-back",
        "etc-merged",
        "label-restored",
        "slot-recorded",
        "armed",
        "state-primary-written",
        "state-backup-written",
        "confirmed",
        "confirm-recorded",
        "given-up",
        "told",
        "rearmed",
        "refs-dropped",
        "packed",
        "repacked",
        "table-made",
        "slot-filled",
        "data-filled",
        "esp-written",
        "rescue-filled",
        "rescue-relabelled",
        "rescue-written",
        "rescue-labelled",
        "reset-folder",
        "retried",
        "gpt-entries-written",
        "gpt-half-written",
        "esp-file-written",
        "boot-code-half-written",
        "data-checked",
        "data-made",
        "store-set-aside",
        "store-made",
        "store-fetched",
        "slot-verified",
        "slot-labelled",
        "rules-written",
        "rules-summed",
        "rules-chosen",
        "rules-offered",
        "rules-told",
    }
)


def failpoint(name: str) -> None:
    """Fail here when the environment asks for it. `name` must be in `NAMES`."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    if name not in NAMES:
        raise ValueError(f"unknown failpoint {name!r}")
    target, _, action = wanted.partition(":")
    if target not in NAMES or action not in {"kill", "error", "hang"}:
        raise UsageError(
            f"{VARIABLE} must be NAME:kill, NAME:error or NAME:hang, found {wanted!r}.",
            f"Names: {', '.join(sorted(NAMES))}.",
        )
    if target != name:
        return
    print(f"failpoint {name}: {action}", file=sys.stderr, flush=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        while True:
            time.sleep(3600)
    raise DeviceFaultError(f"Failpoint {name} was asked to fail.")
