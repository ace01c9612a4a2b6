"""Mends GRUB's rules on the boot partition.

Rules that are whole are never written over, so that mending can take nothing
away; what takes the place of rules that work goes through a try, as ever.
"""

from __future__ import annotations

from abupdate.boot.rules import Choice, Fit
from abupdate.doctor.diagnose_rules import mendings
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Repair
from abupdate.events import Events
from abupdate.update import rules_record
from abupdate.update.release_rules import own_rules
from abupdate.update.rules import offer, wanted
from abupdate.update.slots import Machine

_ANSWERS = ("rules-damaged", "rules-choice-lost", "rules-differ")


def plan(now: Look) -> Plan:
    """One repair for all of them."""
    found = [one for one in now.found(*_ANSWERS) if one.repairable]
    if now.obstacle or not found:
        return []
    return [
        Repair(
            "grub-rules",
            tuple(one.id for one in found),
            f"Write GRUB's rules beside those that are whole, and which GRUB runs, because: "
            f"{found[0].message}",
            lambda: mend_rules(now.machine, trusted=now.trusted, confirmed=now.confirmed),
        )
    ]


def mend_rules(machine: Machine, *, trusted: bool, confirmed: bool) -> str:
    """Both files whole, a choice, and what differs offered to GRUB; what was done, in words.

    `trusted`, `confirmed`: as of `diagnose_rules.rules_findings`.
    """
    files, own = machine.rules(), own_rules(machine.paths)
    told = []
    for one in mendings(files.read(), own if trusted else None):
        if one.sums_only:
            files.write_sums(one.name, one.new)
        else:
            files.write(one.name, one.new)
        told.append(f"GRUB's rules {one.name} were written again (number {one.new.number}).")
    reading = files.read()
    if reading.choice is None and reading.first is not None:
        runs = machine.arguments().rules
        use = runs if runs is not None and reading.whole(runs) is not None else reading.first
        files.choose(Choice(use))
        told.append(f"GRUB runs rules {use}.")
    record = rules_record.read(machine.paths.state)
    differ = wanted(files.read(), own, record) in (Fit.DIFFERENT, Fit.FORGETFUL)
    if confirmed and own is not None and differ:
        offer(machine, own, Events())
        told.append(f"GRUB tries the rules of the release ({own.number}) at the next boot.")
    return " ".join(told) or "GRUB's rules are whole again."
