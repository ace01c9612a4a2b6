"""The steps out of a world: GRUB, the person at the menu, the power, faults, userland.

Userland's steps are cut after each of their writes, and lose a copy of the boot
state before each of their looks at it.

A fault happens when it first makes a difference; earlier is the same. A slot that
loads and dies, on trial or rotten, is one whose power is cut early at each boot,
and that is among the steps of every world; `Properties.loops` looks at what
happens when it does nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from tests.model.grub import Grub
from tests.model.properties import Properties, Wrong
from tests.model.tape import Loss, Write
from tests.model.userland import SPEAKS, Journal, Operation, Userland
from tests.model.world import LOST, OFF, RESCUE, Disk, Setting, States, World, fresh_release

_BRINGS = ("install", "reflash")
_COPIES = ("primary", "backup")
_ARMS = ("install", "arm", "rollback", "reflash")


class Step(NamedTuple):
    """One step: what happened, the world after it, and what it broke. `words` are joined lazily."""

    words: tuple[Any, ...]
    world: World
    wrong: tuple[Wrong, ...] = ()


class Steps:
    """All steps out of a world."""

    def __init__(
        self,
        states: States,
        grub: Grub,
        userland: Userland,
        properties: Properties,
        setting: Setting,
    ) -> None:
        self._states = states
        self._grub = grub
        self._userland = userland
        self._properties = properties
        self._setting = setting
        self._menus: dict[Any, dict[tuple[str, str], None]] = {}

    def out_of(self, world: World) -> Iterator[Step]:
        """All that may happen next."""
        if world.who != OFF:
            yield Step(("power off",), world.off())
            yield from self._while_running(world)
            return
        yield from self._faults_while_off(world)
        yield self._grub_boots(world)
        for name, how in self._menu(world):
            running = world.running(name, how)
            wrong = tuple(self._properties.half_written(world, running.who))
            wrong += tuple(self._properties.while_running(running))
            yield Step(("menu:", running.who, running.how), running, wrong)
            yield from self._while_running(running)

    def settle(self, world: World) -> World:
        """The same world, off, where the menu brings what runs back as it is."""
        if world.who == OFF or (world.who, world.how) not in self._menu(world):
            return world
        return world.off()

    def _menu(self, world: World) -> dict[tuple[str, str], None]:
        sure = (world.a.confirmed, world.b.confirmed)
        key = (world.primary, world.backup, world.loads(), world.saves, sure)
        found = self._menus.get(key)
        if found is None:
            offers = [world.running(*offer) for offer in self._grub.offered(world)]
            kinds = map(boot_kind, offers)
            found = self._menus[key] = dict.fromkeys((kind.who, kind.how) for kind in kinds)
        return found

    def _while_running(self, world: World) -> Iterator[Step]:
        if world.faults:
            yield from self._lost_copies(world)
        for operation in self._operations(world):
            yield from self._act(world, operation)

    # GRUB and faults

    def _grub_boots(self, world: World) -> Step:
        run = self._grub.run(world.primary, world.backup, world.loads(), world.saves)
        wrong = tuple(self._properties.of_grub(world, run))
        after = world.change(primary=run.primary, backup=run.backup)
        state = self._properties.used(after)
        tried = 0
        if state and state.on_trial:
            tried = min(world.tried + (run.how == "trial"), self._setting.tries)
        after = after.change(tried=tried)
        if run.boots is not None:
            after = boot_kind(after.running(run.boots, str(run.how)))
        return Step(("GRUB boots", run.boots or "nothing", run.how or ""), after, wrong)

    def _lost_copies(self, world: World) -> Iterator[Step]:
        if world.primary != LOST:
            yield Step(("FAULT: primary lost",), lose(world, "primary"))
        # Nobody looks at the backup as long as the primary is there and holds no trial.
        state = self._states.state(world.primary)
        if world.backup != LOST and (state is None or state.on_trial):
            yield Step(("FAULT: backup lost",), lose(world, "backup"))

    def _faults_while_off(self, world: World) -> Iterator[Step]:
        run = self._grub.run(world.primary, world.backup, world.loads(), world.saves)
        left = world.change(faults=world.faults - 1)
        if world.faults:
            yield from self._lost_copies(world)
            if world.saves:
                yield Step(("FAULT: save_env fails from now on",), left.change(saves=False))
            if world.rescue_loads and run.boots == RESCUE:
                broken = left.change(rescue_loads=False)
                yield Step(("FAULT: kernel of rescue lost",), broken)
        if run.boots not in ("A", "B"):
            return
        disk = world.disk(run.boots)
        if not disk.confirmed:
            # The release is bad, which is no fault of the device.
            bad = world.with_disk(run.boots, disk._replace(loads=False))
            yield Step(("kernel of the release in", run.boots, "does not load"), bad)
        elif world.faults:
            broken = left.with_disk(run.boots, disk._replace(loads=False))
            yield Step(("FAULT: kernel of", run.boots, "lost"), broken)

    # Userland

    def _operations(self, world: World) -> Iterator[Operation]:
        releases = []
        if world.installs:
            releases.append(fresh_release(world))
            if world.intent and self._setting.reinstall and self._setting.reports:
                releases.append(world.intent.release)
        if world.who == RESCUE:
            yield Operation("retry")
            yield Operation("rebuild")
            for release in releases:
                for slot in "AB":
                    yield Operation("reflash", slot, release)
            return
        yield Operation("after_boot")
        state, intent = self._properties.used(world), world.intent
        over = intent and intent.outcome is None and intent.armed
        if state and intent and over and state.on_trial != intent.slot:
            yield Operation("after_boot", SPEAKS)
        running = world.record(world.who)
        for release in releases:
            if running is None or release != running.release:
                yield Operation("install", "B" if world.who == "A" else "A", release)
        for name in ("arm", "reject", "rollback", "acknowledge"):
            yield Operation(name)
        if self._setting.once:
            yield Operation("rescue_once")

    def _act(self, world: World, operation: Operation) -> Iterator[Step]:
        whole = self._userland.journal(world, operation)
        yield from self._walk(world, operation, whole)
        if not world.faults or not whole.writes:
            return
        # A loss before the first look is a fault before the operation.
        losses = [(n, copy) for n in range(2, whole.looks + 1) for copy in ("primary", "backup")]
        for count in range(1, world.faults + 1):
            for lost in combinations(losses, count):
                if _matters(lost):
                    yield from self._walk(
                        world, operation, self._userland.journal(world, operation, lost)
                    )

    def _walk(self, world: World, operation: Operation, journal: Journal) -> Iterator[Step]:
        if not journal.writes and operation.name != "after_boot":
            return
        if operation.name in _BRINGS:
            world = world.change(installs=world.installs - 1)
        now = world
        for number, write in enumerate(journal.writes, 1):
            after = self._write(now, operation, write)
            wrong = [*self._properties.of_write(now, after, write)]
            if operation.name in _BRINGS:
                wrong += self._properties.of_begin(now, after, write)
            now = after
            # Without a fault nobody ever reads the backup.
            counts = now.faults > 0 or now.primary == LOST
            torn = counts and write[0] in _COPIES and _other_follows(write, journal.writes[number:])
            if torn and not now.tears:
                continue
            words = ("cut in", operation, number, journal.writes, world.who)
            off = now.off()
            yield Step(words, off.change(tears=now.tears - 1) if torn else off, tuple(wrong))
        if operation.name == "after_boot" and not journal.refusal:
            said = tuple(self._properties.healthy(world, now))
            yield Step((operation, world.who, ""), now, said)
        else:
            yield Step((operation, world.who, journal.refusal), now)

    def _write(self, world: World, operation: Operation, write: Write) -> World:
        match write[0]:
            case "lose":
                return lose(world, write[1])
            case "label":
                disk = world.disk(write[1])._replace(own_label=write[2])
                return world.with_disk(write[1], disk)
            case "content":
                # Half-written, it loads: the worst that can be.
                release = write[3] if write[2] == "complete" else -1
                label = world.disk(write[1]).own_label
                return world.with_disk(write[1], Disk(label, write[2], True, release, False))
            case "record":
                return world.with_record(write[1], write[2])
            case copy if copy in _COPIES:
                return self._write_copy(world, operation, write[0], write[1])
            case _:
                told = _write_told(world, write, self._properties.forgets(world, write))
                wanted = write[0] == "intent" and operation.name in _ARMS and not write[1].outcome
                return told.change(again=0) if wanted else told  # a person wants it from here on

    def _write_copy(self, world: World, operation: Operation, copy: str, number: int) -> World:
        before = self._properties.used(world)
        after = world.with_copy(copy, number)
        state = self._states.state(number)
        assert state is not None
        who, name = world.who, operation.name
        trial = before.on_trial if before else None
        if name == "after_boot" and who in state.good:
            disk = world.disk(who)
            if disk.content == "complete" and not disk.confirmed:
                after = after.with_disk(who, disk._replace(confirmed=True))
            if trial == who == world.owed:
                after = after.change(owed=None, tried=0, again=0)
        if copy != "primary":
            return after
        again = name == "after_boot" and not trial  # it was interrupted
        if state.on_trial and (name in _ARMS or again):
            times = min(world.again + 1, 2) if again else 0
            return after.change(owed=state.on_trial, tried=0, again=times)
        if state.on_trial:
            return after
        if trial and trial == world.owed and name in (*_BRINGS, "reject"):
            # The person replaced it, or gave it up.
            after = after.change(owed=None)
        return after.change(tried=0)


def _other_follows(write: Write, rest: tuple[Write, ...]) -> bool:
    """The next copy that is written is the other one, of the same state."""
    copies = [later[0] for later in rest if later[0] in _COPIES]
    return bool(rest) and bool(copies) and rest[0][0] == copies[0] != write[0]


def _write_told(world: World, write: Write, forgotten: bool) -> World:
    """The intent, or a line of the history; both may tell the end of a trial."""
    if write[0] == "history":
        told = (
            write[1] in ("fallback", "rejected", "lost", "replaced", "interrupted")
            and write[2] == world.owed
        )
        if write[4]:
            world = world.change(told=write[1])
        return world.change(owed=None) if told else world
    if not write[2]:
        world = world.change(told=None)
    told = write[1].outcome in ("fallback", "rejected", "lost", "interrupted")
    if write[1].outcome == "confirmed" and world.owed == write[1].slot:
        disk = world.disk(write[1].slot)
        told = disk.confirmed and disk.release == write[1].release  # It is what runs, after all.
    owed = None if forgotten or (told and world.owed == write[1].slot) else world.owed
    return world.change(intent=write[1], owed=owed)


def lose(world: World, copy: str) -> World:
    """A fault: one copy of the boot state is not whole any more."""
    return world.change(faults=world.faults - 1).with_copy(copy, LOST)


def boot_kind(world: World) -> World:
    """How it was booted, where that makes a difference.

    Only status tells a trial from another boot, and only of a slot that is not confirmed;
    `after_boot` asks for fallback where a trial could not be saved.
    """
    if world.who in ("A", "B") and world.how != "normal" and world.disk(world.who).confirmed:
        return world if world.how == "fallback" and not world.saves else world.change(how="normal")
    return world


def _matters(lost: tuple[Loss, ...]) -> bool:
    """The backup is looked at only where the primary is lost."""
    copies = {copy for _, copy in lost}
    return "primary" in copies or len(copies) == 0
