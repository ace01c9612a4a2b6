"""After the boot: confirm, reject, roll back, and settle what the last install came to.

The boot state is written first and read back; tag, floor, history and records
follow, and never undo it: a missing one is added by a later boot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from abupdate.boot import state as boot
from abupdate.boot.state import BootState, Ustate
from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.errors import NothingToDoError, RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.update import seen
from abupdate.update.checks import CheckResult, run_checks
from abupdate.update.job import job
from abupdate.update.records import HistoryEntry, Intent, now
from abupdate.update.settle import note, settle
from abupdate.update.slots import Booted, Machine, attempt_note, require_root
from abupdate.update.trials import Trials, judge


@dataclass(frozen=True)
class Verdict:
    """What a judgement changed, for the one who asked."""

    text: str
    reboot: bool = False


def confirm(machine: Machine, settings: Settings, events: Events) -> Verdict:
    """Keep the trial that runs. Raises `NothingToDoError` when none runs."""
    require_root()
    with job(machine.paths.runtime, "confirm"):
        booted, state = machine.booted(), machine.boot_state()
        return _confirm(machine, booted, state, settings, events)


def after_boot(machine: Machine, settings: Settings, events: Events) -> Verdict:
    """What a boot whose checks passed does: confirm a trial, or refill the countdown."""
    require_root()
    with job(machine.paths.runtime, "confirm"):
        booted, state = machine.booted(), machine.boot_state()
        if booted.slot is None:
            return Verdict("Rescue runs; nothing to confirm.")
        if _on_trial(booted, state):
            if settings.confirm.mode == "manual":
                return Verdict("The checks passed; waiting for `abupdate confirm`.")
            return _confirm(machine, booted, state, settings, events)
        if state.ustate == Ustate.INSTALLED:
            return _trial_not_booted(machine, booted, state, events)
        if booted.slot != state.slot:
            return Verdict(f"Slot {booted.slot} was chosen in the menu; nothing changes.")
        healthy = boot.healthy(state, booted.slot, settings.boot.tries, settings.boot.limit)
        _write_judged(machine, state, healthy, events)
        settle(machine, healthy, events)
        return Verdict(f"Slot {booted.slot} is healthy.")


def check_boot(machine: Machine, settings: Settings) -> list[CheckResult]:
    """Run the checks of this boot; on a trial, keep what they found."""
    results = run_checks(machine.paths, settings.health.timeout)
    booted, state = machine.booted(), machine.boot_state()
    record = machine.records.slot(booted.slot) if booted.slot else None
    if record is not None and _on_trial(booted, state):
        attempt = state.tries - state.countdown
        Trials(machine.paths.state).append(record.commit, judge(attempt, now(), results))
    return results


def after_failed_boot(machine: Machine, events: Events) -> Verdict:
    """What a boot whose checks failed does: on a trial reboot, so that the next try counts.

    GRUB gives the slot up when the countdown is used up: falling back needs
    nothing of the system that failed.
    """
    require_root()
    booted, state = machine.booted(), machine.boot_state()
    if not _on_trial(booted, state):
        return Verdict(
            "A required check failed on a confirmed slot; it stays, and is not refilled."
        )
    left = f"{state.countdown} more" if state.countdown else "no more"
    text = f"A required check failed on trial; GRUB tries slot {booted.slot} {left} times."
    events.warning(text)
    return Verdict(text, reboot=True)


def reject(machine: Machine, events: Events) -> Verdict:
    """Give the armed or running trial up by hand."""
    require_root()
    with job(machine.paths.runtime, "reject"):
        booted, state = machine.booted(), machine.boot_state()
        return _reject(machine, booted, state, "rejected by hand", events)


def rollback(machine: Machine, events: Events) -> Verdict:
    """Arm the other slot, which holds a system that was good."""
    require_root()
    with job(machine.paths.runtime, "rollback"):
        booted, state = machine.booted(), machine.boot_state()
        if booted.slot is None:
            raise RefusedError("This is rescue; roll back from slot A or B.")
        armed = boot.rollback(state, booted.slot)
        target = Slot(armed.trial)
        record = machine.records.slot(target)
        running = machine.records.slot(booted.slot)
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
            )
            machine.records.write_intent(intent)
        machine.grubenv().write(armed)
        if intent is not None:
            machine.records.write_intent(replace(intent, armed=now()))
        release = record.release if record else None
        note(machine, events, HistoryEntry("rollback", now(), release, target))
        return Verdict(
            f"Slot {target} (release {release or 'unknown'}) is armed; reboot to go back."
        )


def _confirm(
    machine: Machine, booted: Booted, state: BootState, settings: Settings, events: Events
) -> Verdict:
    if booted.slot is None or not _on_trial(booted, state):
        raise NothingToDoError("No trial is running.", "`abupdate status` tells what is.")
    done = boot.confirm(state, booted.slot, settings.boot.tries, settings.boot.limit)
    _write_judged(machine, state, done, events)
    failpoint("confirmed")
    settle(machine, done, events)
    record = machine.records.slot(booted.slot)
    release = record.release if record else "unknown"
    return Verdict(f"Release {release} in slot {booted.slot} is confirmed.")


def _reject(
    machine: Machine, booted: Booted, state: BootState, why: str, events: Events
) -> Verdict:
    given_up = boot.reject(state)
    _write_judged(machine, state, given_up, events)
    slot = Slot(given_up.failed)
    record, intent = machine.records.slot(slot), machine.records.intent()
    if intent is not None and intent.slot == slot:
        machine.records.write_intent(replace(intent, outcome="rejected", cause=why))
    release = record.release if record else None
    note(machine, events, HistoryEntry("rejected", now(), release, slot, {"cause": why}))
    running = booted.slot == slot
    text = f"Release {release or 'unknown'} in slot {slot} is given up: {why}."
    return Verdict(f"{text} Reboot to leave it." if running else text, reboot=running)


def _trial_not_booted(
    machine: Machine, booted: Booted, state: BootState, events: Events
) -> Verdict:
    """A trial is armed, and another slot runs."""
    if booted.arguments.how == "fallback":
        # GRUB gave the trial up and could not save that.
        return _reject(machine, booted, state, "GRUB could not save its state", events)
    return Verdict(f"Slot {state.trial} is armed; slot {booted.slot} was chosen in the menu.")


def _on_trial(booted: Booted, state: BootState) -> bool:
    return state.ustate == Ustate.INSTALLED and booted.slot == state.trial


def _write_judged(machine: Machine, before: BootState, after: BootState, events: Events) -> None:
    """Write what a judgement came to. It sets GRUB's mark back, which `doctor` asks for later."""
    attempt_note(
        lambda: seen.remember(machine.paths.runtime, before.seen), events.warning, "GRUB's mark"
    )
    machine.grubenv().write(after)
