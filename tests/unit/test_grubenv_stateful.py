"""A device at random: installs, boots, lost copies, faults and power cuts in its boot state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from abupdate.boot import state as boot
from abupdate.boot.grubenv import BACKUP, PRIMARY
from abupdate.boot.state import BootState, Ustate
from abupdate.errors import RefusedError
from tests.unit.boot_states import block
from tests.unit.grubenv_attempt import COPIES, DAMAGE, attempt, new_disk, read, state_in
from tests.unit.simulated_disk import Fault

TRIES, LIMIT = 2, 3
TRANSITIONS: dict[str, Callable[[BootState, str], BootState]] = {
    "begin A": lambda state, booted: boot.begin(state, "A", booted),
    "begin B": lambda state, booted: boot.begin(state, "B", booted),
    "arm A": lambda state, booted: boot.arm(state, "A"),
    "arm B": lambda state, booted: boot.arm(state, "B"),
    "confirm": lambda state, booted: boot.confirm(state, booted, TRIES, LIMIT),
    "reject": lambda state, booted: boot.reject(state),
    "rollback": boot.rollback,
    "healthy": lambda state, booted: boot.healthy(state, booted, TRIES, LIMIT),
    "acknowledge": lambda state, booted: boot.acknowledge(state),
    "retry": lambda state, booted: boot.retry(state),
    "rescue once": lambda state, booted: boot.rescue_once(state),
}
NEW = boot.provision(TRIES, LIMIT)
ARMED = boot.arm(boot.begin(NEW, "B", "A"), "B")
CONFIRMED = boot.confirm(ARMED, "B", TRIES, LIMIT)
# Both copies, and which slots are complete.
STARTS = {
    "new": (NEW, NEW, "A"),
    "on trial": (ARMED, NEW, "AB"),
    "confirmed": (CONFIRMED, CONFIRMED, "AB"),
    "half-written": (boot.begin(CONFIRMED, "A", "B"), boot.begin(CONFIRMED, "A", "B"), "B"),
}
# A write makes about thirty calls, and up to sixty when both copies are made anew.
CALLS = st.integers(0, 60)
KINDS: list[Fault] = ["error", "odd"]
FAULTS = st.dictionaries(CALLS, st.sampled_from(KINDS), min_size=1, max_size=2)


@dataclass(frozen=True)
class Mishap:
    """What goes wrong in a write: calls are counted from 0."""

    cut_at: int | None = None
    faults: Mapping[int, Fault] = field(default_factory=dict)


MISHAPS = (
    st.just(Mishap())
    | st.just(Mishap())
    | st.builds(Mishap, CALLS)
    | st.builds(Mishap, faults=FAULTS)
    | st.builds(Mishap, CALLS, FAULTS)
)


class Device(RuleBasedStateMachine):
    """What must hold after each write is in `attempt`; here is what must hold for the device.

    `complete` are the slots that hold a whole system: not from the moment that
    `begin` has returned, and again when `arm` is asked for. `runs` is None
    while the device is off.
    """

    @initialize(start=st.sampled_from(list(STARTS)))
    def begin(self, start: str) -> None:
        primary, backup, complete = STARTS[start]
        self.disk = new_disk(block(primary), block(backup))
        self.complete = set(complete)
        self.runs: str | None = primary.on_trial or primary.slot
        self.undone: tuple[BootState, bool] | None = None

    @precondition(lambda self: self.runs)
    # Both orders are right for all but `begin`.
    @rule(mishap=MISHAPS, backup_first=st.booleans(), data=st.data())
    def change(self, mishap: Mishap, backup_first: bool, data: st.DataObject) -> None:
        allowed = self._allowed()
        if not allowed:
            return
        name = data.draw(st.sampled_from(sorted(allowed)))
        verb, _, target = name.partition(" ")
        if verb == "arm":
            self.complete.add(target)
        backup_first = backup_first or verb == "begin"
        if self._write(allowed[name], backup_first, mishap, data) == "done" and verb == "begin":
            self.complete.discard(target)

    def _allowed(self) -> dict[str, BootState]:
        assert self.runs
        state, found = read(self.disk).state, {}
        if state is None and self.runs == "R":
            for slot in self.complete:
                found[f"rebuild {slot}"] = boot.rebuild(slot, self.complete, TRIES, LIMIT)
        for name, transition in TRANSITIONS.items():
            # An install is never into the slot that runs; only rescue retries.
            elsewhere = name == f"arm {self.runs}" or (name == "retry" and self.runs != "R")
            if state is not None and not elsewhere:
                with suppress(RefusedError):
                    found[name] = transition(state, self.runs)
        return found

    @precondition(lambda self: self.undone and self.runs)
    @rule()
    def again(self) -> None:
        """Without faults it ends well; `attempt` looks at what is there then."""
        assert self.undone
        new, backup_first = self.undone
        assert attempt(self.disk, new, backup_first=backup_first).kind == "done"
        self.undone = None

    def _write(
        self, new: BootState, backup_first: bool, mishap: Mishap, data: st.DataObject
    ) -> str:
        self.disk.pick = lambda found: data.draw(st.sampled_from(found))
        found = attempt(
            self.disk,
            new,
            backup_first=backup_first,
            cut_at=mishap.cut_at,
            faults=mishap.faults,
        )
        if found.kind == "cut":
            self.runs = None
            self.disk = self.disk.after_cut(
                {}, lambda possible: data.draw(st.sampled_from(possible))
            )
        self.undone = None if found.kind == "done" else (new, backup_first)
        return found.kind

    @rule(
        lost=st.sampled_from([(), (), (), (PRIMARY,), (BACKUP,), COPIES]),
        damage=st.sampled_from(sorted(DAMAGE)),
        dead=st.sampled_from(["", "", "A", "B", "AB"]),
        saves=st.sampled_from([True, True, False]),
        arrived=st.sampled_from([(0, 1), (0, 1), (0, 1), (0,), (1,), ()]),
    )
    def restart(
        self, lost: Sequence[str], damage: str, dead: str, saves: bool, arrived: Sequence[int]
    ) -> None:
        """Copies are damaged; then GRUB runs, and saves into the copy that it loaded, maybe cut."""
        self.undone = None
        for name in lost:
            raw = self.disk.contents().get(name)
            state = state_in(raw)
            self.disk.put(name, DAMAGE[damage](block(state)) if state else raw)
        held = {name: state_in(self.disk.contents().get(name)) for name in COPIES}
        used = PRIMARY if held[PRIMARY] else BACKUP
        old = held[used]
        saves = saves and old is not None and self.disk.contents()[used] == block(old)
        loads = {"R", *self.complete} - set(dead)
        found = boot.grub(held[PRIMARY], held[BACKUP], loads, saves=saves)
        self.runs = found.boots
        if old and found.state and found.state != old:
            sectors = [block(found.state if number in arrived else old) for number in (0, 1)]
            self.disk.put(used, sectors[0][:512] + sectors[1][512:])
            if arrived != (0, 1):
                self.runs = None

    @invariant()
    def no_incomplete_slot_boots(self) -> None:
        """Whichever copy is lost in addition, whatever a cut now leaves of them."""
        primaries = {state_in(content) for content in self.disk.possible(PRIMARY)}
        backups = {state_in(content) for content in self.disk.possible(BACKUP)}
        for primary in primaries | {None}:
            for backup in backups | {None}:
                for slot in {"A", "B"} - self.complete:
                    # With both copies lost GRUB tries what loads: there the label stands guard.
                    if primary or backup:
                        assert boot.grub(primary, backup, {slot}).boots is None

    @invariant()
    def backup_holds_no_trial(self) -> None:
        for content in self.disk.possible(BACKUP):
            state = state_in(content)
            assert state is None or (state.trial, state.ustate == Ustate.INSTALLED) == ("x", False)

    @invariant()
    def reading_is_what_grub_finds(self) -> None:
        read(self.disk)


TestDevice = pytest.mark.row("S41")(Device.TestCase)
TestDevice.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
