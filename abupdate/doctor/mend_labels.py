"""Mends labels: those of slots and rescue, once they were read, and one that is there twice.

The label is the mark that a system is complete (docs/disk.md), by which GRUB finds it. So it
comes back only after every byte was read from the disk and found equal to the commit that the
slot's record names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from abupdate.disk import filesystem
from abupdate.disk.layout import RESCUE, Partition, Slot
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair, Wishes
from abupdate.errors import DeviceFaultError
from abupdate.failpoints import failpoint
from abupdate.update.records import SlotRecord, SlotState
from abupdate.update.slots import Machine
from abupdate.update.verify import compare_partition

_LONGEST = 16  # bytes of an ext4 label


def plan(now: Look, wishes: Wishes) -> Plan:
    """Labels that are there twice first: GRUB takes neither of the two."""
    if now.obstacle:
        return []
    return [*_doubled(now), *_missing(now, wishes), *_rescue(now, wishes)]


# --- Missing ---


def _missing(now: Look, wishes: Wishes) -> Iterator[Repair | Refusal]:
    for slot in Slot:
        part = next((one for one in now.disk.partitions if one.name == slot.label), None)
        if part is None or part.label == slot.label:
            continue
        record = now.machine.records.slot(slot)
        lost = now.found("slot-lost", "slot-unfinished")
        finding = next((one for one in lost if one.message.startswith(f"{part.device} ")), None)
        if finding is None or (finding.id == "slot-unfinished" and not _was_good(now, record)):
            continue
        yield _label(now, wishes, slot, part, record, finding.id)


def _was_good(now: Look, record: SlotRecord | None) -> bool:
    """With the boot state lost, nothing tells which slot is wanted but that it was confirmed."""
    return now.state is None and record is not None and record.confirmed is not None


def _label(
    now: Look,
    wishes: Wishes,
    slot: Slot,
    part: Partition,
    record: SlotRecord | None,
    name: str,
) -> Repair | Refusal:
    install = f"Install a release into slot {slot}."
    if part.device == now.disk.root.device:
        why = (
            f"Slot {slot} runs, and nothing writes to what runs: start rescue (abupdate rescue "
            "boot), and repair there; GRUB does not find the slot as it is."
        )
        return Refusal((name,), why)
    if part.label is None:
        return Refusal((name,), f"{part.device} holds no filesystem: nothing is left. {install}")
    if record is None or record.state != SlotState.CLEAN:
        has = "no record of what it holds" if record is None else "an install that did not end"
        return Refusal((name,), f"There is {has}, so nothing tells that it is complete. {install}")
    known = record
    return Repair(
        f"label-{slot}",
        (name,),
        f"Read all of slot {slot} on {part.device}, and where it equals release {record.release}, "
        f"label it '{slot.label}' again, because GRUB finds it by that alone.",
        lambda: _labelled(now, wishes, slot, part, known),
    )


def _labelled(now: Look, wishes: Wishes, slot: Slot, part: Partition, record: SlotRecord) -> str:
    machine = now.machine
    done = _label_again(machine, f"slot {slot}", slot.label, part, record, wishes)
    machine.records.write_slot(done)
    return f"Slot {slot} equals release {record.release}, and is labelled '{slot.label}' again."


def _label_again(
    own: Machine, what: str, label: str, part: Partition, record: SlotRecord, wishes: Wishes
) -> SlotRecord:
    """Compare, label; the record of what is there now. `own`: its store has the release.

    A power cut before the label leaves it as it was. After it the system is complete, and only
    its record does not prove that; the next install looks at all of it then.
    """
    own.unmount_leftovers()
    filesystem.refuse_if_in_use(part.device)
    filesystem.check(part.device)
    compare_partition(own, what, part.device, record, running=False, events=wishes.events)
    failpoint("slot-verified")
    filesystem.relabel(part.device, label)
    failpoint("slot-labelled")
    superblock = filesystem.read_superblock(part.device)
    if superblock is None:
        raise DeviceFaultError(
            f"{part.device} should hold the filesystem that was just labelled, and it cannot be "
            "read.",
            "The disk is failing.",
        )
    return replace(record, uuid=superblock.uuid, superblock=superblock.fingerprint)


# --- Rescue ---


def _rescue(now: Look, wishes: Wishes) -> Iterator[Repair | Refusal]:
    kind = ("rescue-missing",)
    named = [part for part in now.disk.partitions if part.name == RESCUE]
    if not now.found(*kind) or len(named) != 1 or now.found("label-doubled"):
        return
    part, record = named[0], now.machine.records.rescue()
    fill = "abupdate rescue update SOURCE fills it; until then nothing is behind both slots."
    if part.label is None or record is None or record.state != SlotState.CLEAN:
        yield Refusal(kind, f"{part.device} holds no rescue system that was written whole: {fill}")
        return
    known = record
    yield Repair(
        "label-R",
        kind,
        f"Read all of the rescue system on {part.device}, and where it equals release "
        f"{record.release} of its store, label it '{RESCUE}' again, because GRUB finds it by that "
        "alone.",
        lambda: _rescue_labelled(now, wishes, part, known),
    )


def _rescue_labelled(now: Look, wishes: Wishes, part: Partition, record: SlotRecord) -> str:
    machine = now.machine
    own = replace(machine, paths=machine.paths.of_rescue())
    done = _label_again(own, "the rescue system", RESCUE, part, record, wishes)
    machine.records.write_rescue(done)
    return f"The rescue system equals release {record.release}, and is labelled '{RESCUE}' again."


# --- There twice ---


def _doubled(now: Look) -> Iterator[Repair | Refusal]:
    if not now.found("label-doubled"):
        return
    names = (*(slot.label for slot in Slot), RESCUE)
    for name in names:
        if [part.name for part in now.disk.partitions].count(name) != 1:
            continue
        for part in now.disk.labelled(name):
            if part.name != name:
                yield _stranger(now, part, name, names)


def _stranger(now: Look, part: Partition, label: str, ours: tuple[str, ...]) -> Repair | Refusal:
    kind = ("label-doubled",)
    if part.device == now.disk.root.device:
        return Refusal(
            kind, f"{part.device} runs, and nothing writes to what runs: repair it from rescue."
        )
    slot = next((one for one in Slot if one.label == part.name), None)
    new = slot.unfinished_label if slot else f"was-{label}"[:_LONGEST]
    named = f"its name in the partition table is '{part.name}'" if part.name else "it has no name"
    own = part.name in ours
    return Repair(
        f"label-of-{part.device.name}",
        kind,
        f"Label {part.device} '{new}' instead of '{label}', because {named}, and GRUB takes "
        f"neither of two partitions with the label '{label}'.",
        _relabelled(part, new),
        risk=None
        if own
        else f"No file on {part.device} is lost; but what of yours looks for the label '{label}' "
        "(/etc/fstab, a script) finds it no more.",
    )


def _relabelled(part: Partition, label: str) -> Callable[[], str]:
    """One write of the superblock: the old label or the new one, wherever the power goes."""

    def act() -> str:
        filesystem.refuse_if_in_use(part.device)
        filesystem.relabel(part.device, label)
        return f"{part.device} is labelled '{label}'."

    return act
