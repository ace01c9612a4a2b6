"""Who boots next: the rules, as values and pure functions.

This module is the specification. The first half is userland's: each function
is one row of the table in docs/boot-state-machine.md, takes the state that
`grubenv` holds and gives the one to write, or raises `RefusedError`. The second
half, `grub`, is what `grub/rules.cfg` does with it; the tests boot the real
file and compare.

Slots are "A" and "B", rescue is "R", none is "x": one character, so that a
change of value never moves another byte of the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from abupdate.errors import RefusedError

NONE = "x"
RESCUE = "R"

TRIAL_HINT = "Run `abupdate confirm` to keep it or `abupdate reject` to give it up."


class Ustate(IntEnum):
    """What the last update came to; SWUpdate's numbers."""

    OK = 0
    INSTALLED = 1
    FAILED = 3


@dataclass(frozen=True)
class BootState:
    """All variables of `grubenv`, but for `fmt` and `end`, which frame them.

    - `slot`: A or B, what boots when nothing is on trial
    - `good`: AB, Ax, xB or xx, the slots that hold a complete, once confirmed system
    - `trial`: A, B or x, the armed slot
    - `ustate`: what the last update came to
    - `countdown`: 0 to 9, boots left for what boots now
    - `tries`: 1 to 9, what a trial starts from
    - `limit`: 0 to 9, boots that a confirmed slot gets without a healthy one; 0 = no limit
    - `failed`: A, B or x, the slot that was given up on
    - `once`: R or x, boot rescue the next time only
    - `seen`: A, B, R or x, GRUB's mark of what it boots
    """

    slot: str
    good: str
    trial: str
    ustate: Ustate
    countdown: int
    tries: int
    limit: int
    failed: str
    once: str
    seen: str

    @property
    def on_trial(self) -> str | None:
        """The slot that GRUB tries at the next boot, or that runs on trial now."""
        armed = self.ustate == Ustate.INSTALLED and self.trial != NONE
        return self.trial if armed else None


def other_of(slot: str) -> str:
    """The slot that this one is not."""
    return "B" if slot == "A" else "A"


def _with(good: str, slot: str) -> str:
    return "".join(name if name in good or name == slot else NONE for name in "AB")


def _without(good: str, slot: str) -> str:
    return good.replace(slot, NONE)


# Userland


def provision(tries: int, limit: int) -> BootState:
    """A new device: A holds a complete system, B nothing."""
    return BootState(
        slot="A",
        good="Ax",
        trial=NONE,
        ustate=Ustate.OK,
        countdown=limit,
        tries=tries,
        limit=limit,
        failed=NONE,
        once=NONE,
        seen=NONE,
    )


def begin(state: BootState, target: str, booted: str) -> BootState:
    """Before the first byte of slot `target` changes: nothing may boot it any more.

    Needs: t≠booted; booted ∈ good or rescue; not from inside a running trial.
    """
    if target == booted:
        raise RefusedError(
            f"Slot {target} is the one that runs; only the other slot can be written."
        )
    if booted == state.on_trial:
        raise RefusedError(
            f"Slot {booted} runs on trial; until it is judged, slot {target} is what a fallback "
            "needs.",
            TRIAL_HINT,
        )
    if booted != RESCUE and booted not in state.good:
        raise RefusedError(
            f"Slot {booted} should be known as good before slot {target} is overwritten, but the "
            f"boot state has good={state.good}.",
            f"Boot a slot that is good, or rescue, and install from there; slot {target} may be "
            "the last good system.",
        )
    stays = booted if booted != RESCUE else other_of(target)
    return replace(
        state,
        slot=stays,
        good=_without(state.good, target),
        trial=NONE,
        ustate=Ustate.OK if state.ustate == Ustate.INSTALLED else state.ustate,
        countdown=state.limit,
        failed=NONE if state.failed == target else state.failed,
    )


def arm(state: BootState, target: str) -> BootState:
    """GRUB shall try slot `target`.

    Needs: begun, written, read back, label back; t ≠ slot; t ∉ good; nothing armed.
    """
    if state.on_trial:
        raise RefusedError(f"Slot {state.trial} is armed or on trial already.", TRIAL_HINT)
    if target == state.slot:
        raise RefusedError(f"Slot {target} is what boots anyway; only the other slot can be armed.")
    if target in state.good:
        raise RefusedError(
            f"Slot {target} holds a system that was confirmed before; no install is waiting in it.",
            "`abupdate rollback` arms it.",
        )
    return _armed(state, target)


def _armed(state: BootState, target: str) -> BootState:
    return replace(state, trial=target, ustate=Ustate.INSTALLED, countdown=state.tries, failed=NONE)


def confirm(state: BootState, booted: str, tries: int, limit: int) -> BootState:
    """The trial is what boots from now on.

    Needs: booted=trial, ustate 1, its checks passed.
    """
    if booted != state.on_trial:
        raise RefusedError(
            f"Slot {booted} should be on trial to be confirmed, but "
            + (f"slot {state.trial} is." if state.on_trial else "nothing is."),
            "`abupdate status` tells what runs.",
        )
    return replace(
        state,
        slot=booted,
        good=_with(state.good, booted),
        trial=NONE,
        ustate=Ustate.OK,
        countdown=limit,
        tries=tries,
        limit=limit,
        failed=NONE,
        seen=NONE,
    )


def reject(state: BootState) -> BootState:
    """Give the armed or running trial up.

    Needs: ustate 1; a person wants it, or the last check failed.
    """
    if not state.on_trial:
        raise RefusedError(
            "No slot is armed or on trial; there is nothing to reject.",
            "`abupdate rollback` goes back to the other slot.",
        )
    return replace(_given_up(state), seen=NONE)


def rollback(state: BootState, booted: str) -> BootState:
    """Give the other slot a trial again.

    Needs: nothing armed; booted=slot; other ∈ good.
    """
    if state.on_trial:
        raise RefusedError(f"Slot {state.trial} is armed or on trial.", TRIAL_HINT)
    if booted != state.slot:
        raise RefusedError(
            f"A rollback starts from the slot that normally boots, {state.slot}; "
            f"{'rescue' if booted == RESCUE else f'slot {booted}'} runs.",
            "Reboot, then roll back.",
        )
    other = other_of(state.slot)
    if other not in state.good:
        raise RefusedError(
            f"Slot {other} holds no confirmed system to go back to.",
            "Install the release that you want: abupdate install BUNDLE",
        )
    return _armed(state, other)


def healthy(state: BootState, booted: str, tries: int, limit: int) -> BootState:
    """The confirmed slot gets all its boots again.

    Needs: ustate≠1; booted=slot; slot ∈ good; its checks passed.
    """
    if state.ustate == Ustate.INSTALLED:
        raise RefusedError(
            f"Slot {state.trial} is armed or on trial; its countdown is not refilled.", TRIAL_HINT
        )
    if booted != state.slot:
        raise RefusedError(
            f"Slot {state.slot} is what normally boots, and {booted} runs; the countdown of "
            f"slot {state.slot} is not refilled.",
            "Reboot to return to it.",
        )
    if booted not in state.good:
        raise RefusedError(
            f"Slot {booted} runs and should be known as good, but the boot state has "
            f"good={state.good}.",
            "Install a release into the other slot from here, or from rescue.",
        )
    return replace(state, countdown=limit, tries=tries, limit=limit, seen=NONE)


def acknowledge(state: BootState) -> BootState:
    """The fallback is known.

    Needs: ustate 3; somebody was told.
    """
    if state.ustate != Ustate.FAILED:
        raise RefusedError("There is no fallback to acknowledge.")
    return replace(state, ustate=Ustate.OK)


def retry(state: BootState) -> BootState:
    """Give what was good another chance.

    Needs: in rescue, after a set time; good≠xx.
    """
    if state.good == "xx":
        raise RefusedError(
            "No slot holds a confirmed system to try again.", "Install a release from rescue."
        )
    slot = state.slot if state.slot in state.good else other_of(state.slot)
    return _restarted(replace(state, slot=slot))


def rebuild(slot: str, good: Collection[str], tries: int, limit: int) -> BootState:
    """Rescue, when both copies are lost.

    `slot` is the last confirmed one, `good` those that are confirmed by their
    record and carry their own label.
    """
    if not good:
        raise RefusedError(
            "No slot is known as complete by both its record and its label.",
            "Install a release from rescue.",
        )
    names = "".join(name if name in good else NONE for name in "AB")
    known = replace(provision(tries, limit), slot=slot, good=names)
    return retry(known)


def _restarted(state: BootState) -> BootState:
    return replace(state, trial=NONE, ustate=Ustate.FAILED, countdown=state.limit, failed=NONE)


def rescue_once(state: BootState) -> BootState:
    """Boot rescue the next time only.

    Needs: nothing.
    """
    return replace(state, once=RESCUE)


def backup_of(state: BootState, before: Ustate) -> BootState:
    """What the second copy holds: never a trial.

    Should the first copy be lost, the slot that is not confirmed is not booted.
    `before` is the `ustate` that the second copy had before the trial was armed.
    """
    if state.ustate != Ustate.INSTALLED:
        return state
    settled = Ustate.OK if before == Ustate.INSTALLED else before
    return replace(state, trial=NONE, ustate=settled, countdown=state.limit)


# GRUB


@dataclass(frozen=True)
class GrubBoot:
    """What one run of GRUB does.

    `boots` is A, B or R, None for a reboot after 30 seconds; `how` is the
    kernel argument `abupdate.boot`; `state` is what the copy in use holds
    afterwards (None when both are lost), `copy` is "primary" or "backup".
    """

    boots: str | None
    how: str | None
    state: BootState | None
    copy: str | None


def grub(
    primary: BootState | None,
    backup: BootState | None,
    loads: Collection[str],
    *,
    saves: bool = True,
) -> GrubBoot:
    """One run of GRUB.

    A copy that is lost is None. `loads` names what has its label once, a kernel
    and an initrd that load; `saves` tells whether GRUB can write.
    """
    state = primary or backup
    if state is None:
        for name in ("R", "A", "B"):
            if name in loads:
                return GrubBoot(name, "rescue" if name == RESCUE else "fallback", None, None)
        return GrubBoot(None, None, None, None)
    copy = "primary" if primary else "backup"
    for name, how, wanted in _attempts(state, saves):
        if saves:
            state = replace(wanted, seen=name)
        if name in loads:
            return GrubBoot(name, how, state, copy)
    return GrubBoot(None, None, state, copy)


def _attempts(state: BootState, saves: bool) -> Iterator[tuple[str, str, BootState]]:
    """What GRUB tries in turn: (what, `abupdate.boot`, the state that it saves before)."""
    if state.once == RESCUE and saves:
        state = replace(state, once=NONE)
        yield RESCUE, "rescue", state
    how = "normal"
    if state.on_trial:
        if state.countdown > 0 and saves:
            yield state.trial, "trial", replace(state, countdown=state.countdown - 1)
        state, how = _given_up(state), "fallback"
    if state.slot in state.good and (state.limit == 0 or state.countdown > 0):
        state = _spent(state)
        yield state.slot, how, state
    other = other_of(state.slot)
    if other in state.good and other != state.failed:
        state = _spent(replace(_restarted(state), slot=other, failed=state.slot))
        yield other, "fallback", state
    yield RESCUE, "rescue", state
    # Rescue is gone too: the other one starts over, or this one, or they take turns.
    floor = state
    for name in (other_of(floor.slot), floor.slot):
        if name in floor.good:
            yield name, "fallback", _spent(replace(_restarted(floor), slot=name))


def _given_up(state: BootState) -> BootState:
    return replace(
        state,
        good=_without(state.good, state.trial),
        trial=NONE,
        ustate=Ustate.FAILED,
        countdown=state.limit,
        failed=state.trial,
    )


def _spent(state: BootState) -> BootState:
    return state if state.limit == 0 else replace(state, countdown=state.countdown - 1)
