"""What is booted: states of `grubenv`, and what is broken beside them.

- `full()`: every combination of what GRUB decides by, on a sound disk
- `unsaved()`: those that go another way where GRUB cannot save
- `triples()`: those values, the condition of the three systems and of the two
  copies: every combination of any three of them
- `pairs()`: every value of every variable and one that may not be, with every
  value of every other
- `spread(count)`: some of all these, with every kind of outcome
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from covertable import make

from abupdate.boot.envblock import SIZE
from abupdate.boot.grubenv import LostError, decode, encode
from abupdate.boot.state import BootState, GrubBoot, Ustate, backup_of, grub, provision

SEED = 20261121

# A name of a system's condition; all but the first do not load.
SYSTEMS = ("good", "no kernel", "flipped kernel", "unreadable initrd", "other label")
# Of a copy. "old" is another, valid state; of "unwritable", only reading works.
COPIES = ("good", "missing", "empty", "43 bytes", "1025 bytes", "random", "old", "unwritable")

# The order of the file.
NAMES = (
    *("fmt", "slot", "good", "trial", "ustate", "countdown"),
    *("tries", "limit", "failed", "once", "seen", "end"),
)
USUAL = dict(zip(NAMES, ("1", "A", "Ax", "x", "0", "2", "3", "2", "x", "x", "x", "1"), strict=True))

# What GRUB decides by. `countdown=a` is none that may be: the copy is lost.
DECIDING: Mapping[str, Sequence[str]] = {
    "ustate": "013",
    "trial": "ABx",
    "slot": "AB",
    "good": ("AB", "Ax", "xB", "xx"),
    "countdown": "0129a",
    "failed": "ABx",
    "limit": "02",
}
# All that each may be, and at the end one that it may not.
EVERY: Mapping[str, Sequence[str]] = {
    "fmt": "12",
    "slot": "ABx",
    "good": ("AB", "Ax", "xB", "xx", "BA"),
    "trial": "ABxR",
    "ustate": "0132",
    "countdown": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ""),
    "tries": "1234567890",
    "limit": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"),
    "failed": "ABxR",
    "once": "xRA",
    "seen": "ABRxa",
    "end": "10",
}

_OLD = BootState("B", "AB", "x", Ustate.FAILED, 1, 3, 2, "x", "x", "A")
_RANDOM = random.Random(SEED).randbytes(1024)


@dataclass(frozen=True)
class Case:
    """One start of the machine: what `grubenv` says, and what is broken."""

    values: Mapping[str, str]
    systems: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys("ABR", "good"))
    primary: str = "good"
    backup: str = "good"

    def __str__(self) -> str:
        changed = [f"{name}={text}" for name, text in self.values.items() if USUAL[name] != text]
        broken = [f"{name}: {text}" for name, text in self.systems.items() if text != "good"]
        copies = [("primary", self.primary), ("backup", self.backup)]
        broken += [f"{name}: {text}" for name, text in copies if text != "good"]
        return ", ".join([" ".join(changed) or "as usual", *broken])

    @property
    def state(self) -> BootState:
        """The state, with the usual value where there is one that may not be."""
        settled = {name: text for name, text in self.values.items() if text in _allowed(name)}
        return decode(_formatted({**USUAL, **settled}))

    @property
    def copies(self) -> tuple[bytes | None, bytes | None]:
        """What the two files hold before."""
        backup = block(backup_of(self.state, Ustate.OK))
        return _damaged(_formatted(self.values), self.primary), _damaged(backup, self.backup)

    def expected(self) -> tuple[GrubBoot, bytes | None, bytes | None]:
        """What GRUB is to do by the rules, and what the two files hold afterwards."""
        primary, backup = self.copies
        states = [_decoded(primary), _decoded(backup)]
        used = self.primary if states[0] else self.backup
        loads = [name for name, condition in self.systems.items() if condition == "good"]
        outcome = grub(states[0], states[1], loads, saves=used != "unwritable")
        if outcome.state is not None:
            if outcome.copy == "primary":
                primary = _changed(primary, outcome.state)
            else:
                backup = _changed(backup, outcome.state)
        return outcome, primary, backup


def full() -> list[Case]:
    """Every combination of what GRUB decides by, reachable or not."""
    combinations = itertools.product(*DECIDING.values())
    return [Case({**USUAL, **dict(zip(DECIDING, row, strict=True))}) for row in combinations]


def unsaved() -> list[Case]:
    """Trials and `once` on a copy that takes no writes."""
    trials = [replace(case, primary="unwritable") for case in full() if case.state.on_trial]
    rescue = Case({**USUAL, "once": "R"}, primary="unwritable")
    return [rescue, *(case for case in trials if case.values["countdown"] in "129")]


def triples() -> list[Case]:
    """Any three of: the deciding values, the systems, the copies."""
    factors: dict[str, Any] = {name: list(texts) for name, texts in DECIDING.items()}
    factors |= {f"system {name}": list(SYSTEMS) for name in "ABR"}
    factors |= {"primary": list(COPIES), "backup": list(COPIES)}
    return [
        Case(
            {name: row.get(name, USUAL[name]) for name in NAMES},
            {name: row[f"system {name}"] for name in "ABR"},
            row["primary"],
            row["backup"],
        )
        for row in make(factors, strength=3)
    ]


def pairs() -> list[Case]:
    """Any two values of any two variables, with one at a time that may not be."""
    allowed = {name: _allowed(name) for name in EVERY}
    rows = [dict(row) for row in make(allowed, strength=2)]
    for name, texts in EVERY.items():
        others = {**allowed, name: texts[-1:]}
        rows += [dict(row) for row in make(others, strength=1)]
    return [Case({key: row[key] for key in NAMES}) for row in rows]


def every() -> list[Case]:
    """All of them."""
    return [*full(), *unsaved(), *triples(), *pairs()]


def spread(count: int) -> list[Case]:
    """That many of them, the same in every run: as many different outcomes as there are.

    The first of each outcome is one with little that is broken.
    """
    chance = random.Random(SEED)
    groups: dict[object, list[Case]] = {}
    for case in every():
        groups.setdefault(_outcome(case), []).append(case)
    for group in groups.values():
        chance.shuffle(group)
        group.insert(0, group.pop(group.index(min(group, key=_broken))))
    turns = itertools.zip_longest(*chance.sample([*groups.values()], len(groups)))
    return [case for case in itertools.chain(*turns) if case is not None][:count]


def _outcome(case: Case) -> object:
    """What boots, what is saved, and why a copy is not believed."""
    outcome, _, _ = case.expected()
    states = [_decoded(raw) for raw in case.copies]
    before = states[0] or states[1]
    changed = [
        name for name in DECIDING if getattr(before, name, 0) != getattr(outcome.state, name, 0)
    ]
    wrong = [name for name, text in case.values.items() if text not in _allowed(name)]
    return outcome.boots, outcome.how, *changed, case.primary == "unwritable", *wrong


def _broken(case: Case) -> int:
    return sum(condition != "good" for condition in case.systems.values())


def _allowed(name: str) -> list[str]:
    return list(EVERY[name][:-1])


def block(state: BootState) -> bytes:
    """The bytes of a copy, as `encode` makes them; the quick way, for thousands of them."""
    values = {name: str(getattr(state, name)) for name in NAMES if name not in {"fmt", "end"}}
    return _formatted({"fmt": "1", **values, "ustate": str(int(state.ustate)), "end": "1"})


def _formatted(values: Mapping[str, str]) -> bytes:
    text = _head() + "".join(f"{name}={values[name]}\n" for name in NAMES).encode()
    return text.ljust(SIZE, b"#")


@functools.cache
def _head() -> bytes:
    """What grub-editenv writes before the first variable."""
    return encode(provision(1, 0)).partition(b"fmt=")[0]


def _damaged(whole: bytes, condition: str) -> bytes | None:
    return {
        "missing": None,
        "empty": b"",
        "43 bytes": whole[:43],
        "1025 bytes": whole + b"#",
        "random": _RANDOM,
        "old": block(_OLD),
    }.get(condition, whole)


def _decoded(raw: bytes | None) -> BootState | None:
    try:
        return None if raw is None else decode(raw)
    except LostError:
        return None


def _changed(raw: bytes | None, state: BootState) -> bytes:
    """The same file with other values; its length stays."""
    assert raw is not None
    return block(state) + raw[SIZE:]
