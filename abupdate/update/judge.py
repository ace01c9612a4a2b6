"""The two ends of a trial, as the verbs of a person and the units of a boot share them.

The boot state is written first and read back; tag, floor, history and records
follow, and never undo it: a missing one is added by a later boot.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from abupdate.boot import state as boot
from abupdate.boot.state import BootState, Ustate
from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.errors import NothingToDoError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.update import seen, trust
from abupdate.update.job import unstoppable
from abupdate.update.records import FailedRelease, HistoryEntry, now, sync_directory
from abupdate.update.settle import note, settle
from abupdate.update.slots import Booted, Machine, attempt_note, write_state


@dataclass(frozen=True)
class Verdict:
    """What a judgement changed, for the one who asked. `reboot`: only that leaves the slot."""

    text: str
    reboot: bool = False


def on_trial(booted: Booted, state: BootState) -> bool:
    """Whether the slot that runs is on trial."""
    return state.ustate == Ustate.INSTALLED and booted.slot == state.trial


def confirm_trial(
    machine: Machine, booted: Booted, state: BootState, settings: Settings, events: Events
) -> Verdict:
    """Keep the trial that runs. Raises `NothingToDoError` when none does."""
    if booted.slot is None or not on_trial(booted, state):
        raise NothingToDoError("No trial is running.", "`abupdate status` tells what is.")
    done = boot.confirm(state, booted.slot, settings.boot.tries, settings.boot.limit)
    write_judged(machine, state, done, "It is confirmed", events)
    failpoint("confirmed")
    settle(machine, done, events)
    note_trust(machine, events)
    attempt_note(lambda: _forget_snapshot(machine), events.warning, "data before the trial")
    record = machine.records.slot(booted.slot)
    release = record.release if record else "unknown"
    return Verdict(f"Release {release} in slot {booted.slot} is confirmed.")


def _forget_snapshot(machine: Machine) -> None:
    """What `initramfs/abupdate-mount` kept of data, to be put back after a fallback.

    The marker goes first: without it nothing is put back, and the next boot drops the rest.
    """
    folder = machine.paths.state / "snapshot"
    if folder.exists():
        (folder / "complete").unlink(missing_ok=True)
        sync_directory(folder)
        shutil.rmtree(folder)


def note_trust(machine: Machine, events: Events) -> None:
    """Keep what the running slot revokes and believes, once that is confirmed.

    Each healthy boot tries again.
    """
    attempt_note(lambda: trust.keep_revocations(machine.paths), events.warning, "revocations")
    attempt_note(lambda: trust.keep_keys(machine.paths), events.warning, "keys for rescue")


def give_up(
    machine: Machine, booted: Booted, state: BootState, ended: str, why: str, events: Events
) -> Verdict:
    """Give the armed or running trial up. `ended`: rejected (a person did) or fallback."""
    given_up = boot.reject(state)
    slot = Slot(given_up.failed)
    record, intent = machine.records.slot(slot), machine.records.intent()
    if intent is not None and record is not None and intent.commit != record.commit:
        intent = None  # of an install that did not get to writing: not what is given up

    def note_intent(outcome: str | None) -> None:
        if intent is not None and intent.slot == slot:
            ending = ended if outcome is None else None
            noted = replace(intent, outcome=outcome, ending=ending, cause=why)
            attempt_note(lambda: machine.records.write_intent(noted), events.warning, "intent")

    release = record.release if record else None

    def noted() -> None:
        failpoint("given-up")
        if record is not None:
            failed = FailedRelease(record.commit, record.release, now(), why)
            attempt_note(lambda: machine.records.add_failed(failed), events.warning, "failed list")
        detail = {"cause": why} | ({"commit": record.commit} if record else {})
        if intent is not None and intent.slot == slot:
            detail["trial"] = intent.trial
        note(machine, events, HistoryEntry(ended, now(), release, slot, detail))
        failpoint("told")
        note_intent(ended)

    with unstoppable():
        if intent is not None and intent.outcome is None:
            # Before the boot state: a cut right after that must not look like an interruption.
            note_intent(None)
        write_judged(machine, state, given_up, "It is given up", events, noted)
    running = booted.slot == slot
    text = f"Release {release or 'unknown'} in slot {slot} is given up: {why}."
    return Verdict(f"{text} Reboot to leave it." if running else text, reboot=running)


def write_judged(
    machine: Machine,
    before: BootState,
    after: BootState,
    done: str,
    events: Events,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Write what a judgement came to. It sets GRUB's mark back, which `doctor` asks for later.

    `done`: what is so once GRUB goes by it, whatever else fails; `then`: what to do then.
    """
    attempt_note(
        lambda: seen.remember(machine.paths.runtime, before.seen), events.warning, "GRUB's mark"
    )
    write_state(machine, after, done, then=then)
