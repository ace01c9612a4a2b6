"""What a person says of a trial: keep it, give it up, go back; and that a fallback is known."""

from __future__ import annotations

from dataclasses import replace

from abupdate.boot import state as boot
from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.errors import RefusedError
from abupdate.events import Events
from abupdate.release.version import Version
from abupdate.update import trust
from abupdate.update.arming import UNDO
from abupdate.update.job import job, unstoppable
from abupdate.update.judge import Verdict, confirm_trial, give_up
from abupdate.update.records import HistoryEntry, Intent, now
from abupdate.update.settle import note, settle
from abupdate.update.slots import Machine, attempt_note, require_root, write_state
from abupdate.update.trials import Trials


def confirm(machine: Machine, settings: Settings, events: Events) -> Verdict:
    """Keep the trial that runs. Raises `NothingToDoError` when none runs."""
    require_root()
    with job(machine.paths.runtime, "confirm"):
        booted, state = machine.booted(), machine.boot_state()
        return confirm_trial(machine, booted, state, settings, events)


def reject(machine: Machine, events: Events) -> Verdict:
    """Give the armed or running trial up by hand."""
    require_root()
    with job(machine.paths.runtime, "reject"):
        booted, state = machine.booted(), machine.boot_state()
        return give_up(machine, booted, state, "rejected", "rejected by hand", events)


def holds(machine: Machine, release: str) -> bool:
    """Whether the other slot holds this release, once good and still complete."""
    booted = machine.booted()
    if booted.slot is None:
        return False
    other = booted.slot.other
    record = machine.records.slot(other)
    return record is not None and record.release == release and other in machine.boot_state().good


def rollback(machine: Machine, events: Events) -> Verdict:
    """Arm the other slot, which holds a system that was good. Raises `RefusedError`."""
    require_root()
    with job(machine.paths.runtime, "rollback"):
        booted, state = machine.booted(), machine.boot_state()
        if booted.slot is None:
            raise RefusedError("This is rescue; roll back from slot A or B.")
        armed = boot.rollback(state, booted.slot)
        target = Slot(armed.trial)
        record = machine.records.slot(target)
        running = machine.records.slot(booted.slot)
        if record is not None:
            trust.check_floor(machine.paths, Version(record.release))
        label = booted.disk.slot(target).label
        if label != target.label:
            raise RefusedError(
                f"Slot {target} should be labelled '{target.label}', found '{label}': GRUB "
                "would not find it.",
                "Install a release into it.",
            )
        settle(machine, state, events)
        intent = None
        if record is not None:
            Trials(machine.paths.state).forget(record.commit)
            intent = Intent(
                slot=target,
                release=record.release,
                commit=record.commit,
                from_slot=booted.slot,
                from_release=running.release if running else None,
                started=now(),
                was_confirmed=record.confirmed,
            )
            machine.records.write_intent(intent)
        release = record.release if record else None

        def noted() -> None:
            if intent is not None:
                done = replace(intent, armed=now())
                attempt_note(lambda: machine.records.write_intent(done), events.warning, "intent")
            note(machine, events, HistoryEntry("rollback", now(), release, target))

        with unstoppable():
            write_state(machine, armed, f"Slot {target} is armed", UNDO, noted)
        return Verdict(
            f"Slot {target} (release {release or 'unknown'}) is armed; reboot to go back."
        )


def acknowledge(machine: Machine, events: Events) -> Verdict:
    """Say that a fallback is known: it is no longer told. Raises `RefusedError` without one."""
    require_root()
    with job(machine.paths.runtime, "acknowledge"):
        state = machine.boot_state()
        known = boot.acknowledge(state)
        settle(machine, state, events)
        machine.grubenv().write(known)
        note(machine, events, HistoryEntry("acknowledged", now()))
        return Verdict("The fallback is acknowledged; `abupdate why` still tells it.")
