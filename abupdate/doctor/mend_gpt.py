"""Mends the partition table: a copy from the other one, the protective MBR, a lost name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from abupdate.disk import gptcopies, grubimage
from abupdate.disk.gptcopies import FIRST, SECOND, Copies
from abupdate.disk.layout import BIOS, BOOT, DATA, RESCUE, BootDisk, Partition, Slot
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair, Wishes
from abupdate.errors import DeviceFaultError
from abupdate.provision.grub import places_of

_OURS = (BIOS, BOOT, RESCUE, *(slot.label for slot in Slot), DATA)
_LABELS = {
    RESCUE: (RESCUE,),
    DATA: (DATA,),
    **{slot.label: (slot.label, slot.unfinished_label) for slot in Slot},
}
_REBOOT = "the kernel goes by it from the next boot on"


def plan(now: Look, _wishes: Wishes) -> Plan:
    """The table first, for everything else is found by it."""
    copies, disk = now.copies, now.disk.device
    if copies is None or copies.whole is None or now.obstacle:
        return []
    found: Plan = []
    ways: tuple[tuple[str, str, str, Callable[[Copies], None]], ...] = (
        ("gpt-primary", FIRST, SECOND, gptcopies.write_first),
        ("gpt-backup", SECOND, FIRST, gptcopies.write_second),
    )
    for name, bad, good, write in ways:
        if now.found(name):
            found.append(
                Repair(
                    name,
                    (name,),
                    f"Write the {bad} copy of the partition table of {disk} again from the {good} "
                    f"one, because {copies.faults[bad]}.",
                    _written(disk, bad, write),
                )
            )
    if now.found("gpt-protective") and not copies.foreign:
        found.append(
            Repair(
                "gpt-protective",
                ("gpt-protective",),
                f"Write the protective MBR into the first sector of {disk}, beside the boot code, "
                f"because {copies.faults['mbr']}, and the kernel looks for no GPT without it.",
                _written(disk, "mbr", gptcopies.write_protective),
            )
        )
    if now.found("places-lost"):
        found.append(
            Repair(
                "places",
                ("places-lost",),
                f"Write into {disk}, in front of its first partition, where rescue and the slots "
                "are, because a BIOS's GRUB finds them by that where the first copy of the table "
                "is lost.",
                lambda: _put_places(disk),
            )
        )
    if not copies.faults:
        found += _names(now.disk, copies)
    return found


def _put_places(disk: Path) -> str:
    whole = gptcopies.look(disk).whole
    told = places_of(whole.table) if whole is not None else None
    if told is None:
        raise DeviceFaultError(f"{disk} has no partition table any more; nothing was written.")
    grubimage.put_places(disk, told)
    return f"{disk} says where rescue and the slots are."


def _written(disk: Path, which: str, write: Callable[[Copies], None]) -> Callable[[], str]:
    def act() -> str:
        write(gptcopies.look(disk))
        left = gptcopies.look(disk).faults.get(which)
        what = "The protective MBR" if which == "mbr" else f"The {which} copy of the table"
        return f"{what} of {disk} is whole again." if left is None else left

    return act


def _names(disk: BootDisk, copies: Copies) -> Plan:
    """A name that no partition has, for the one that carries its label and has no name of ours."""
    found: Plan = []
    assert copies.whole is not None
    for name in (BOOT, RESCUE, *(slot.label for slot in Slot), DATA):
        if any(part.name == name for part in disk.partitions):
            continue
        own = [part for part in disk.partitions if _is_of(part, name, copies)]
        if len(own) != 1:
            continue
        part = own[0]
        entry = next((e for e in copies.whole.table.entries if e.number == part.number), None)
        if entry is None:
            continue
        if entry.name == name:
            why = f"{part.device} is named '{name}' in the table, and {_REBOOT}: reboot."
            found.append(Refusal(("partition-missing",), why))
            continue
        other = (
            f"it is named '{entry.name}', and whatever looks for it by that name finds it no more"
        )
        found.append(
            Repair(
                f"name-{name}",
                ("partition-missing",),
                f"Name partition {part.number} of {disk.device} '{name}' in both copies of the "
                f"table, because no partition has that name, and it is the one by its label.",
                _renamed(disk.device, part.number, name),
                risk=f"Where it is not abupdate's: {other}." if entry.name else None,
            )
        )
    return found


def _is_of(part: Partition, name: str, copies: Copies) -> bool:
    if part.name in _OURS:
        return False
    if name == BOOT:
        assert copies.whole is not None
        esp = {entry.number for entry in copies.whole.table.entries if entry.esp}
        return part.number == 2 and part.number in esp
    return part.label in _LABELS[name]


def _renamed(disk: Path, number: int, name: str) -> Callable[[], str]:
    def act() -> str:
        gptcopies.rename(gptcopies.look(disk), number, name)
        return f"Partition {number} of {disk} is named '{name}'; {_REBOOT}."

    return act
