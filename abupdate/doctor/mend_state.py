"""Mends the boot state: one copy from the other; both from what records and labels say.

- The copy that GRUB does not use is written first, so that one is whole throughout.
- A lost primary is made from the backup only where that decides nothing that is not decided
  already (`diagnose_state.why_not_from_backup`).
- Both lost: in rescue from records and labels (`boot.state.rebuild`). A slot that runs leaves
  that to rescue, which knows both slots. Without a rescue system GRUB would boot A, whatever
  it holds, one that failed or was never confirmed as well: a slot that runs, was confirmed and
  is not on trial then makes itself what boots, and counts nothing else as good.
"""

from __future__ import annotations

from abupdate.boot import state as boot
from abupdate.boot.state import BootState
from abupdate.disk.layout import RESCUE, Slot
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair, Wishes
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.update import seen
from abupdate.update.records import SlotRecord, SlotState
from abupdate.update.slots import Machine

_COPIES = (
    "copy-missing", "copy-unreadable", "copy-length", "copy-sparse", "copy-lost", "copy-layout",
    "copies-differ",
)  # fmt: skip
_LOST = ("copies-lost", "copy-missing", "copy-unreadable", "copy-length", "copy-sparse",
         "copy-lost")  # fmt: skip
_BLOCKED = ("esp-write-protected", "esp-read-only")


def plan(now: Look, wishes: Wishes) -> Plan:
    """Last of all: what may boot follows from labels and records."""
    if now.obstacle or not now.esp_readable or now.found(*_BLOCKED):
        return []
    folder = now.machine.paths.esp / "grub"
    if now.found("copies-lost"):
        return [_rebuild(now, wishes)]
    bad = [one for one in now.found(*_COPIES) if one.repairable]
    if not bad:
        return []
    source = now.machine.grubenv().read().source
    return [
        Repair(
            "boot-state",
            tuple(sorted({one.id for one in bad})),
            f"Write both copies of the boot state in {folder} again from the {source}, which GRUB "
            f"uses: {bad[0].message}",
            lambda: _mend_copies(now.machine),
        )
    ]


def _mend_copies(machine: Machine) -> str:
    """Both copies again, from the one that GRUB uses; the other one first."""
    grubenv = machine.grubenv()
    reading = grubenv.read()
    if reading.state is None:
        raise DeviceFaultError("Both copies of the boot state are lost now; nothing was written.")
    if reading.source == "backup":
        seen.remember(machine.paths.runtime, seen.UNKNOWN)
    grubenv.write(reading.state, backup_first=reading.source == "primary")
    told = f"Both copies of the boot state were written again, from the {reading.source}."
    intent = machine.records.intent()
    armed = intent is not None and intent.armed is not None and intent.outcome is None
    if reading.source == "backup" and intent is not None and armed:
        told += (
            f" The trial of release {intent.release} in slot {intent.slot} was in the lost one "
            "only: `abupdate arm` arms it again."
        )
    return told


# --- Both lost ---


def _rebuild(now: Look, wishes: Wishes) -> Repair | Refusal:
    lost = tuple(sorted({one.id for one in now.found(*_LOST)}))
    try:
        state, good = _rebuilt(now, wishes)
    except RefusedError as error:
        return Refusal(lost, str(error))
    slots = " and ".join(f"slot {slot} (release {record.release})" for slot, record in good.items())
    return Repair(
        "boot-state",
        lost,
        f"Write both copies of the boot state in {now.machine.paths.esp / 'grub'} anew: slot "
        f"{state.slot} boots, and {slots} may, because both copies are lost, and records and "
        "labels say so.",
        lambda: _write(now, wishes),
    )


def _write(now: Look, wishes: Wishes) -> str:
    """The primary, then the backup. Until the first is whole, both are lost as before."""
    state, good = _rebuilt(now, wishes)
    machine = now.machine
    if machine.grubenv().read().state is not None:
        raise DeviceFaultError("A copy of the boot state is whole now; nothing was written.")
    seen.remember(machine.paths.runtime, seen.UNKNOWN)
    (machine.paths.esp / "grub").mkdir(parents=True, exist_ok=True)
    machine.grubenv().write(state)
    return f"Slot {state.slot} is what boots; {' and '.join(good)} may."


def _rebuilt(now: Look, wishes: Wishes) -> tuple[BootState, dict[Slot, SlotRecord]]:
    """The state, and the slots that may boot with what they hold. Raises `RefusedError`."""
    good = {slot: record for slot in Slot if (record := _proven(now, slot)) is not None}
    if not now.in_rescue:
        good = {slot: record for slot, record in good.items() if slot == _alone(now)}
    if not good:
        raise RefusedError(
            "No slot is confirmed by its record, and has the label of a complete one.",
            "Install a release from rescue, or the device anew; a label that was erased comes "
            "back where the slot can be compared with its release.",
        )
    last = max(good, key=lambda slot: good[slot].confirmed or 0)
    settings = wishes.settings.boot
    return boot.rebuild(last, list(good), settings.tries, settings.limit), good


def _proven(now: Look, slot: Slot) -> SlotRecord | None:
    record = now.machine.records.slot(slot)
    if record is None or record.state != SlotState.CLEAN or record.confirmed is None:
        return None
    try:
        part = now.disk.slot(slot)
    except RefusedError:
        return None
    return record if part.label == slot.label else None


def _alone(now: Look) -> Slot:
    """The slot that runs, where nothing else is left to decide. Raises `RefusedError`."""
    if now.booted is None or now.arguments.how == "trial":
        raise RefusedError(
            "What runs is on trial, and both copies of the boot state are lost.",
            "Reboot: GRUB starts rescue, which rebuilds them.",
        )
    if now.disk.labelled(RESCUE):
        raise RefusedError(
            "Rescue rebuilds both copies from records and labels, and knows more than a slot that "
            "runs.",
            "Reboot: GRUB starts rescue by itself.",
        )
    return now.booted
