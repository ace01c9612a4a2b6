"""Leave rescue for what was good, after a set time: a device must not sit there for ever.

Boots may have been used up by nothing but flaky power. Where nobody is at work, and a slot that
was confirmed is complete, GRUB gets it again, with all its boots. Where rescue has just mended
something (a boot state, a table, labels), that is likely what brought it here, and the slot is
tried soon: once, for what comes back again is not mended.
"""

from __future__ import annotations

from dataclasses import replace

from abupdate.boot import state as boot
from abupdate.boot.state import BootState
from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.errors import RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.update import evidence
from abupdate.update.job import job, running_job
from abupdate.update.records import HistoryEntry, SlotState, now
from abupdate.update.slots import Booted, Machine, attempt_note, require_root, write_state

# What a person does at a console or in a session says that somebody is there.
_ATTENDED = "attended"
_MENDED = "mended"
# Enough to reach for a key and see what was mended.
_SOON = 120.0  # seconds


def attend(machine: Machine) -> None:
    """Somebody is there: the set time begins anew."""
    _note(machine, _ATTENDED)


def note_mended(machine: Machine) -> None:
    """Something was mended: a slot is tried soon, unless that was the last thing that happened."""
    before = [one.event for one in machine.records.history() if one.event != "repaired"]
    if before[-1:] != ["retried"]:
        _note(machine, _MENDED)


def retry_due(machine: Machine, settings: Settings) -> bool:
    """Whether nobody has been at work in rescue for the set time."""
    after = settings.rescue.retry
    if after == 0 or running_job(machine.paths.runtime) is not None:
        return False
    attended, mended = _noted(machine, _ATTENDED), _noted(machine, _MENDED)
    due = (attended or 0.0) + after
    if mended is not None and (attended is None or attended < mended):  # and nobody came since
        due = min(due, mended + _SOON)
    return evidence.uptime() >= due


def _note(machine: Machine, name: str) -> None:
    machine.paths.runtime.mkdir(parents=True, exist_ok=True)
    (machine.paths.runtime / name).write_text(f"{evidence.uptime()}\n")


def _noted(machine: Machine, name: str) -> float | None:
    """Seconds of uptime at which it was noted."""
    try:
        return float((machine.paths.runtime / name).read_text())
    except (OSError, ValueError):
        return None


def retry(machine: Machine, settings: Settings, events: Events) -> Slot:
    """Give the best slot that was confirmed its boots again, and say which; the caller reboots.

    Raises `RefusedError` where there is none.
    """
    require_root()
    with job(machine.paths.runtime, "retry"):
        booted, state = machine.booted(), machine.boot_state()
        if booted.slot is not None:
            raise RefusedError(f"Slot {booted.slot} runs; only rescue tries again.")
        if state.on_trial:
            return Slot(state.trial)  # it was installed here, and is tried now
        usable = _usable(machine, booted, state)
        if not usable:
            raise RefusedError(
                "No slot holds a confirmed system that is complete.",
                "Install a release: abupdate rescue reflash A SOURCE",
            )
        slot = Slot(state.slot) if state.slot in usable else usable[0]
        if slot != state.slot or (state.limit and not state.countdown):
            again = boot.retry(replace(state, slot=slot))
            write_state(machine, again, f"Slot {slot} gets its boots again")
            failpoint("retried")
        entry = HistoryEntry("retried", now(), _release(machine, slot), slot)
        attempt_note(lambda: machine.records.append(entry), events.warning, "history")
        return slot


def _usable(machine: Machine, booted: Booted, state: BootState) -> list[Slot]:
    """Slots that were confirmed, are complete by their label, and not being written."""
    found = []
    for slot, partition in booted.disk.slots().items():
        record = machine.records.slot(slot)
        writing = record is not None and record.state == SlotState.WRITING
        if slot in state.good and partition.label == slot.label and not writing:
            found.append(slot)
    return found


def _release(machine: Machine, slot: Slot) -> str | None:
    record = machine.records.slot(slot)
    return record.release if record else None
