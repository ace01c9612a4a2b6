"""What `doctor` sees of GRUB's rules on the boot partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from abupdate.boot import rules
from abupdate.boot.rules import NAMES, Fit, Rules
from abupdate.boot.rulesfiles import RulesReading
from abupdate.doctor.findings import Finding, finding
from abupdate.update import rules_record
from abupdate.update.release_rules import foreign_text, own_rules, source
from abupdate.update.rules import wanted
from abupdate.update.slots import Machine

_REPAIR = "abupdate doctor --repair "


@dataclass(frozen=True)
class Mending:
    """One write: rules `name` become `new`; with `sums_only`, they are that already."""

    name: str
    new: Rules
    sums_only: bool


def rules_findings(
    machine: Machine, obstacle: str | None, *, trusted: bool, confirmed: bool
) -> Iterator[Finding]:
    """The rules, their sums, and the choice. `obstacle`: why nothing may be written now.

    `trusted`: what runs may give its own rules where none are whole; `confirmed`: it is a slot
    whose rules GRUB may try.
    """
    reading, own = machine.rules().read(), own_rules(machine.paths)
    folder = machine.paths.esp / "grub"
    if own is None or not own.number or not own.readable:
        found = "none" if own is None else "one that does not say what it is"
        yield finding(
            "rules-unknown",
            f"The running release should bring {source(machine.paths)}, found {found}.",
            "Add the files of grub/ to the root filesystem of the next release.",
        )
    if reading.choice is None:
        yield finding(
            "rules-choice-lost",
            f"{folder / rules.CHOICE} should say which rules GRUB runs, and does not: it runs "
            f"rules {NAMES[0]}, or what is whole.",
            obstacle or f"{_REPAIR}writes it again.",
            repairable=obstacle is None and reading.first is not None,
        )
    planned = bool(mendings(reading, own if trusted else None))
    damaged = [rules.config_name(name) for name in NAMES if reading.whole(name) is None]
    if damaged:
        what = "; ".join(one for one in reading.problems if rules.CHOICE not in one)
        yield finding(
            "rules-damaged",
            f"{' and '.join(damaged)} in {folder} should be GRUB's rules and match their "
            f"checksums ({what}). GRUB runs "
            + (f"rules {reading.first}." if reading.first else "whatever it finds there."),
            obstacle
            or (
                f"{_REPAIR}puts whole ones there."
                if planned
                else "Ask again when the release that runs is confirmed."
            ),
            repairable=obstacle is None and planned,
        )
    yield from _against_the_release(machine, reading, own, obstacle, confirmed)


def _against_the_release(
    machine: Machine,
    reading: RulesReading,
    own: Rules | None,
    obstacle: str | None,
    confirmed: bool,
) -> Iterator[Finding]:
    choice = reading.choice
    used = reading.files[choice.use] if choice is not None else None
    if used is not None and used.whole and not used.rules.readable:
        yield finding(
            "rules-foreign",
            foreign_text(used.rules, own),
            "Install a release that fits them: abupdate install BUNDLE.",
        )
    record = rules_record.read(machine.paths.state)
    failed = record.failure(own.digest) if own is not None else None
    if failed is not None:
        yield finding(
            "rules-failed",
            f"GRUB should run the rules that the release brings ({failed.number}), and they "
            f"failed: {failed.cause}.",
            "The next release may bring others. To have these tried again by the next healthy "
            f"boot: rm {machine.paths.state}/rules.json.",
        )
    waits = choice is not None and own is not None and reading.whole(choice.tried_or_use) == own
    if not waits and wanted(reading, own, record) in (Fit.DIFFERENT, Fit.FORGETFUL):
        assert own is not None and used is not None
        yield finding(
            "rules-differ",
            f"GRUB's rules (number {used.rules.number}) should be those of the running release "
            f"(number {own.number}), found others, which a release never replaces by itself.",
            obstacle
            or (
                f"{_REPAIR}has GRUB try those of the release at the next boot."
                if confirmed
                else "Ask again when the release that runs is confirmed."
            ),
            repairable=obstacle is None and confirmed,
        )


def mendings(reading: RulesReading, own: Rules | None) -> list[Mending]:
    """What to write so that both are whole. `own`: the release's, where it is confirmed.

    First what GRUB would look at last.
    """
    use = reading.choice.use if reading.choice is not None else NAMES[0]
    whole = [found for name in NAMES if (found := reading.whole(name)) is not None]
    good = [*whole, *([own] if own is not None else [])]
    plan = []
    for name in (rules.other_name(use), use):
        if reading.whole(name) is not None or not good:
            continue
        there = reading.files[name]
        same = there is not None and there.rules in good
        plan.append(Mending(name, there.rules if there and same else good[0], same))
    return plan
