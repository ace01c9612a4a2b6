"""Ways to break the rules, each of which the model has to see.

A mutation is a change of the text of one function, so that it follows the code:
it fails when the text that it changes is not there any more.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from abupdate.boot import grubenv, state
from abupdate.update import install, settle, verdict
from tests.model.world import Setting

_BOOT = Setting(faults=1, installs=1, tears=0, reports=False)
_TWO_FAULTS = Setting(faults=2, installs=1, tears=0, reports=False)
_TWO_INSTALLS = Setting(faults=0, installs=2, tears=0, reports=False)


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in a function; a run of `setting` breaks one of `breaks`."""

    name: str
    function: str
    old: str
    new: str
    breaks: frozenset[str]
    setting: Setting = _BOOT
    module: ModuleType = state


def _breaks(*names: str) -> frozenset[str]:
    return frozenset(names)


MUTATIONS = (
    Mutation(
        "an interrupted trial is armed by itself for ever",
        "rearm_interrupted",
        "rearmed=True, ",
        "",
        _breaks("P8-for-ever"),
        Setting(faults=0, installs=1, tears=0),
        settle,
    ),
    Mutation(
        "begin does not disarm",
        "begin",
        "trial=NONE,\n"
        "        ustate=Ustate.OK if state.ustate == Ustate.INSTALLED else state.ustate,\n"
        "        countdown=state.limit,",
        "",
        _breaks("P4-state"),
        _TWO_INSTALLS,
    ),
    Mutation(
        "begin leaves the slot in good",
        "begin",
        "good=_without(state.good, target),",
        "",
        _breaks("P4-state"),
        _TWO_INSTALLS,
    ),
    Mutation(
        "the backup holds the trial",
        "backup_of",
        "if state.ustate != Ustate.INSTALLED:",
        "if True:",
        _breaks("P6-backup-holds-trial"),
    ),
    Mutation(
        "slot is booted though it is not in good",
        "_attempts",
        "if state.slot in state.good and (",
        "if (",
        _breaks("P1-unconfirmed", "P4-booted"),
        _TWO_INSTALLS,
    ),
    Mutation(
        "a fallback does not store what failed",
        "_attempts",
        "slot=other, failed=state.slot)",
        "slot=other)",
        _breaks("loop-on-dead-slot"),
        _TWO_FAULTS,
    ),
    Mutation(
        "a fallback goes to the slot that failed",
        "_attempts",
        "other = other_of(state.slot)",
        "other = state.slot",
        _breaks("rescue-too-early"),
        _TWO_INSTALLS,
    ),
    Mutation(
        "arm does not set the countdown",
        "_armed",
        "countdown=state.tries, ",
        "",
        _breaks("attempts-lost"),
        _TWO_INSTALLS,
    ),
    Mutation(
        "a trial is not counted",
        "_attempts",
        "replace(state, countdown=state.countdown - 1)",
        "state",
        _breaks("P1-attempts", "loop-on-dead-slot"),
    ),
    Mutation(
        "a trial is booted though it cannot be counted",
        "_attempts",
        "if state.countdown > 0 and saves:",
        "if state.countdown > 0:",
        _breaks("P1-attempts"),
    ),
    Mutation(
        "a confirmed slot is not counted",
        "_spent",
        "return state if state.limit == 0 else",
        "return state if True else",
        _breaks("loop-on-dead-slot"),
    ),
    Mutation(
        "a healthy boot does not refill",
        "healthy",
        "countdown=limit, ",
        "",
        _breaks("not-refilled"),
    ),
    Mutation(
        "confirm leaves the slot out of good",
        "confirm",
        "good=_with(state.good, booted),",
        "",
        _breaks("P1-stays"),
    ),
    Mutation(
        "rescue is booted again and again",
        "_attempts",
        "state = replace(state, once=NONE)",
        "pass",
        _breaks("once-stays"),
        Setting(faults=0, installs=1, tears=0, reports=False, once=True),
    ),
    Mutation(
        "rebuild takes both slots as good",
        "rebuild",
        'names = "".join(name if name in good else NONE for name in "AB")',
        'names = "AB"',
        _breaks("P1-good", "P4-state"),
        _TWO_FAULTS,
    ),
    Mutation(
        "begin writes the primary first",
        "_begin",
        "backup_first=True",
        "backup_first=False",
        _breaks("P6-backup-late"),
        _TWO_INSTALLS,
        install,
    ),
    Mutation(
        "the label stays while a slot is written",
        "_relabel_unfinished",
        "label = slot.unfinished_label",
        "label = slot.label",
        _breaks("P4-label"),
        _TWO_INSTALLS,
        install,
    ),
)


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """With one function broken, wherever it is called from."""
    original = getattr(mutation.module, mutation.function)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mutation.old) == 1, f"{mutation.old!r} is not in {mutation.function} once"
    made: dict[str, Any] = {}
    # The module's own names, so that other replacements in it are seen as well.
    exec(
        compile(
            "from __future__ import annotations\n" + source.replace(mutation.old, mutation.new),
            f"mutated {mutation.function}",
            "exec",
        ),
        mutation.module.__dict__,
        made,
    )
    with ExitStack() as stack:
        for module in (state, grubenv, install, settle, verdict):
            if getattr(module, mutation.function, None) is original:
                changed = made[mutation.function]
                stack.enter_context(mock.patch.object(module, mutation.function, changed))
        yield
