"""Ending the install, or the tidying up of the store, that another process runs.

What it leaves is what a power cut leaves at the same place, but for its mounts,
which it undoes: the booted slot is what boots next, and the other one is out
of `good` once the install has begun to write it.
"""

from __future__ import annotations

import os
import select
import signal

from abupdate.errors import DeviceFaultError, NothingToDoError, RefusedError
from abupdate.update.job import STOPPABLE, running_job
from abupdate.update.slots import Machine, require_root

# Until a process that was told to stop has: an unmount writes what is in memory first.
_PATIENCE = 120.0  # seconds


def cancel(machine: Machine, patience: float = _PATIENCE) -> None:
    """End the install (or `store prune`) that runs, and wait until it has ended.

    Raises `NothingToDoError` when none does, or it ended before it could be
    stopped, `RefusedError` for another job, `DeviceFaultError` when it does not
    end within `patience` seconds.
    """
    require_root()
    runtime = machine.paths.runtime
    running = running_job(runtime)
    if running is None:
        raise NothingToDoError("No install is running.", "`abupdate status` tells what is.")
    what, pid = running.get("job"), running.get("pid")
    if what not in STOPPABLE or not isinstance(pid, int):
        raise RefusedError(
            f"Only {' and '.join(STOPPABLE)} can be cancelled, and {what or 'another job'!r} "
            "is running.",
            "It is over in a moment; wait for it.",
        )
    before = len(machine.records.history())
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise _ended() from error
    try:
        # A number may be another process's by now: not the one that we have hold of and
        # that has the lock.
        if running_job(runtime) != running:
            raise _ended()
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], patience)[0]:
            raise DeviceFaultError(
                f"'{what}' (process {pid}) was told to stop, and still runs after "
                f"{patience:g} seconds.",
                f"It is in a step that cannot be stopped, or the disk hangs: kill -9 {pid} "
                "is safe at any time.",
            )
    finally:
        os.close(process)
    for entry in machine.records.history()[before:]:
        if entry.event == "installed":
            raise NothingToDoError(
                f"Too late: release {entry.release} is installed in slot {entry.slot}.",
                "`abupdate reject` takes it back.",
            )


def _ended() -> NothingToDoError:
    return NothingToDoError("The install has just ended.", "`abupdate status` tells how.")
