"""Why the last release did not stay: the story of a fallback, from what its boots left behind.

The JSON form has a schema version of its own; it rises when a field changes its
meaning or goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from abupdate.boot.state import Ustate
from abupdate.disk.layout import Slot
from abupdate.errors import NothingToDoError
from abupdate.update.records import HistoryEntry, Intent
from abupdate.update.slots import Machine
from abupdate.update.trials import TrialBoot, Trials

SCHEMA_VERSION = 1
# What ends an install other than its confirmation.
ENDS = ("fallback", "rejected", "interrupted", "unfinished", "lost")


@dataclass(frozen=True)
class Story:
    """What became of a release that did not stay. Times are seconds since the epoch.

    `event`: one of `ENDS`. `installed`: when its install began; `boots`: its trial
    boots, oldest first. `running`: the release that runs now, in slot `booted`
    ("R" is rescue). `failed`: it is on the list of releases that are not tried
    again by themselves. `rearmed`: it was armed once more. `open`: nobody has
    acknowledged the fallback yet.
    """

    schema_version: int
    event: str
    time: float
    release: str | None
    commit: str | None
    slot: str | None
    cause: str | None
    installed: float | None
    boots: tuple[TrialBoot, ...]
    booted: str
    running: str | None
    failed: bool
    rearmed: bool
    open: bool


def tell(machine: Machine) -> Story:
    """The story of the last release that did not stay. Raises `NothingToDoError` without one."""
    booted, state = machine.booted(), machine.grubenv().read().state
    intent = machine.records.intent()
    ends = [entry for entry in machine.records.history() if entry.event in ENDS]
    last = ends[-1] if ends else None
    fell_back = state is not None and state.ustate == Ustate.FAILED
    if state is not None and fell_back and not _tells(last, state.failed, machine, intent):
        # GRUB fell back, and no boot that was judged has told it yet.
        last = _untold(intent, state.failed)
    if last is None:
        raise NothingToDoError("No release has been given up here.")
    commit = last.detail.get("commit")
    mine = intent is not None and intent.commit == commit
    running = machine.records.slot(booted.slot) if booted.slot else None
    return Story(
        schema_version=SCHEMA_VERSION,
        event=last.event,
        time=last.time,
        release=last.release,
        commit=commit,
        slot=last.slot,
        cause=last.detail.get("cause"),
        installed=intent.started if intent is not None and mine else None,
        boots=tuple(Trials(machine.paths.state).boots(commit)) if commit else (),
        booted=str(booted.slot or "R"),
        running=running.release if running else None,
        failed=any(failed.commit == commit for failed in machine.records.failed()),
        rearmed=intent is not None and mine and intent.rearmed,
        open=fell_back,
    )


def _tells(last: HistoryEntry | None, failed: str, machine: Machine, intent: Intent | None) -> bool:
    """Whether an entry is about the fallback that the boot state knows of."""
    if last is None:
        return False
    if failed not in ("A", "B"):
        return True  # armed again, or begun anew: what was told is the last of it
    record = machine.records.slot(Slot(failed))
    since = (record.confirmed if record else None) or 0.0
    if intent is not None and intent.outcome is None:
        since = max(since, intent.started)
    return last.slot == failed and last.time >= since


def _untold(intent: Intent | None, failed: str) -> HistoryEntry:
    slot = failed if failed in ("A", "B") else None
    if intent is None or intent.slot != slot:
        why = "no record of what was in the slot is left"
        return HistoryEntry("fallback", 0.0, None, slot, {"cause": why})
    why = "no boot since then was healthy, and looked into it"
    detail = {"commit": intent.commit, "cause": why}
    return HistoryEntry("fallback", 0.0, intent.release, slot, detail)
