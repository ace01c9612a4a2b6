"""The model finds nothing but what is known, and finds each way to break the rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abupdate.boot.state import backup_of, provision
from tests.model.explore import Result, canonical, explore
from tests.model.mutations import MUTATIONS, Mutation, applied
from tests.model.plans import DOCUMENTED, KNOWN, QUICK
from tests.model.report import summary, trace_text
from tests.model.world import Plan, Setting, States, first_world


def told(result: Result) -> str:
    """Figures and counterexamples; pytest shows them where a test fails, `-s` always."""
    traces = [trace_text(found, result.states) for found in result.counterexamples.values()]
    text = "\n\n".join([summary(result), *traces])
    print(text)
    return text


@pytest.mark.row("S43", "U2")
def test_quick_runs_find_what_is_known() -> None:
    """And all of it: a hole that was repaired has to leave the list."""
    found: set[str] = set()
    for setting in QUICK:
        result = explore(setting)
        text = told(result)
        assert result.counterexamples.keys() <= KNOWN.keys(), text
        found |= result.counterexamples.keys()
    assert found == KNOWN.keys()


def test_two_faults_find_what_is_known() -> None:
    """Two faults with one install; more is `make test-model`."""
    result = explore(Setting(faults=2, installs=1, tears=0, reports=False))
    text = told(result)
    assert not result.counterexamples, text


def test_limit_0_adds_the_documented_exception_only() -> None:
    result = explore(Setting(limit=0, faults=1, installs=1, tears=0, reports=False))
    assert result.counterexamples.keys() == DOCUMENTED.keys(), told(result)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_broken_rules_are_seen(mutation: Mutation) -> None:
    with applied(mutation):
        result = explore(mutation.setting, ignore=KNOWN)
    new = result.counterexamples.keys() - KNOWN.keys()
    text = told(result)
    assert new & mutation.breaks, text


def test_what_is_not_kept_apart_makes_no_difference() -> None:
    """Numbers of releases, and a backup that no fault is left to bring up."""
    setting = Setting(faults=0)
    states = States()
    first = first_world(states, provision(2, 2), setting)
    again = first.change(
        a=first.a._replace(release=3),
        record_a=first.record_a and first.record_a._replace(release=3),
        intent=Plan("B", 1, False, None),
    )
    same = first.change(intent=Plan("B", 1, False, None))
    assert canonical(again, states, True) == canonical(same, states, True)
    other = replace(provision(2, 2), good="AB", slot="B")
    stale = first.change(backup=states.number(backup_of(other, other.ustate)))
    assert canonical(stale, states, True) == canonical(first, states, True)
    kept = stale.change(faults=1), first.change(faults=1)
    assert canonical(kept[0], states, True) != canonical(kept[1], states, True)
