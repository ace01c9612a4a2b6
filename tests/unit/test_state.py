"""The boot rules: every transition of userland, and a device driven at random through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from abupdate.boot import state as boot
from abupdate.boot.state import BootState, Ustate, backup_of, grub
from abupdate.errors import ExitCode, RefusedError

TRIES, LIMIT = 2, 3
NEW = boot.provision(TRIES, LIMIT)
BEGUN = boot.begin(NEW, "B", "A")
ARMED = boot.arm(BEGUN, "B")
CONFIRMED = boot.confirm(ARMED, "B", TRIES, LIMIT)
FELL_BACK = replace(boot.reject(ARMED), seen="A")


def test_provision() -> None:
    assert BootState("A", "Ax", "x", Ustate.OK, 8, 3, 8, "x", "x", "x") == boot.provision(3, 8)


def test_install_and_confirm() -> None:
    assert BEGUN == NEW
    assert replace(BEGUN, trial="B", ustate=Ustate.INSTALLED, countdown=TRIES) == ARMED
    assert replace(NEW, slot="B", good="AB") == CONFIRMED


def test_confirm_takes_the_configured_numbers() -> None:
    found = boot.confirm(replace(ARMED, seen="B", countdown=1), "B", 5, 0)
    assert (found.tries, found.limit, found.countdown, found.seen) == (5, 0, 0, "x")


def test_begin_again_disarms_and_replaces() -> None:
    assert boot.begin(ARMED, "B", "A") == NEW
    after_fallback = boot.begin(FELL_BACK, "B", "A")
    assert (after_fallback.ustate, after_fallback.failed) == (Ustate.FAILED, "x")


def test_begin_makes_the_booted_slot_the_one_that_boots() -> None:
    """Chosen in the menu: a cut during the install must not boot what is being written."""
    assert boot.begin(CONFIRMED, "B", "A") == replace(CONFIRMED, slot="A", good="Ax")


def test_begin_from_rescue() -> None:
    assert boot.begin(CONFIRMED, "A", "R") == replace(CONFIRMED, good="xB")
    both = boot.begin(boot.begin(CONFIRMED, "A", "R"), "B", "R")
    assert (both.slot, both.good) == ("A", "xx")
    assert boot.arm(both, "B").trial == "B"


def test_reject_and_retry() -> None:
    assert replace(BEGUN, ustate=Ustate.FAILED, failed="B", seen="A") == FELL_BACK
    assert boot.acknowledge(FELL_BACK) == replace(FELL_BACK, ustate=Ustate.OK)
    assert boot.arm(FELL_BACK, "B").failed == "x"


def test_rollback_keeps_both_good() -> None:
    back = boot.rollback(CONFIRMED, "B")
    assert back == replace(CONFIRMED, trial="A", ustate=Ustate.INSTALLED, countdown=TRIES)
    assert boot.confirm(back, "A", TRIES, LIMIT) == replace(CONFIRMED, slot="A")
    assert boot.reject(back).good == "xB"


def test_healthy_refills() -> None:
    worn = replace(FELL_BACK, countdown=1)
    assert boot.healthy(worn, "A", 4, 5) == replace(
        FELL_BACK, countdown=5, tries=4, limit=5, seen="x"
    )


def test_retry_from_rescue_takes_what_is_good() -> None:
    dead = replace(CONFIRMED, countdown=0, failed="A")
    again = replace(CONFIRMED, ustate=Ustate.FAILED)
    assert boot.retry(dead) == again
    assert boot.retry(replace(dead, good="Ax")) == replace(again, good="Ax", slot="A")


def test_rebuild() -> None:
    assert boot.rebuild("B", "AB", TRIES, LIMIT) == replace(CONFIRMED, ustate=Ustate.FAILED)
    assert boot.rebuild("B", "A", TRIES, LIMIT).slot == "A"


@pytest.mark.parametrize(
    "transition",
    [
        lambda: boot.begin(NEW, "A", "A"),
        lambda: boot.begin(ARMED, "A", "B"),  # from inside a running trial
        lambda: boot.begin(boot.rollback(CONFIRMED, "B"), "B", "A"),  # the same, A is good
        lambda: boot.begin(FELL_BACK, "A", "B"),  # the booted slot is not good
        lambda: boot.arm(ARMED, "B"),
        lambda: boot.arm(NEW, "A"),
        lambda: boot.arm(CONFIRMED, "A"),
        lambda: boot.confirm(NEW, "A", TRIES, LIMIT),
        lambda: boot.confirm(ARMED, "A", TRIES, LIMIT),
        lambda: boot.confirm(FELL_BACK, "B", TRIES, LIMIT),
        lambda: boot.reject(NEW),
        lambda: boot.reject(FELL_BACK),
        lambda: boot.rollback(NEW, "A"),
        lambda: boot.rollback(ARMED, "A"),
        lambda: boot.rollback(CONFIRMED, "A"),
        lambda: boot.rollback(CONFIRMED, "R"),
        lambda: boot.healthy(ARMED, "A", TRIES, LIMIT),
        lambda: boot.healthy(NEW, "B", TRIES, LIMIT),
        lambda: boot.acknowledge(NEW),
        lambda: boot.retry(replace(NEW, good="xx")),
        lambda: boot.rebuild("A", "", TRIES, LIMIT),
    ],
)
def test_refused(transition: Callable[[], BootState]) -> None:
    with pytest.raises(RefusedError) as refusal:
        transition()
    assert refusal.value.exit_code == ExitCode.REFUSED
    assert refusal.value.message.endswith(".")


@pytest.mark.parametrize("before", list(Ustate))
def test_backup_never_holds_a_trial(before: Ustate) -> None:
    kept = backup_of(ARMED, before)
    assert (kept.trial, kept.countdown) == ("x", LIMIT)
    assert kept.ustate == (Ustate.FAILED if before == Ustate.FAILED else Ustate.OK)
    assert backup_of(FELL_BACK, before) == FELL_BACK


class Device(RuleBasedStateMachine):
    """A device whose power may go after every write, and the promises that must hold.

    `whole` are the slots that hold a complete system, `confirmed` those that
    were good once and were not written since.
    """

    @initialize()
    def provisioned(self) -> None:
        self.primary = self.backup = boot.provision(TRIES, LIMIT)
        self.whole, self.confirmed = {"A"}, {"A"}
        self.booted = "A"

    def _write(self, state: BootState, cut: bool, backup_first: bool = False) -> None:
        settled = next(
            (s.ustate for s in (self.primary, self.backup) if s.ustate != Ustate.INSTALLED),
            Ustate.OK,
        )
        backup = backup_of(state, settled)
        if backup_first:
            self.backup = backup
            if not cut:
                self.primary = state
        else:
            self.primary = state
            if not cut:
                self.backup = backup

    def _attempt(self, transition: Callable[[], BootState], cut: bool) -> bool:
        try:
            state = transition()
        except RefusedError:
            return False
        self._write(state, cut)
        return True

    @rule(cut=st.sampled_from(["begin", "write", "arm", "no"]))
    def install(self, cut: str) -> None:
        target = boot.other_of(self.booted) if self.booted != "R" else "A"
        try:
            begun = boot.begin(self.primary, target, self.booted)
        except RefusedError:
            return
        self._write(begun, cut == "begin", backup_first=True)
        if cut != "begin":
            self.whole.discard(target)
            self.confirmed.discard(target)
        if cut in ("arm", "no"):
            self.whole.add(target)
            self._attempt(lambda: boot.arm(self.primary, target), cut == "arm")
        if cut != "no":
            self.start(set("ABR"), True, False)

    @rule(cut=st.booleans())
    def judge_well(self, cut: bool) -> None:
        running = self.booted
        if self._attempt(lambda: boot.confirm(self.primary, running, TRIES, LIMIT), cut):
            self.confirmed.add(running)
        else:
            self._attempt(lambda: boot.healthy(self.primary, running, TRIES, LIMIT), cut)

    @rule(cut=st.booleans())
    def reject(self, cut: bool) -> None:
        self._attempt(lambda: boot.reject(self.primary), cut)

    @rule(cut=st.booleans())
    def rollback(self, cut: bool) -> None:
        self._attempt(lambda: boot.rollback(self.primary, self.booted), cut)

    @rule(cut=st.booleans())
    def acknowledge(self, cut: bool) -> None:
        self._attempt(lambda: boot.acknowledge(self.primary), cut)

    @precondition(lambda self: self.booted == "R")
    @rule(cut=st.booleans())
    def retry(self, cut: bool) -> None:
        self._attempt(lambda: boot.retry(self.primary), cut)

    @rule()
    def ask_for_rescue(self) -> None:
        self._attempt(lambda: boot.rescue_once(self.primary), False)

    @rule(sound=st.sets(st.sampled_from("AB")), saves=st.booleans(), primary_is_lost=st.booleans())
    def start(self, sound: set[str], saves: bool, primary_is_lost: bool) -> None:
        """Power on. What loads does not hang on the label here: the state alone must do."""
        loads = {"R"} | sound
        before = self.backup if primary_is_lost else self.primary
        found = grub(None if primary_is_lost else self.primary, self.backup, loads, saves=saves)
        assert found.boots is not None and found.state is not None
        if found.boots in "AB":
            on_trial = found.how == "trial"
            assert found.boots in self.confirmed or on_trial, "an unconfirmed slot booted"
            assert found.boots in self.whole, "a half-written slot booted"
            if on_trial:
                assert not primary_is_lost and saves
                assert found.state.countdown == before.countdown - 1
        elif found.how == "rescue" and before.once != "R" and saves:
            usable = {s for s in self.confirmed & loads if s in before.good}
            assert not usable or before.failed in usable or self._exhausted(before), "needless"
        if primary_is_lost:
            self.primary = self.backup = found.state  # userland restores the other copy
        else:
            self.primary = found.state
        self.booted = found.boots

    def _exhausted(self, state: BootState) -> bool:
        return state.limit != 0 and state.countdown == 0

    @invariant()
    def what_is_good_was_confirmed(self) -> None:
        for copy in (self.primary, self.backup):
            assert set(copy.good) - {"x"} <= self.confirmed

    @invariant()
    def backup_holds_no_trial(self) -> None:
        assert self.backup.on_trial is None


Device.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDevice = Device.TestCase


def test_trial_never_exceeds_its_tries() -> None:
    for tries in range(1, 10):
        state = boot.arm(boot.begin(boot.provision(tries, 0), "B", "A"), "B")
        boots = []
        for _ in range(tries + 3):
            found = grub(state, None, "ABR")
            assert found.boots and found.state
            boots.append(found.boots)
            state = found.state
        assert boots == ["B"] * tries + ["A"] * 3


def test_limit_of_zero_never_gives_up() -> None:
    state = boot.provision(3, 0)
    for _ in range(20):
        found = grub(state, None, "ABR")
        assert (found.boots, found.state) == ("A", replace(state, seen="A"))
