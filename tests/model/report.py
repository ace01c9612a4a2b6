"""What was explored, and counterexamples, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from abupdate.boot.state import BootState
from tests.model.explore import Counterexample, Result
from tests.model.steps import Step
from tests.model.userland import Operation
from tests.model.world import Disk, States, World


def summary(result: Result) -> str:
    """One line of figures."""
    chosen = result.setting
    what = "what is told" if chosen.reports else "what boots"
    extra = (" once" if chosen.once else "") + (" reinstall" if chosen.reinstall else "")
    return (
        f"{what}: tries={chosen.tries} limit={chosen.limit} faults<={chosen.faults} "
        f"installs<={chosen.installs} tears<={chosen.tears}{extra}: "
        f"{result.worlds} states, {result.steps} transitions, "
        f"{result.runs} runs of a use case, {result.seconds:.1f} s CPU"
    )


def trace_text(found: Counterexample, states: States) -> str:
    """A counterexample, one line a step, with what is on the disk where that changed."""
    lines = [f"{found.name}: {found.text}"]
    shown = ""
    for number, (step, world) in enumerate(found.trace, 1):
        lines.append(f"  {number:2}. {_words(step, states)}")
        now = " | ".join(_world(world, states))
        if now != shown:
            lines.append(f"        {now}")
        shown = now
    return "\n".join(lines)


def _words(step: Step, states: States) -> str:
    words = step.words
    if words[0] == "cut in":
        _, operation, number, writes, who = words
        done = [_write(write, states) for write in writes[:number]]
        return f"in {who}: {_operation(operation)}: {' · '.join(done)} · power cut"
    if isinstance(words[0], Operation):
        refused = f" (refused: {words[2]})" if words[2] else ""
        return f"in {words[1]}: {_operation(words[0])}{refused}"
    return " ".join(str(word) for word in words if word != "")


def _operation(operation: Operation) -> str:
    text = operation.name.replace("_", " ")
    if operation.target:
        text += f" release {operation.release} into {operation.target}"
    return text


def _write(write: tuple[Any, ...], states: States) -> str:
    match write[0]:
        case "primary" | "backup":
            text = f"{write[0]} [{_state(states.state(write[1]))}]"
        case "lose":
            text = f"FAULT: {write[1]} lost"
        case "label":
            text = f"label {'root' if write[2] else 'new'}{write[1]}"
        case "content":
            text = f"{write[1]} {write[2]}"
        case "history":
            text = f"history '{write[1]} {write[3]} in {write[2]}'"
        case "record":
            text = f"record of {write[1]}"
        case _:
            text = str(write[0])
    return text


def _world(world: World, states: States) -> Iterator[str]:
    yield f"primary {_state(states.state(world.primary))}"
    if world.backup != world.primary:
        yield f"backup {_state(states.state(world.backup))}"
    yield f"A {_disk(world.a)}"
    yield f"B {_disk(world.b)}"
    if world.intent:
        told = world.intent.outcome or ("armed" if world.intent.armed else "not armed")
        yield f"intent {world.intent.release} in {world.intent.slot}, {told}"
    if world.owed:
        yield f"untold {world.owed}"


def _state(state: BootState | None) -> str:
    if state is None:
        return "lost"
    once = " once" if state.once == "R" else ""
    return (
        f"slot={state.slot} good={state.good} trial={state.trial} ustate={int(state.ustate)} "
        f"countdown={state.countdown} failed={state.failed}{once}"
    )


def _disk(disk: Disk) -> str:
    if disk.content == "empty":
        return "empty"
    label = "" if disk.own_label else " (label new)"
    sure = " confirmed" if disk.confirmed else ""
    broken = "" if disk.loads else " (does not load)"
    return f"{disk.content} {disk.release}{sure}{broken}{label}"
