"""Arming: from the write here on, GRUB tries the slot that an install left complete."""

from __future__ import annotations

from dataclasses import replace

from abupdate.boot import state as boot
from abupdate.boot.state import BootState
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from abupdate.errors import NothingToDoError, RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.update.job import job, unstoppable
from abupdate.update.records import Intent, SlotState, new_trial, now
from abupdate.update.settle import settle
from abupdate.update.slots import Machine, attempt_note, require_root, write_state
from abupdate.update.target import target
from abupdate.update.trials import Trials

UNDO = "`abupdate reject` takes it back."


def arm_installed(machine: Machine, events: Events, slot: Slot | None = None) -> Slot:
    """Arm the other slot, which an earlier install left complete (`install --no-arm`).

    `slot`: which, where rescue runs.
    """
    require_root()
    with job(machine.paths.runtime, "arm"):
        _, slot, partition = target(machine, slot)
        record = machine.records.slot(slot)
        if record is None or record.state != SlotState.CLEAN or partition.label != slot.label:
            raise RefusedError(
                f"Slot {slot} should hold a complete release, but the last install into it did "
                "not finish.",
                "Install a bundle first: abupdate install BUNDLE",
            )
        state = machine.boot_state()
        if state.trial == slot:
            raise NothingToDoError(f"Slot {slot} is armed already.", "Reboot to try it.")
        superblock = read_superblock(partition.device)
        if record.superblock not in (None, superblock.fingerprint if superblock else ""):
            raise RefusedError(
                f"Slot {slot} should be as the install left it, and was written to since.",
                f"`abupdate verify {slot}` tells what differs; install the release again.",
            )
        with unstoppable(), events.step("arm", f"Arm slot {slot}"):
            settle(machine, state, events)
            # A person wants it tried: it is judged by its new boots alone.
            Trials(machine.paths.state).forget(record.commit)
            arm(machine, slot, events)
        return slot


def arm(machine: Machine, slot: Slot, events: Events) -> None:
    """Let GRUB try a complete slot; the caller holds the lock, and no signal stops it.

    Raises what writing raises; "is armed all the same" where GRUB will try it nevertheless.
    """
    armed: BootState = boot.arm(machine.boot_state(), slot)
    intent, record = machine.records.intent(), machine.records.slot(slot)
    assert record is not None
    if intent is None or (intent.slot, intent.commit) != (slot, record.commit):
        # Installed, and then something else was wanted: what is armed is what is wanted now.
        intent = Intent(
            slot=slot,
            release=record.release,
            commit=record.commit,
            from_slot=armed.slot,
            from_release=None,
            started=now(),
        )
    intent = replace(
        intent,
        armed=None,
        outcome=None,
        cause=None,
        ending=None,
        rearmed=False,
        was_confirmed=record.confirmed,
        trial=new_trial(),
    )
    machine.records.write_intent(intent)
    done = replace(intent, armed=now())

    def noted() -> None:
        failpoint("armed")
        # GRUB tries it now: what cannot be noted any more is no install that failed.
        for what, note in (
            ("failed list", lambda: machine.records.remove_failed(record.commit)),
            ("intent", lambda: machine.records.write_intent(done)),
            # For abupdate-etc.service, which then has something to do at the shutdown.
            ("armed", (machine.paths.runtime / "armed").touch),
        ):
            attempt_note(note, events.warning, what)

    write_state(machine, armed, f"Slot {slot} is armed", UNDO, noted)
