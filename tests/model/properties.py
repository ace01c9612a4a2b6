"""What must hold: the promises of the design, as checks on worlds and on single steps.

Each check yields (property, what is wrong). A property has a narrow name, so that
a known hole hides nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from abupdate.boot.state import NONE, BootState, Ustate, other_of
from abupdate.update import status
from tests.model.grub import Grub, Run
from tests.model.tape import Write, as_intent, booted_as
from tests.model.world import LOST, OFF, RESCUE, Setting, States, World

Wrong = tuple[str, str]

# What `abupdate status` says of an install whose armed release is not what runs.
_TOLD = ("fallback", "rejected", "interrupted", "lost", "unknown")


class Properties:
    """The checks, each once for what it depends on."""

    def __init__(self, states: States, grub: Grub, setting: Setting) -> None:
        self._states = states
        self._grub = grub
        self._setting = setting
        self._disks: dict[Any, list[Wrong]] = {}
        self._endless: dict[Any, list[Wrong]] = {}
        self._words: dict[Any, str] = {}

    def used(self, world: World) -> BootState | None:
        """The state that GRUB and userland use."""
        number = world.primary if world.primary != LOST else world.backup
        return self._states.state(number)

    # At rest

    def at_rest(self, world: World) -> list[Wrong]:
        """On the disk, whenever the power goes."""
        key = (world.primary, world.backup, world.a, world.b)
        found = self._disks.get(key)
        if found is None:
            found = self._disks[key] = list(self._on_disk(world))
        return found + self._loops(world)

    def _on_disk(self, world: World) -> Iterator[Wrong]:
        backup = self._states.state(world.backup)
        if backup and (backup.trial != "x" or backup.on_trial):
            yield "P6-backup-holds-trial", f"the backup names {backup.trial} as the trial"
        for slot in "AB":
            disk = world.disk(slot)
            if disk.content == "half" and disk.own_label:
                yield "P4-label", f"{slot} is half-written and carries its own label"
            for copy in ("primary", "backup"):
                state = self._states.state(getattr(world, copy))
                if state is None:
                    continue
                if disk.content == "half" and (slot in state.good or state.on_trial == slot):
                    yield "P4-state", f"{slot} is half-written and the {copy} would boot it"
                elif slot in state.good and not disk.confirmed:
                    yield "P1-good", f"the {copy} has {slot} in good, which was never confirmed"

    def _loops(self, world: World) -> list[Wrong]:
        """Systems that die are started by GRUB alone, one after the other.

        Which ones die, and whether rescue loads, is tried in every way that the
        faults left allow; that the release of a trial dies is no fault.
        """
        if not world.saves:
            return []
        sure = "".join(slot for slot in "AB" if world.disk(slot).confirmed)
        loads = world.loads()
        key = (world.primary, world.backup, loads, sure, world.faults)
        found = self._endless.get(key)
        if found is None:
            found = self._endless[key] = []
            for dead in ("", "A", "B", "AB"):
                for gone in ("", RESCUE):
                    cost = len([slot for slot in dead if slot in sure]) + len(gone)
                    if set(dead + gone) <= set(loads) and cost <= world.faults:
                        found += self._boot_on(world, loads.replace(gone, ""), dead)
        return found

    def _boot_on(self, world: World, loads: str, dead: str) -> Iterator[Wrong]:
        """With `save_env` working, a system that lives, or rescue, runs in the end.

        That is, after tries + 2 * limit + 3 boots, if there is one that may be booted.
        """
        state = self.used(world)
        good = state.good if state else "AB"
        if state and state.on_trial and not state.countdown:
            good = good.replace(state.on_trial, "x")  # GRUB gives it up at once
        live = "".join(slot for slot in loads if slot in "AB" and slot not in dead)
        best = [slot for slot in live if slot in good and world.disk(slot).confirmed]
        if not best and RESCUE not in loads:
            return
        at, boots, run = (world.primary, world.backup), "", None
        for _ in range(self._setting.tries + 2 * self._setting.limit + 3):
            run = self._grub.run(*at, loads, True)
            at = run.primary, run.backup
            boots += run.boots or "-"
            if run.boots == RESCUE and state and state.once != RESCUE:
                # Unless it was given up before, the other slot comes before rescue.
                other = other_of(state.slot)
                tried = (*boots, state.failed, state.on_trial)
                if other in best and other not in tried:
                    yield "rescue-too-early", f"GRUB boots {boots}, and {other} is good and alive"
            if run.boots is not None and run.boots in live + RESCUE:
                return
        name = "loop-on-dead-slot"
        if self._setting.limit == 0 and boots[-1] * 2 == boots[-2:] and run and run.how == "normal":
            name = "loop-limit-0"  # the exception that docs name: nobody counts
        elif RESCUE not in loads:
            name = "loop-no-rescue"
        yield (
            name,
            (
                f"GRUB boots {boots} and so on, though {', '.join(best) or 'rescue'} is good "
                f"(dead: {', '.join(dead) or 'none'}; GRUB can load {', '.join(loads)})"
            ),
        )

    # A run of GRUB

    def of_grub(self, world: World, run: Run) -> Iterator[Wrong]:
        """What GRUB did by itself, before its effect on `world`."""
        state = self.used(world)
        loads = world.loads()
        yield from self.half_written(world, run.boots)
        if run.boots is None:
            # What is given up in this run is no longer good.
            number = run.primary if run.copy == "primary" else run.backup
            after = self._states.state(number) if run.copy else None
            may = (after.good if after else "AB") + RESCUE
            if any(name in loads for name in may):
                yield "P1-gives-up", "GRUB reboots after 30 s, and something good loads"
        elif run.boots == RESCUE:
            if state and state.once == RESCUE and world.saves and self._once_left(run):
                yield "once-stays", "rescue was asked for once, and will boot again"
        elif run.how == "trial":
            yield from self._trial(world, state, run.boots)
        elif not world.disk(run.boots).confirmed and world.disk(run.boots).content == "complete":
            yield "P1-unconfirmed", f"GRUB boots {run.boots}, never confirmed, outside of a trial"
        if state:
            yield from self._gave_up(world, state, run, loads)

    def _once_left(self, run: Run) -> bool:
        number = run.primary if run.primary != LOST else run.backup
        after = self._states.state(number)
        return after is not None and after.once == RESCUE

    def _trial(self, world: World, state: BootState | None, slot: str) -> Iterator[Wrong]:
        if state is None or state.on_trial != slot:
            yield "P1-no-trial", f"GRUB boots {slot} as a trial, and nothing armed it"
        elif world.tried >= self._setting.tries:
            yield (
                "P1-attempts",
                f"GRUB boots the trial {slot} more than {self._setting.tries} times",
            )

    def _gave_up(self, world: World, state: BootState, run: Run, loads: str) -> Iterator[Wrong]:
        if state.once == RESCUE or not world.saves:
            return
        trial = state.on_trial
        if trial:
            early = world.tried < self._setting.tries
            if trial in loads and run.boots != trial and early and run.copy == "primary":
                yield "attempts-lost", f"the trial {trial} was booted {world.tried} times only"

    @staticmethod
    def half_written(world: World, boots: str | None) -> Iterator[Wrong]:
        """P4, for GRUB and for a choice in the menu."""
        if boots in ("A", "B") and world.disk(boots).content != "complete":
            yield "P4-booted", f"half-written {boots} is booted"

    # What is said

    def while_running(self, world: World) -> Iterator[Wrong]:
        """What `abupdate status` says of the slot that runs."""
        if world.who in (OFF, RESCUE) or world.disk(world.who).confirmed:
            return
        if self._said(world).startswith("confirmed"):
            yield (
                "P8-words",
                f"status says '{self._said(world)}' of {world.who}, which is not confirmed",
            )

    def _said(self, world: World) -> str:
        number = world.primary if world.primary != LOST else world.backup
        key = (world.who, world.how, number)
        if key not in self._words:
            booted = booted_as(world.who, world.how)
            self._words[key] = status._how_in_words(booted, self._states.state(number))
        return self._words[key]

    def of_write(self, before: World, after: World, write: Write) -> Iterator[Wrong]:
        """A claim that a record makes; `before` and `after` it is on the disk."""
        slot = release = None
        if write[0] == "intent" and write[1].outcome == "confirmed":
            slot, release = write[1].slot, write[1].release
        elif write[0] == "history" and write[1] == "confirmed":
            slot, release = write[2], int(write[3])
        if slot is not None:
            disk = after.disk(slot)
            if not disk.confirmed or disk.release != release:
                yield (
                    "P8-false-success",
                    f"release {release} in {slot} is told as confirmed; {slot} holds release "
                    f"{disk.release}, {'confirmed' if disk.confirmed else 'not confirmed'}",
                )
        if write[0] == "history" and write[1] == "fallback" and before.owed != write[2]:
            state = self.used(before)
            # A retry takes back the name of what fell back, and leaves that something did.
            retried = state is not None and state.ustate == Ustate.FAILED and state.failed == NONE
            if state is None or (state.failed != write[2] and not retried):
                yield "P8-false-fallback", f"a fallback of {write[2]} is told; none was on trial"
        if after.again > 1 and after.again > before.again:
            yield "P8-for-ever", f"{after.owed} is armed by itself for the second time"
        if self.forgets(before, write):
            text = f"{before.owed} was given up, nothing told it, and the intent is replaced"
            yield "P8-forgotten", text

    def forgets(self, before: World, write: Write) -> bool:
        """The intent is replaced whose trial is over, and was not told."""
        if write[0] != "intent" or write[1].outcome or not before.owed:
            return False
        state = self.used(before)
        over = state is None or state.on_trial != before.owed
        return over and (before.intent is None or write[1][:2] != before.intent[:2])

    def healthy(self, before: World, world: World) -> Iterator[Wrong]:
        """After a boot whose checks passed, and all that userland does then."""
        state = self.used(world)
        if state is None or state.on_trial or world.who != state.slot:
            return
        if world.owed and world.owed != world.who:
            intent = as_intent(world.intent) if world.intent else None
            said = status._outcome(intent, state, False) if intent else "nothing"
            if said == "unfinished":
                yield "P8-unfinished", f"{world.owed} was armed and lost; told as 'unfinished'"
            elif said not in _TOLD:
                yield "P8-untold", f"{world.owed} was armed and lost; status says {said!r}"
        if state.countdown != self._setting.limit:
            yield "not-refilled", f"{world.who} is healthy, and has {state.countdown} boots left"
        loads = world.loads()
        if world.who in loads and state.once != RESCUE:
            run = self._grub.run(world.primary, world.backup, loads, world.saves)
            if run.boots != world.who:
                was = self.used(before)
                kept = world.who in state.good or (was and was.on_trial == world.who)
                name = "P1-stays" if kept else "healthy-not-good"
                yield name, f"healthy {world.who} runs, and GRUB would boot {run.boots} next"

    def of_begin(self, before: World, after: World, write: Write) -> Iterator[Wrong]:
        """The backup lets go of a slot before the primary does."""
        if write[0] != "primary" or before.primary == LOST:
            return
        was, now = self._states.state(before.primary), self._states.state(after.primary)
        backup = self._states.state(after.backup)
        if not (was and now and backup):
            return
        for slot in was.good.replace("x", ""):
            if slot not in now.good and slot in backup.good:
                yield "P6-backup-late", f"the primary lets {slot} go, and the backup has it still"
