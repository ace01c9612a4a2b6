"""`make docs`: the diagram and the tables of docs/boot-state-machine.md, from state.py.

Nothing about the rules is written down here. A table's cell is the simplest
expression that gives what the function gave, for every state that it takes;
the diagram is what all states that can be reached come to.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abupdate.boot import state as rules
from abupdate.boot.grubenv import VALUES
from abupdate.boot.state import BootState, Ustate, other_of
from abupdate.errors import RefusedError

PATH = Path(__file__).parent.parent / "docs" / "boot-state-machine.md"

COLUMNS = ("slot", "good", "trial", "ustate", "countdown", "failed", "once", "seen")
UNCHANGED = "·"
TRIES, LIMIT = 7, 6  # what no state below has, to be told apart from its own


@dataclass(frozen=True)
class Step:
    """One use of a rule: before, after, and the words it was given."""

    before: BootState
    after: BootState
    target: str = rules.NONE
    booted: str = rules.NONE


def states() -> Iterator[BootState]:
    """All that the variables may say, with few enough countdowns."""
    parts = itertools.product(
        "AB", ("AB", "Ax", "xB", "xx"), "ABx", Ustate, (0, 1, 3), (3, 5), (0, 2), "ABx", "xR", "x"
    )
    return (BootState(*words) for words in parts)


# What a cell may say, the simplest first; each with what it means.
_EXPRESSIONS: Sequence[tuple[str, Callable[[str, Step], Any]]] = (
    (UNCHANGED, lambda name, step: getattr(step.before, name)),
    *((text, lambda name, step, text=text: text) for text in ("A", "B", "R", "x", "Ax")),
    *((str(int(u)), lambda name, step, u=u: u) for u in Ustate),
    ("t", lambda name, step: step.target),
    ("other of t", lambda name, step: _other(step.target)),
    ("booted", lambda name, step: step.booted),
    ("other of booted", lambda name, step: _other(step.booted)),
    ("trial", lambda name, step: step.before.trial),
    ("old slot", lambda name, step: step.before.slot),
    ("other", lambda name, step: other_of(step.before.slot)),
    ("limit", lambda name, step: step.after.limit),
    ("tries", lambda name, step: step.after.tries),
    ("−1", lambda name, step: _less(step.before.countdown)),
    ("−1 if limit≠0", lambda name, step: _spent(step.before.countdown, step.before.limit)),
    ("limit, then −1 if limit≠0", lambda name, step: _spent(step.after.limit, step.after.limit)),
    ("−t", lambda name, step: step.before.good.replace(step.target, "x")),
    ("−trial", lambda name, step: step.before.good.replace(step.before.trial, "x")),
    ("+t", lambda name, step: _with(step.before.good, step.target)),
    ("+booted", lambda name, step: _with(step.before.good, step.booted)),
    ("x if it was t", lambda name, step: _unless(step.before.failed, step.target)),
    ("x if it was booted", lambda name, step: _unless(step.before.failed, step.booted)),
    ("other if slot ∉ good", lambda name, step: _good_one(step.before)),
)


def _other(slot: str) -> str | None:
    return other_of(slot) if slot in "AB" else None


def _less(count: int) -> int | None:
    return count - 1 if count else None


def _spent(count: int, limit: int) -> int | None:
    return _less(count) if limit else count


def _with(good: str, slot: str) -> str:
    return "".join(one if one in good or one == slot else "x" for one in "AB")


def _unless(failed: str, target: str) -> str:
    return "x" if failed == target else failed


def _good_one(state: BootState) -> str:
    return state.slot if state.slot in state.good else other_of(state.slot)


def cell(name: str, steps: Sequence[Step]) -> str:
    """What became of one variable."""
    for text, value in _EXPRESSIONS:
        if all(value(name, step) == getattr(step.after, name) for step in steps):
            return text
    changes = {(getattr(step.before, name), getattr(step.after, name)) for step in steps}
    into: dict[object, set[object]] = {}
    for old, new in changes:
        into.setdefault(old, set()).add(new)
    if any(len(found) > 1 for found in into.values()):
        raise ValueError(f"no expression says what becomes of {name}: {sorted(map(str, changes))}")
    shown = [(_show(old), _show(*new)) for old, new in sorted(into.items(), key=str)]
    return ", ".join(f"{old} stays" if old == new else f"{old}→{new}" for old, new in shown)


def _show(value: object) -> str:
    return str(int(value)) if isinstance(value, int) else str(value)


def table(
    head: str, names: Sequence[str], last: str, rows: Iterable[tuple[str, Sequence[Step], str]]
) -> list[str]:
    """A table with a row for each (title, steps, text of the last column)."""
    columns = [head, *names, last]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for title, steps, text in rows:
        cells = [cell(name, steps) for name in names]
        lines.append(f"| {' | '.join([title, *cells, text])} |")
    return lines


def _steps(change: Callable[..., BootState], arguments: Sequence[tuple[str, str]]) -> list[Step]:
    """The rule, on every state that it takes; the arguments are (target, booted)."""
    names = list(inspect.signature(change).parameters)
    found = []
    for before, (target, booted) in itertools.product(states(), arguments):
        given: dict[str, Any] = {"state": before, "target": target, "booted": booted}
        given |= {"tries": TRIES, "limit": LIMIT}
        try:
            after = change(**{name: given[name] for name in names})
        except RefusedError:
            continue
        on = target if "target" in names else rules.NONE
        found.append(Step(before, after, on, booted))
    return found


def userland() -> list[str]:
    """The table of userland: each transition with what it needs."""
    slots = list(itertools.product("AB", "AB"))
    from_rescue = [("A", "R"), ("B", "R")]
    parts: list[tuple[str, Callable[..., BootState], list[tuple[str, str]]]] = [
        ("`begin(t)`", rules.begin, slots),
        ("`begin(t)` from rescue", rules.begin, from_rescue),
        ("`arm(t)`", rules.arm, slots),
        ("`confirm`", rules.confirm, slots),
        ("`reject`", rules.reject, slots),
        ("`rollback`", rules.rollback, slots),
        ("`healthy`", rules.healthy, slots),
        ("`acknowledge`", rules.acknowledge, slots),
        ("`retry`", rules.retry, from_rescue),
        ("`rescue_once`", rules.rescue_once, slots),
    ]
    return table(
        "userland, one atomic write a row",
        COLUMNS,
        "needs",
        [(name, _steps(rule, words), _needs(rule)) for name, rule, words in parts],
    )


def _needs(rule: Callable[..., BootState]) -> str:
    """The docstring's own words on when a rule may be used."""
    found = re.search(r"Needs: (.*?)(?:\n\n|$)", inspect.getdoc(rule) or "", re.DOTALL)
    assert found, f"{rule.__name__} does not say what it needs"
    return " ".join(found[1].split()).rstrip(".")


# What GRUB attempts: when it is attempted (checked), and what boots.
_ATTEMPTS: dict[str, tuple[str, Callable[[BootState], bool], str]] = {
    "once": ("`once`=R, and clearing it could be saved", lambda base: base.once == "R", "rescue"),
    "trial": (
        "ustate 1, trial≠x, countdown 1–9, and saved",
        lambda base: base.on_trial is not None and base.countdown > 0,
        "trial",
    ),
    "given up": (
        "… ustate 1 all the same, or the trial does not load: given up",
        lambda base: base.on_trial is not None,
        "go on below",
    ),
    "slot": (
        "slot ∈ good, limit 0 or countdown ≥ 1",
        lambda base: base.slot in base.good and (base.limit == 0 or base.countdown > 0),
        "slot, saved or not; `fallback` where a trial was given up, else `normal`",
    ),
    "other": (
        "… else, or it does not load: other ∈ good and ≠ failed",
        lambda base: other_of(base.slot) in base.good and other_of(base.slot) != base.failed,
        "other, saved or not; `fallback`",
    ),
    "rescue": ("nothing of these, or it does not load", lambda base: True, "rescue"),
    "last": (
        "rescue does not load: other ∈ good starts over",
        lambda base: other_of(base.slot) in base.good,
        "other, saved or not; `fallback`",
    ),
    "at last": (
        "… else, or it does not load: slot ∈ good starts over",
        lambda base: base.slot in base.good,
        "slot, saved or not; `fallback`",
    ),
}


def grub() -> list[str]:
    """The table of GRUB, from what it attempts in each state."""
    steps: dict[str, list[Step]] = {kind: [] for kind in _ATTEMPTS}
    for before in states():
        base, rescue_failed = before, False
        floor = before
        for what, how, after in rules._attempts(before, True):
            if base.on_trial and not after.on_trial:
                given_up = rules._given_up(base)
                steps["given up"].append(Step(base, given_up))
                base = given_up
            kind = _kind(floor if rescue_failed else base, what, how, rescue_failed)
            steps[kind].append(Step(floor if rescue_failed else base, after))
            if kind == "rescue":
                rescue_failed, floor = True, after
            base = after
    for kind, (title, holds, _) in _ATTEMPTS.items():
        assert steps[kind] and all(holds(step.before) for step in steps[kind]), title
    rows = [(title, steps[kind], boots) for kind, (title, _, boots) in _ATTEMPTS.items()]
    names = [name for name in COLUMNS if name != "seen"]
    return table("GRUB, in order", names, "boots; `abupdate.boot=`", rows)


def _kind(base: BootState, what: str, how: str, rescue_failed: bool) -> str:
    if rescue_failed:
        return "at last" if what == base.slot else "last"
    if what == rules.RESCUE:
        return "once" if base.once == rules.RESCUE else "rescue"
    if how == "trial":
        return "trial"
    return "slot" if what == base.slot else "other"


def variables() -> list[str]:
    """The table of the variables; what they mean is what the class says."""
    text = inspect.getdoc(BootState) or ""
    meaning = {
        found[1]: re.sub(r"^[\w, ]+ (or|to) \w+, ", "", " ".join(found[2].split()))
        for found in re.finditer(r"- `(\w+)`: (.*?)(?=\n- |\Z)", text, re.DOTALL)
    }
    meaning |= {"fmt": "the format of this file", "end": "the block is whole"}
    meaning["ustate"] += f": {', '.join(f'{int(one)} {one.name}' for one in Ustate)}"
    lines = ["| variable | values | meaning |", "|---|---|---|"]
    for name, pattern in VALUES.items():
        lines.append(f"| `{name}` | {_values(pattern)} | {meaning[name]} |")
    return lines


def _values(pattern: str) -> str:
    if found := re.fullmatch(r"\[(\w)-(\w)\]", pattern):
        return f"{found[1]}–{found[2]}"
    return " ".join(pattern.strip("[]") if "[" in pattern else pattern.split("|"))


@dataclass(frozen=True)
class _World:
    """A device as far as the diagram goes: what runs, and which slot is being written."""

    state: BootState
    runs: str
    begun: str = rules.NONE

    @property
    def place(self) -> str:
        if self.runs == rules.RESCUE:
            return "rescue"
        if self.state.on_trial:
            return "trial" if self.runs == self.state.on_trial else "armed"
        if self.begun != rules.NONE:
            return "writing"
        return "fallback" if self.state.ustate == Ustate.FAILED else "normal"


PLACES = {
    "normal": "the slot runs<br/>ustate 0",
    "writing": "an install writes the other slot<br/>it is not in good",
    "armed": "armed<br/>ustate 1, the old slot runs",
    "trial": "on trial<br/>ustate 1, countdown falls",
    "fallback": "fell back<br/>ustate 3",
    "rescue": "rescue runs",
}


def diagram() -> list[str]:
    """All that can be reached from a new device, as places and what leads from one to the next."""
    start = _World(rules.provision(2, 2), "A")
    edges: dict[tuple[str, str], list[str]] = {}
    waiting, seen = [start], {start}
    while waiting:
        world = waiting.pop(0)
        for label, following in _leads_to(world):
            labels = edges.setdefault((world.place, following.place), [])
            if label not in labels:
                labels.append(label)
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    order = list(PLACES)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start.place}: provision"]
    lines += [f"    {place}: {text}" for place, text in PLACES.items()]
    for (old, new), labels in sorted(
        edges.items(), key=lambda edge: [order.index(place) for place in edge[0]]
    ):
        lines.append(f"    {old} --> {new}: {', '.join(sorted(labels))}")
    return [*lines, "```"]


def _leads_to(world: _World) -> Iterator[tuple[str, _World]]:
    state, runs = world.state, world.runs
    backup = rules.backup_of(state, Ustate.OK)
    for loads in ("ABR", "AR", "BR"):
        outcome = rules.grub(state, backup, loads)
        if outcome.boots and outcome.state:
            assert outcome.boots != world.begun, "GRUB would boot a slot that is being written"
            after = replace(outcome.state, seen=rules.NONE)
            yield f"boot ({outcome.how})", _World(after, outcome.boots)
    uses: list[tuple[str, Callable[[], BootState]]] = [
        ("begin", lambda: rules.begin(state, other_of(runs) if runs in "AB" else "B", runs)),
        ("confirm", lambda: rules.confirm(state, runs, 2, 2)),
        ("reject", lambda: rules.reject(state)),
        ("rollback", lambda: rules.rollback(state, runs)),
        ("healthy", lambda: rules.healthy(state, runs, 2, 2)),
        ("acknowledge", lambda: rules.acknowledge(state)),
        ("rescue_once", lambda: rules.rescue_once(state)),
    ]
    if world.begun != rules.NONE:
        uses.append(("arm", lambda: rules.arm(state, world.begun)))
    if runs == rules.RESCUE:
        uses.append(("retry", lambda: rules.retry(state)))
    for name, change in uses:
        try:
            after = replace(change(), seen=rules.NONE)
        except RefusedError:
            continue
        begun = world.begun if name in {"acknowledge", "healthy", "rescue_once"} else rules.NONE
        if name == "begin":
            begun = next((slot for slot in "AB" if slot != runs and slot not in after.good), "x")
        yield name, _World(after, runs, begun)


_PARTS = {"diagram": diagram, "variables": variables, "grub": grub, "userland": userland}


def generated(text: str) -> str:
    """The page with its generated parts made anew."""
    for name, make in _PARTS.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        head, _, rest = text.partition(begin)
        tail = rest.partition(end)[2]
        assert rest and tail, f"{PATH.name} has no part '{name}'"
        body = "".join(f"{line}\n" for line in make())
        text = f"{head}{begin}\n{body}\n{end}{tail}"
    return text


if __name__ == "__main__":
    PATH.write_text(generated(PATH.read_text()))
