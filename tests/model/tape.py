"""A machine of the model, on which the product's own use cases run.

Every write is kept in order, every first read of a field of the world is noted:
what an operation does depends on what it read, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from abupdate.boot.cmdline import BootArguments
from abupdate.boot.grubenv import BACKUP, Grubenv, Reading
from abupdate.boot.state import BootState
from abupdate.disk.layout import BootDisk, Partition, Slot
from abupdate.update.records import FailedRelease, HistoryEntry, Intent, Records, SlotRecord
from abupdate.update.slots import Booted, Machine
from tests.model.world import LOST, Plan, Record, States, World

if TYPE_CHECKING:
    from abupdate.store.repository import Repository

_HERE = Path("/model")

# The trial of the intent that is there, whichever it is.
_TRIAL = "that of the intent"

# One step of an operation that the power may be cut after: (what, ...).
Write = tuple[Any, ...]
# A copy that is lost just before the n-th look at the boot state: (n, "primary" or "backup").
Loss = tuple[int, str]


class Tape:
    """What one operation reads and writes."""

    def __init__(self, world: World, states: States, losses: tuple[Loss, ...]) -> None:
        self._world = world
        self.now: dict[str, Any] = {}
        self._losses = losses
        self.states = states
        self.reads: list[tuple[str, Any]] = []
        self.writes: list[Write] = []
        self.looks = 0

    def get(self, name: str) -> Any:
        """A field, as this operation left it."""
        if name not in self.now:
            self.now[name] = value_of(self._world, name)
            self.reads.append((name, self.now[name]))
        return self.now[name]

    def put(self, name: str, value: Any, write: Write) -> None:
        """One write to the disk, flushed."""
        self.now[name] = value
        self.writes.append(write)

    def look(self) -> None:
        """The operation is about to read the boot state."""
        self.looks += 1
        for number, copy in self._losses:
            if number == self.looks:
                self.put(copy, LOST, ("lose", copy))


def value_of(world: World, name: str) -> Any:
    """The value of a field that an operation may read."""
    if name in ("label_A", "label_B"):
        return world.disk(name[-1]).own_label
    return getattr(world, name)


class ModelGrubenv(Grubenv):
    """The real order of the copies (`Grubenv.write`), on the world instead of a disk."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(_HERE)
        self._tape = tape

    def read(self) -> Reading:
        self._tape.look()
        return super().read()

    def _read_copy(self, name: str, problems: list[str]) -> BootState | None:
        state = self._tape.states.state(self._tape.get(_copy(name)))
        if state is None:
            problems.append(f"{name} is lost")
        return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        yield

    def _put(self, name: str, raw: bytes) -> None:
        # `encode` is replaced while the model runs: the "bytes" are the state.
        number = self._tape.states.number(cast(BootState, raw))
        self._tape.put(_copy(name), number, (_copy(name), number))


def _copy(name: str) -> str:
    return "backup" if name == BACKUP else "primary"


class ModelRecords(Records):
    """Slot records, intent and history. Replacing a file is one step."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(_HERE)
        self._tape = tape

    def slot(self, slot: Slot) -> SlotRecord | None:
        found: Record | None = self._tape.get(f"record_{slot.lower()}")
        if found is None:
            return None
        name = str(found.release)
        return SlotRecord(
            slot=slot,
            state=found.state,
            release=name,
            commit=name,
            manifest_sha256="",
            tag="",
            signer="",
            confirmed=float(found.confirmed) if found.confirmed else None,
        )

    def write_slot(self, record: SlotRecord) -> None:
        # Confirmed now is later than all before: `with_record` puts the other one back.
        new = Record(str(record.state), int(record.commit), 2 if record.confirmed else 0)
        slot = str(record.slot)
        self._tape.put(f"record_{slot.lower()}", new, ("record", slot, new))

    def intent(self) -> Intent | None:
        found: Plan | None = self._tape.get("intent")
        if found is None:
            return None
        return as_intent(found)

    def write_intent(self, intent: Intent) -> None:
        armed = intent.armed is not None
        was = int(intent.was_confirmed is not None)
        end = intent.outcome, intent.rearmed, intent.ending
        new = Plan(str(intent.slot), int(intent.commit), armed, *end, was)
        goes_on = intent.trial == _TRIAL and intent.outcome is None
        self._tape.put("intent", new, ("intent", new, goes_on))
        if not goes_on:
            self._tape.now["told"] = None

    def append(self, entry: HistoryEntry) -> None:
        ends = entry.detail.get("trial") == _TRIAL
        self._tape.writes.append(("history", entry.event, str(entry.slot), entry.release, ends))
        if ends:
            self._tape.now["told"] = entry.event

    def history(self) -> list[HistoryEntry]:
        told: str | None = self._tape.get("told")
        detail = {"trial": _TRIAL, "cause": ""}
        return [HistoryEntry(told, 0.0, detail=detail)] if told else []

    def add_failed(self, release: FailedRelease) -> None:
        """What is not tried again; no rule of a boot reads it."""

    def remove_failed(self, commit: str) -> None:
        """As above."""


def as_intent(plan: Plan) -> Intent:
    """The product's form of an intent."""
    name = str(plan.release)
    armed = 1.0 if plan.armed else None
    return Intent(
        *(plan.slot, name, name, "", None, 0.0, armed, plan.outcome),
        rearmed=plan.rearmed,
        ending=plan.ending,
        was_confirmed=float(plan.was_confirmed) if plan.was_confirmed else None,
        trial=_TRIAL,
    )


class _Store:
    def set_ref(self, _name: str, _oid: str, *, alone: bool = False) -> None:
        """A tag; no rule reads it."""


_DEVICES: Mapping[str, Path] = {"A": Path("/model/A"), "B": Path("/model/B"), "R": Path("/model/R")}


def slot_of_device(device: Path) -> str:
    """A, B or R."""
    return device.name


@dataclass(frozen=True)
class ModelMachine(Machine):
    """The device of the use cases."""

    tape: Tape | None = None

    @property
    def _tape(self) -> Tape:
        assert self.tape is not None
        return self.tape

    @property
    def records(self) -> Records:
        return ModelRecords(self._tape)

    def grubenv(self) -> Grubenv:
        return ModelGrubenv(self._tape)

    def store(self) -> Repository:
        return cast("Repository", _Store())

    def booted(self) -> Booted:
        who, how = self._tape.get("who"), self._tape.get("how")
        return booted_as(who, how, _Disk(self._tape, who))


class _Disk(BootDisk):
    """Partitions whose label is read from the world when somebody asks for them."""

    def __init__(self, tape: Tape, who: str) -> None:
        super().__init__(_HERE, (), _partition(who, None))
        object.__setattr__(self, "tape", tape)

    def slot(self, slot: Slot) -> Partition:
        tape: Tape = self.__dict__["tape"]
        own = tape.get(f"label_{slot}")
        return _partition(str(slot), slot.label if own else slot.unfinished_label)


def _partition(name: str, label: str | None) -> Partition:
    return Partition(_DEVICES[name], 0, name, "", label, "", 1 << 30)


def booted_as(who: str, how: str, disk: BootDisk | None = None) -> Booted:
    """What runs, in the product's form."""
    arguments = BootArguments(cast(Any, who), cast(Any, how), None, False)
    slot = None if who == "R" else Slot(who)
    return Booted(slot, arguments, disk or BootDisk(_HERE, (), _partition(who, None)))
