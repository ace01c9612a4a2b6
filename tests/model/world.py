"""One state of the model: all that is on the disk, what runs, and what the checks remember.

A `World` is small and hashable. Version numbers are canonical: a new release
gets the smallest number that nothing names any more. `seen`, which no rule
reads, is always "x".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from abupdate.boot.state import BootState

LOST = -1
OFF = "-"
RESCUE = "R"


class Disk(NamedTuple):
    """A slot as it is on the disk.

    `own_label`: it carries its own label and not newX. `content`: empty, half or
    complete; `release` is -1 where it is not. `loads`: GRUB can load its kernel.
    `confirmed` is the truth, which no record can change: this content passed its
    checks once and was confirmed.
    """

    own_label: bool
    content: str
    loads: bool
    release: int
    confirmed: bool


class Record(NamedTuple):
    """slots/X.json. `confirmed`: 0 never, 1 before the other slot, 2 last of all."""

    state: str
    release: int
    confirmed: int


class Plan(NamedTuple):
    """intent.json: what the last install wanted, and what became of it or was about to."""

    slot: str
    release: int
    armed: bool
    outcome: str | None
    rearmed: bool = False
    ending: str | None = None
    was_confirmed: int = 0


class World(NamedTuple):
    """Everything. The last three are not on the disk: the checks remember them.

    `primary` and `backup` are numbers of a `States`, or LOST. `who` runs (A, B, R,
    or OFF), booted as `how`. `told`: the last line of the history, if it ended the
    trial of the open intent.
    `owed`: the slot whose armed release has neither come true nor been reported.
    `tried`: boots of the trial by GRUB. `again`: how often it was armed by itself.
    """

    primary: int
    backup: int
    a: Disk
    b: Disk
    record_a: Record | None
    record_b: Record | None
    intent: Plan | None
    told: str | None
    saves: bool
    rescue_loads: bool
    who: str
    how: str
    faults: int
    installs: int
    tears: int
    owed: str | None
    tried: int
    again: int

    def change(self, **fields: object) -> World:
        """With other values, as `_replace`, in a third of its time."""
        values: list[Any] = list(self)
        for name, value in fields.items():
            values[_INDEX[name]] = value
        return tuple.__new__(World, values)

    def disk(self, slot: str) -> Disk:
        """The slot A or B."""
        return self.a if slot == "A" else self.b

    def record(self, slot: str) -> Record | None:
        """Its record."""
        return self.record_a if slot == "A" else self.record_b

    def with_disk(self, slot: str, disk: Disk) -> World:
        """With another content in a slot."""
        return self.change(a=disk) if slot == "A" else self.change(b=disk)

    def with_record(self, slot: str, record: Record) -> World:
        """With another record of a slot; the one confirmed last is the only one with 2."""
        mine, other = record, self.record("B" if slot == "A" else "A")
        if mine.confirmed == 2 and other is not None and other.confirmed == 2:
            other = other._replace(confirmed=1)
        if slot == "A":
            return self.change(record_a=mine, record_b=other)
        return self.change(record_a=other, record_b=mine)

    def with_copy(self, copy: str, number: int) -> World:
        """With another state in the primary or the backup."""
        if copy == "primary":
            return self.change(primary=number)
        return self.change(backup=number)

    def loads(self) -> str:
        """What GRUB finds by its own label and can load."""
        names = "R" if self.rescue_loads else ""
        for name, disk in (("A", self.a), ("B", self.b)):
            if disk.own_label and disk.loads:
                names += name
        return names

    def off(self) -> World:
        """The power is gone."""
        return self.change(who=OFF, how=OFF)

    def running(self, who: str, how: str) -> World:
        """The kernel was started."""
        return self.change(who=who, how=how)


_INDEX = {name: number for number, name in enumerate(World._fields)}


class States:
    """Numbers for boot states: small to keep, quick to compare."""

    def __init__(self) -> None:
        self._number: dict[BootState, int] = {}
        self._states: list[BootState] = []

    def number(self, state: BootState | None) -> int:
        """The number of a state; LOST for none."""
        if state is None:
            return LOST
        found = self._number.get(state)
        if found is None:
            plain = replace(state, seen="x")
            found = self._number.get(plain)
            if found is None:
                found = self._number[plain] = len(self._states)
                self._states.append(plain)
            self._number[state] = found
        return found

    def state(self, number: int) -> BootState | None:
        """The state of a number."""
        return None if number == LOST else self._states[number]


@dataclass(frozen=True)
class Setting:
    """How large the model is.

    `tears`: how often the power is cut between the two copies of one write; other
    cuts are not counted. `reinstall`: an install may bring the last release again.
    `once`: rescue may be asked for. `reports`: follow what is told (P8); without it,
    releases and told intents are not kept apart, which no boot depends on.
    """

    tries: int = 2
    limit: int = 2
    faults: int = 2
    installs: int = 2
    tears: int = 1
    reinstall: bool = False
    once: bool = False
    reports: bool = True


def fresh_release(world: World) -> int:
    """The smallest number that names no release in the world."""
    named = {world.a.release, world.b.release}
    named |= {item.release for item in (world.record_a, world.record_b, world.intent) if item}
    return next(number for number in range(9) if number not in named)


def first_world(states: States, provisioned: BootState, setting: Setting) -> World:
    """A device as `qemu/device.py` and `provision` make it: A runs release 0, B is empty."""
    number = states.number(provisioned)
    return World(
        primary=number,
        backup=number,
        a=Disk(True, "complete", True, 0, True),
        b=Disk(False, "empty", False, -1, False),
        record_a=Record("clean", 0, 2),
        record_b=None,
        intent=None,
        told=None,
        saves=True,
        rescue_loads=True,
        who=OFF,
        how=OFF,
        faults=setting.faults,
        installs=setting.installs,
        tears=setting.tears,
        owed=None,
        tried=0,
        again=0,
    )
