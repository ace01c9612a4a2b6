"""The power goes, or a call fails, anywhere in a write of the boot state: on a simulated disk."""

from __future__ import annotations

import itertools

import pytest

from abupdate.boot import state as boot
from abupdate.boot.grubenv import BACKUP, PRIMARY
from abupdate.boot.state import BootState, Ustate, backup_of
from tests.unit.boot_states import CONFIRMED, NEW, OLD, block
from tests.unit.grubenv_attempt import COPIES, DAMAGE, attempt, new_disk, state_in
from tests.unit.simulated_disk import Content, Disk, Fault

# What is there, what is written, the order.
CHANGES = {
    "arm": (OLD, NEW, False),
    "begin a second install": (NEW, boot.begin(NEW, "B", "A"), True),
    "begin": (CONFIRMED, boot.begin(CONFIRMED, "A", "B"), True),
    "confirm": (NEW, CONFIRMED, False),
}
ONE_DAMAGED = [
    (None, None),
    *[(damage, None) for damage in DAMAGE],
    *[(None, damage) for damage in DAMAGE],
]
SITUATIONS = [*ONE_DAMAGED, *[(damage, damage) for damage in DAMAGE]]


def disk_with(state: BootState, primary: str | None, backup: str | None) -> Disk:
    contents: list[Content] = []
    for damage, held in ((primary, state), (backup, backup_of(state, Ustate.OK))):
        contents.append(DAMAGE[damage](block(held)) if damage else block(held))
    return new_disk(*contents)


@pytest.mark.row("S41")
@pytest.mark.parametrize("change", CHANGES)
def test_cut_at_every_call(change: str) -> None:
    """Whatever is left of a copy, and of the rest any of what may be, it can be written again."""
    old, new, backup_first = CHANGES[change]
    cuts, written_again = 0, set()
    for primary, backup in SITUATIONS:
        for number in itertools.count():
            disk = disk_with(old, primary, backup)
            found = attempt(disk, new, backup_first=backup_first, cut_at=number)
            if found.kind != "cut":
                assert found.kind == "done" and len(found.calls) == number
                break
            cuts += 1
            for fixed in ({name: left} for name in COPIES for left in disk.possible(name)):
                again = disk.after_cut(fixed, lambda possible: possible[-1])
                contents = frozenset(again.contents().items())
                if contents in written_again:
                    continue
                written_again.add(contents)
                assert attempt(again, new, backup_first=backup_first).kind == "done"
    print(f"{change}: {cuts} cuts, {len(written_again)} disks after them")
    assert cuts > 20 * len(SITUATIONS)


@pytest.mark.row("S41")
@pytest.mark.parametrize("fault", ["error", "odd"])
@pytest.mark.parametrize("change", CHANGES)
def test_fault_at_every_call(change: str, fault: Fault) -> None:
    """It is told or does no harm, and doing it again ends well."""
    old, new, backup_first = CHANGES[change]
    can_fail = {"pwrite", "fsync", "preadv"}
    if fault == "error":
        can_fail |= {"open", "replace", "remount"}
    told: set[str] = set()
    for primary, backup in ONE_DAMAGED:
        calls = attempt(disk_with(old, primary, backup), new, backup_first=backup_first).calls
        for number, call in enumerate(text.partition(" ")[0] for text in calls):
            if call not in can_fail:
                continue
            disk = disk_with(old, primary, backup)
            found = attempt(disk, new, backup_first=backup_first, faults={number: fault})
            if found.kind == "failed":
                told.add(call)
            assert attempt(disk, new, backup_first=backup_first).kind == "done"
    assert told == can_fail


@pytest.mark.row("S41")
@pytest.mark.parametrize("fault", ["error", "odd"])
@pytest.mark.parametrize("call", ["pwrite", "fsync", "preadv"])
@pytest.mark.parametrize("change", ["arm", "begin", "confirm"])
def test_second_copy_is_left_alone_when_the_first_fails(
    change: str, call: str, fault: Fault
) -> None:
    old, new, backup_first = CHANGES[change]
    disk = disk_with(old, None, None)
    first, second = (BACKUP, PRIMARY) if backup_first else (PRIMARY, BACKUP)
    untouched = disk.contents()[second]
    calls = attempt(disk_with(old, None, None), new, backup_first=backup_first).calls
    number = calls.index(call, calls.index("pwrite"))
    found = attempt(disk, new, backup_first=backup_first, faults={number: fault})
    assert found.kind == "failed" and f"open {second}" not in found.calls[number:]
    assert disk.possible(second) == [untouched]
    assert state_in(disk.contents()[first]) is not None
