"""What became of the last install: the intent against the boot state, told once.

Intent and boot state are two files, and a cut may fall between them; so what
an install wanted is compared with what boots, and closed with one line of
history, whenever a boot was judged and before another intent takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from abupdate.boot import state as boot
from abupdate.boot.state import BootState, Ustate
from abupdate.disk.layout import Slot
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.health.check import UnhealthyError
from abupdate.health.programs import look, scripts
from abupdate.release.metadata import parse_release_toml
from abupdate.update import trust
from abupdate.update.records import (
    FailedRelease,
    HistoryEntry,
    Intent,
    SlotRecord,
    SlotState,
    new_trial,
    now,
)
from abupdate.update.slots import Booted, Machine, attempt_note
from abupdate.update.trials import Trials, cause

LOST = "it was cut off while it was being armed, or the boot state was lost"
UNFINISHED = "it was cut off before the slot was complete"
INTERRUPTED = "no boot of it came to a verdict, and nothing on record speaks against it"
USED_UP = "it was confirmed, and then none of its boots was healthy until they were used up"

_HOOK_SECONDS = 60.0


def settle(machine: Machine, state: BootState, events: Events) -> None:
    """Close the open intent, unless what it wanted is still to come."""
    intent = machine.records.intent()
    if intent is None or intent.outcome is not None:
        _tell_used_up(machine, state, events)
        return
    if state.on_trial == intent.slot:
        return
    slot = Slot(intent.slot)
    record = machine.records.slot(slot)
    complete = record if record is not None and record.state == SlotState.CLEAN else None
    # A slot that used up its boots stays good; one whose trial failed does not. One that was
    # good before this trial proves nothing by that.
    used_up = slot == state.failed and intent.armed is not None
    proves = intent.was_confirmed is None or slot == state.slot or used_up
    keeps = slot in state.good and proves
    if complete is None or complete.commit != intent.commit:
        # A release from before, if any: the wanted one never got as far as the slot.
        if complete is not None and complete.confirmed is None:
            if keeps:
                _confirmed(machine, complete, events)
            elif state.failed == slot:
                earlier = f"{slot}, written at {complete.written}"
                _fell_back(machine, complete, earlier, events)
        _note_lost(machine, intent, "unfinished", UNFINISHED, events)
    elif keeps:
        if complete.confirmed == intent.was_confirmed:  # that was before this trial
            complete = replace(complete, confirmed=None)
        # What could not be noted now is tried again after the next boot.
        if _confirmed(machine, complete, events):
            _close(machine, intent, "confirmed", None, events)
            failpoint("confirm-recorded")
            _tell_used_up(machine, state, events)
    elif state.failed == slot and not intent.rearmed and _interrupted(machine, intent):
        _note_lost(machine, intent, "interrupted", INTERRUPTED, events)
    elif state.failed == slot or not _vanished(machine, intent):
        event = intent.ending or "fallback"
        told = _fell_back(machine, intent, intent.trial, events, why=intent.cause, event=event)
        _close(machine, intent, told.event, told.detail["cause"], events)
    else:
        _note_lost(machine, intent, "lost", LOST, events)


def rearm_interrupted(
    machine: Machine, state: BootState, booted: Booted, events: Events
) -> Intent | None:
    """Arm a trial whose boots were all cut off once more, if it was the last thing wanted.

    The caller holds the job's lock; the slot that runs is healthy. What was
    armed, or None.
    """
    intent = machine.records.intent()
    if intent is None or intent.outcome != "interrupted" or intent.rearmed:
        return None
    slot, record = Slot(intent.slot), machine.records.slot(Slot(intent.slot))
    complete = record is not None and record.state == SlotState.CLEAN
    if not complete or state.failed != slot or booted.slot != state.slot:
        return None
    if booted.disk.slot(slot).label != slot.label:
        return None
    again = replace(
        intent, outcome=None, cause=None, ending=None, armed=None, rearmed=True, trial=new_trial()
    )
    # First: a cut after this line gives it up, one before it tries again.
    machine.records.write_intent(again)
    machine.grubenv().write(boot.arm(state, slot))
    failpoint("rearmed")
    machine.records.write_intent(replace(again, armed=now()))
    note(machine, events, HistoryEntry("rearmed", now(), intent.release, slot))
    return again


def _interrupted(machine: Machine, intent: Intent) -> bool:
    """Whether nothing on record speaks against the release: cuts alone ended its boots."""
    if intent.ending is not None:
        return False  # it was being given up
    boots = Trials(machine.paths.state).boots(intent.commit)
    return not any(boot.against_it for boot in boots)


def _vanished(machine: Machine, intent: Intent) -> bool:
    """For a boot state that tells nothing of its end: whether nothing else does."""
    if intent.ending is None and intent.armed is None:
        return True  # what the records of boots tell may be of an earlier trial
    return _interrupted(machine, intent)


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


def _fell_back(
    machine: Machine,
    given_up: Intent | SlotRecord,
    trial: str,
    events: Events,
    *,
    why: str | None = None,
    event: str = "fallback",
) -> HistoryEntry:
    release, commit = given_up.release, given_up.commit
    boots = Trials(machine.paths.state).boots(commit)
    why = why or cause(boots)
    failed = FailedRelease(commit, release, now(), why)
    attempt_note(lambda: machine.records.add_failed(failed), events.warning, "failed list")
    detail = {"cause": why, "commit": commit, "boots": len(boots), "trial": trial}
    entry = HistoryEntry(event, now(), release, Slot(given_up.slot), detail)
    return _tell_end(machine, events, entry)


def _note_lost(machine: Machine, intent: Intent, outcome: str, why: str, events: Events) -> None:
    detail = {"cause": why, "commit": intent.commit, "trial": intent.trial}
    entry = HistoryEntry(outcome, now(), intent.release, Slot(intent.slot), detail)
    told = _tell_end(machine, events, entry)
    _close(machine, intent, told.event, told.detail["cause"], events)


def _tell_end(machine: Machine, events: Events, entry: HistoryEntry) -> HistoryEntry:
    """Tell the end of a trial; the line that tells it, which may be of a boot that was cut then."""
    told = _told(machine, entry.detail["trial"])
    if told is not None:
        return told
    note(machine, events, entry)
    failpoint("told")
    return entry


def _told(machine: Machine, trial: str) -> HistoryEntry | None:
    """The line of history that tells the end of a trial."""
    for line in reversed(machine.records.history()):
        if line.detail.get("trial") == trial and "cause" in line.detail:
            return line
    return None


def _close(machine: Machine, intent: Intent, outcome: str, why: str | None, events: Events) -> None:
    """The boot state is what it is: where data takes no writes, a later boot closes the intent."""
    closed = replace(intent, outcome=outcome, cause=why, ending=None)
    attempt_note(lambda: machine.records.write_intent(closed), events.warning, "intent")


def _tell_used_up(machine: Machine, state: BootState, events: Events) -> None:
    """A confirmed slot that used up its boots was given up by GRUB alone: tell it once."""
    if state.ustate != Ustate.FAILED or state.failed == boot.NONE:
        return
    slot = Slot(state.failed)
    record = machine.records.slot(slot)
    if record is None or record.confirmed is None or slot not in state.good:
        return
    trial = f"{slot}, confirmed at {record.confirmed}"
    if _told(machine, trial) is None:
        _fell_back(machine, record, trial, events, why=USED_UP)


def _confirmed(machine: Machine, record: SlotRecord, events: Events) -> bool:
    """Record, tag, floor, hooks and history of a slot that was confirmed; whether all succeeded.

    Done again, it adds what is missing. The line of history says that the hooks have run.
    """
    if record.confirmed is None:
        record = replace(record, confirmed=now())
        noted = record
        if not attempt_note(lambda: machine.records.write_slot(noted), events.warning, "record"):
            return False
    assert record.confirmed is not None
    at = record.confirmed
    stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(at))
    told = HistoryEntry("confirmed", at, record.release, Slot(record.slot))
    todo: list[tuple[str, Callable[[], object]]] = [
        (
            "booted tag",
            lambda: machine.store().set_ref(f"refs/tags/booted-{stamp}", record.commit, alone=True),
        ),
        ("failed list", lambda: machine.records.remove_failed(record.commit)),
    ]
    runs = machine.booted().slot == record.slot
    if runs and record.tag:  # what nobody has signed sets no rules
        todo.append(("version floor", lambda: _raise_floor(machine)))
    if told not in machine.records.history():
        if runs:
            _run_hooks(machine, record, events)
        todo.append(("history", lambda: machine.records.append(told)))
    done = [attempt_note(action, events.warning, what) for what, action in todo]
    return all(done)


def _run_hooks(machine: Machine, record: SlotRecord, events: Events) -> None:
    """`hooks/confirmed.d` of the release and of the owner. One that fails is told, and no more."""
    folders = [base / "hooks/confirmed.d" for base in (machine.paths.vendor, machine.paths.etc)]
    env = {"ABUPDATE_SLOT": record.slot, "ABUPDATE_RELEASE": record.release}
    for hook in scripts(folders):
        try:
            look([hook], _HOOK_SECONDS, env=env)
        except UnhealthyError as error:
            events.warning(f"hook {hook.name}: {error.message}\n{error.output}".rstrip())


def _raise_floor(machine: Machine) -> None:
    stated = (machine.paths.root / ".abupdate" / "release.toml").read_bytes()
    lowest = parse_release_toml(stated).floor
    if lowest is not None:
        trust.raise_floor(machine.paths, lowest)
