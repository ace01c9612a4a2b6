"""What is to be mended, in the order in which one thing needs the other.

The partition table, by which everything is found; the ESP, from which the machine starts; data,
which has records and store; the store, with which slots are compared; labels; and at last the
boot state, which follows from labels and records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from abupdate.doctor import (
    mend_data,
    mend_esp,
    mend_gpt,
    mend_labels,
    mend_rules,
    mend_state,
    mend_store,
)
from abupdate.doctor.findings import Finding
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair, Wishes

Stage = Callable[[Look, Wishes, frozenset[str]], Plan]

STAGES: tuple[Stage, ...] = (
    lambda now, wishes, _: mend_gpt.plan(now, wishes),
    lambda now, wishes, _: mend_esp.plan(now, wishes),
    lambda now, _, __: mend_rules.plan(now),
    lambda now, _, tried: mend_data.plan(now, tried),
    lambda now, wishes, _: mend_store.plan(now, wishes),
    lambda now, wishes, _: mend_labels.plan(now, wishes),
    lambda now, wishes, _: mend_state.plan(now, wishes),
)


def planned(now: Look, wishes: Wishes, tried: frozenset[str] = frozenset()) -> Plan:
    """All that would be done or refused as things are now."""
    return [one for stage in STAGES for one in stage(now, wishes, tried)]


def settled(findings: list[Finding], plan: Plan) -> list[Finding]:
    """The findings with what `--repair` can do about each."""
    return [_settled(one, plan) for one in findings]


def _settled(found: Finding, plan: Plan) -> Finding:
    answers = [one for one in plan if found.id in one.answers]
    repairs = [one for one in answers if isinstance(one, Repair)]
    if any(one.risk is None for one in repairs):
        return found
    if repairs:
        one = repairs[0]
        advice = f"{one.says} {one.risk} For that: abupdate doctor --repair --also {one.id}"
        return replace(found, repairable=False, advice=advice)
    refusals = [one for one in answers if isinstance(one, Refusal)]
    advice = refusals[0].why if refusals else found.advice
    return replace(found, repairable=False, advice=advice)
