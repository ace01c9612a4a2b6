"""Breadth first through all worlds: the first counterexample of a property is a shortest one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from abupdate.boot import state as boot
from abupdate.boot.state import Ustate
from tests.model.grub import Grub
from tests.model.properties import Properties
from tests.model.steps import Step, Steps
from tests.model.userland import Userland
from tests.model.world import LOST, OFF, Plan, Setting, States, World, first_world


@dataclass
class Counterexample:
    """The shortest way to break a property."""

    name: str
    text: str
    trace: list[tuple[Step, World]]


@dataclass
class Result:
    """What was explored. `times` counts each property's violations."""

    setting: Setting
    states: States
    worlds: int = 0
    steps: int = 0
    seconds: float = 0.0
    runs: int = 0
    times: dict[str, int] = field(default_factory=dict)
    counterexamples: dict[str, Counterexample] = field(default_factory=dict)


def explore(setting: Setting, ignore: Collection[str] | None = None) -> Result:
    """Every world that can be reached.

    With `ignore`, only until a property breaks that is not one of these.
    """
    start = time.process_time()
    states = States()
    grub, userland = Grub(states), Userland(states, setting)
    properties = Properties(states, grub, setting)
    steps = Steps(states, grub, userland, properties, setting)
    result = Result(setting, states)
    first = first_world(states, boot.provision(setting.tries, setting.limit), setting)
    before: dict[World, tuple[World, Step] | None] = {first: None}
    todo = deque([first])
    with userland.prepared():
        while todo:
            world = todo.popleft()
            for step in steps.out_of(world):
                result.steps += 1
                wrong = list(step.wrong)
                after = steps.settle(canonical(step.world, states, setting.reports))
                if after not in before:
                    before[after] = (world, step)
                    todo.append(after)
                    if after.who == OFF:
                        wrong += properties.at_rest(step.world)
                    else:
                        wrong += properties.while_running(step.world)
                for name, text in wrong:
                    if name.startswith("P8") and not setting.reports:
                        continue
                    result.times[name] = result.times.get(name, 0) + 1
                    if name not in result.counterexamples:
                        trace = [*_trace(before, world), (step, after)]
                        result.counterexamples[name] = Counterexample(name, text, trace)
            if ignore is not None and result.counterexamples.keys() - set(ignore):
                break
    result.worlds = len(before)
    result.runs = userland.runs
    result.seconds = time.process_time() - start
    return result


def canonical(world: World, states: States, reports: bool) -> World:
    """The same world without what makes no difference any more."""
    intent = world.intent
    if intent and intent.outcome:
        # An interrupted one is armed once more; of the others, nothing comes any more.
        again = intent.outcome == "interrupted" and not intent.rearmed
        outcome = intent.outcome if again or intent.outcome == "confirmed" else "fallback"
        world = world.change(intent=Plan(intent.slot, intent.release, True, outcome))
    world = _renumbered(world) if reports else _unreported(world)
    if not world.faults and world.primary != LOST:
        # The primary cannot be lost any more: what the backup holds goes nowhere but into
        # the next backup.
        primary = states.state(world.primary)
        assert primary is not None
        idle = states.number(boot.backup_of(primary, Ustate.OK))
        world = world.change(backup=idle, tears=0)
    return world


def _unreported(world: World) -> World:
    """Without what only matters for P8. An open intent lets a healthy boot mark its slot."""
    a, b, first, second, intent = world.a, world.b, world.record_a, world.record_b, world.intent
    still_open = intent is not None and intent.outcome in (None, "interrupted")
    return world.change(
        a=a._replace(release=0) if a.release > 0 else a,
        b=b._replace(release=0) if b.release > 0 else b,
        record_a=first._replace(release=0) if first and first.release else first,
        record_b=second._replace(release=0) if second and second.release else second,
        intent=intent._replace(release=0, armed=True) if intent and still_open else None,
        told=None,
        owed=None,
        again=0,
    )


def _renumbered(world: World) -> World:
    """Only which releases are the same makes a difference, not their numbers."""
    places = (world.a, world.b, world.record_a, world.record_b, world.intent)
    found = [place.release if place else -1 for place in places]
    numbers = {-1: -1}
    for release in found:
        numbers.setdefault(release, len(numbers) - 1)
    if all(old == new for old, new in numbers.items()):
        return world
    a, b, *others = [
        place._replace(release=numbers[place.release]) if place else None for place in places
    ]
    return world.change(a=a, b=b, record_a=others[0], record_b=others[1], intent=others[2])


def _trace(
    before: dict[World, tuple[World, Step] | None], world: World
) -> list[tuple[Step, World]]:
    trace: list[tuple[Step, World]] = []
    link = before[world]
    while link is not None:
        trace.append((link[1], world))
        world = link[0]
        link = before[world]
    return trace[::-1]
