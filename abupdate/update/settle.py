"""What became of the last install: the intent against the boot state, told once.

Intent and boot state are two files, and a cut may fall between them; so what
an install wanted is compared with what boots, and closed with one line of
history, whenever a boot was judged and before another intent takes its place.
"""

from __future__ import annotations

import time
from dataclasses import replace

from abupdate.boot.state import BootState
from abupdate.disk.layout import Slot
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.metadata import parse_release_toml
from abupdate.update import trust
from abupdate.update.records import HistoryEntry, Intent, SlotRecord, SlotState, now
from abupdate.update.slots import Machine, attempt_note
from abupdate.update.trials import Trials, cause

LOST = "it was cut off while it was being armed, or the boot state was lost"
UNFINISHED = "it was cut off before the slot was complete"


def settle(machine: Machine, state: BootState, events: Events) -> None:
    """Close the open intent, unless what it wanted is still to come."""
    intent = machine.records.intent()
    if intent is None or intent.outcome is not None or state.on_trial == intent.slot:
        return
    slot = Slot(intent.slot)
    record = machine.records.slot(slot)
    complete = record if record is not None and record.state == SlotState.CLEAN else None
    keeps = slot == state.slot and slot in state.good
    if complete is None or complete.commit != intent.commit:
        # A release from before, if any: the wanted one never got as far as the slot.
        if complete is not None and complete.confirmed is None:
            if keeps:
                _confirmed(machine, complete, events)
            elif state.failed == slot:
                _fell_back(machine, complete.release, complete.commit, slot, events)
        _note_lost(machine, intent, "unfinished", UNFINISHED, events)
    elif keeps:
        _confirmed(machine, complete, events)
        _close(machine, intent, "confirmed", None)
        failpoint("confirm-recorded")
    elif state.failed == slot or intent.armed is not None:
        why = _fell_back(machine, intent.release, intent.commit, slot, events)
        _close(machine, intent, "fallback", why)
    else:
        _note_lost(machine, intent, "lost", LOST, events)


def make_room(machine: Machine, state: BootState, events: Events) -> None:
    """Before another intent takes the place of the last one: tell what became of that."""
    settle(machine, state, events)
    if state.on_trial is not None:
        slot = Slot(state.on_trial)
        record = machine.records.slot(slot)
        release = record.release if record is not None else None
        note(machine, events, HistoryEntry("replaced", now(), release, slot))


def note(machine: Machine, events: Events, entry: HistoryEntry) -> None:
    """Add a line to the history; a disk that takes none is a warning."""
    attempt_note(lambda: machine.records.append(entry), events.warning, "history")


def _fell_back(machine: Machine, release: str, commit: str, slot: Slot, events: Events) -> str:
    boots = Trials(machine.paths.state).boots(commit)
    why = cause(boots)
    detail = {"cause": why, "judged_boots": len(boots)}
    note(machine, events, HistoryEntry("fallback", now(), release, slot, detail))
    return why


def _note_lost(machine: Machine, intent: Intent, outcome: str, why: str, events: Events) -> None:
    detail = {"cause": why}
    entry = HistoryEntry(outcome, now(), intent.release, Slot(intent.slot), detail)
    note(machine, events, entry)
    _close(machine, intent, outcome, why)


def _close(machine: Machine, intent: Intent, outcome: str, why: str | None) -> None:
    machine.records.write_intent(replace(intent, outcome=outcome, cause=why))


def _confirmed(machine: Machine, record: SlotRecord, events: Events) -> None:
    """Record, tag, floor and history of a slot that was confirmed."""
    machine.records.write_slot(replace(record, confirmed=now()))
    stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    attempt_note(
        lambda: machine.store().set_ref(f"refs/tags/booted-{stamp}", record.commit),
        events.warning,
        "booted tag",
    )
    if machine.booted().slot == record.slot:
        attempt_note(lambda: _raise_floor(machine), events.warning, "version floor")
    note(machine, events, HistoryEntry("confirmed", now(), record.release, Slot(record.slot)))


def _raise_floor(machine: Machine) -> None:
    stated = (machine.paths.root / ".abupdate" / "release.toml").read_bytes()
    lowest = parse_release_toml(stated).floor
    if lowest is not None:
        trust.raise_floor(machine.paths, lowest)
