"""GRUB's rules on the boot partition follow those of confirmed releases.

A healthy boot of a confirmed slot, and nothing else, decides it: newer rules go
into the file that GRUB does not use, and GRUB is asked to try them once. The
next healthy boot that they started keeps them; a boot by the old ones says that
they failed. The old rules stay beside them.

Each write may be the last one. What was tried is known by which rules started
the system, and `rules.json` only tells why: without it, rules are tried once more.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from abupdate.boot import rules
from abupdate.boot.rules import Choice, Fit, Rules
from abupdate.boot.rulesfiles import RulesReading
from abupdate.boot.state import NONE
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.update import rules_record, seen
from abupdate.update.records import HistoryEntry, now
from abupdate.update.release_rules import own_rules
from abupdate.update.rules_record import FailedRules, OfferedRules, RulesRecord
from abupdate.update.settle import note
from abupdate.update.slots import Booted, Machine, attempt_note

HUNG = "no system that they started came up"
INTERRUPTED = "twice, a system that they started came up and did not become healthy"


class Outcome(StrEnum):
    """What became of rules that GRUB was asked to try."""

    WAITING = "waiting"  # the next boot tries them
    WORKED = "worked"  # they started this boot, and are to be used from now on
    KEPT = "kept"  # they are used; it may not be told yet
    INTERRUPTED = "interrupted"  # they started a system, which did not get to its health check
    FAILED = "failed"
    GONE = "gone"  # other rules are in their place


def outcome(
    reading: RulesReading, runs: str | None, offered: OfferedRules | None
) -> Outcome | None:
    """What became of the rules that were offered last, None where there is nothing to say.

    `runs`: what started this boot, which is healthy.
    """
    choice = reading.choice
    if choice is None or runs is None:
        return None
    used, other = reading.whole(choice.use), reading.whole(rules.other_name(choice.use))
    if runs != choice.use:
        # GRUB leaves what it uses, when that is whole, only to try the other.
        tried = used is not None and other is not None and choice.tried == NONE
        return Outcome.WORKED if tried else None
    if offered is None or (used is not None and used.digest == offered.digest):
        return None if offered is None else Outcome.KEPT
    if other is None or other.digest != offered.digest:
        return Outcome.GONE
    if choice.tried != NONE:
        return Outcome.WAITING
    return Outcome.INTERRUPTED if offered.came_up and not offered.again else Outcome.FAILED


def wanted(reading: RulesReading, own: Rules | None, record: RulesRecord) -> Fit | None:
    """How the release's rules stand to those in use, None where they cannot take their place.

    GRUB must go by the choice, or what it tries might be what it uses.
    """
    choice = reading.choice
    used = reading.whole(choice.use) if choice is not None else None
    if own is None or used is None or record.failure(own.digest) is not None:
        return None
    return rules.fit(own, used)


def follow(machine: Machine, booted: Booted, events: Events, *, offers: bool = True) -> str | None:
    """In a healthy boot of a confirmed slot: judge what was tried, and offer what is newer.

    The caller holds the job's lock, and nothing is on trial. What it came to, in words; what
    cannot be written is told, and tried again after the next boot. `offers`: nothing is armed.
    """
    try:
        reading = machine.rules().read()
        told = _settle(machine, booted, reading, events)
        if told is None and offers and booted.arguments.how == "normal":
            told = _follow_release(machine, booted, events)
    except (DeviceFaultError, RefusedError, OSError) as error:
        events.warning(f"GRUB's rules: {error}")
        return None
    return told


def came_up(machine: Machine) -> None:
    """Early in a boot: note that rules which are being tried have started it."""
    record = rules_record.read(machine.paths.state)
    offered = record.offered
    if offered is None or offered.came_up or machine.arguments().rules != offered.name:
        return
    choice = machine.rules().read().choice
    if choice == Choice(rules.other_name(offered.name)):
        noted = replace(record, offered=replace(offered, came_up=True))
        rules_record.write(machine.paths.state, noted)


def offer(machine: Machine, new: Rules, events: Events, *, again: bool = False) -> None:
    """Put rules into the file that GRUB does not use, and have them tried once.

    Each line may be the last: until the choice is written, GRUB does not look at them. "Once"
    is GRUB's to save: rules of a release are offered only where its mark shows that it can.
    """
    files = machine.rules()
    reading = files.read()
    choice = reading.choice
    if choice is None or reading.whole(choice.use) is None:
        raise RefusedError(
            "Rules that are whole should be in use before others are tried.",
            "`abupdate doctor --repair` mends them.",
        )
    name = rules.other_name(choice.use)
    if reading.whole(name) != new:
        if choice.tried != NONE:  # what is tried may not change under GRUB
            files.choose(Choice(choice.use))
        files.write(name, new)
    files.choose(Choice(choice.use, name))
    offered = OfferedRules(name, new.digest, new.number, now(), again=again)
    record = rules_record.read(machine.paths.state)
    # Without it they are tried once more, should they fail.
    attempt_note(
        lambda: rules_record.write(machine.paths.state, replace(record, offered=offered)),
        events.warning,
        "record of the rules",
    )
    failpoint("rules-offered")


def _settle(machine: Machine, booted: Booted, reading: RulesReading, events: Events) -> str | None:
    """Act on what became of the last offer; None when nothing stands in the way of another."""
    record = rules_record.read(machine.paths.state)
    offered = record.offered
    runs = booted.arguments.rules
    match outcome(reading, runs, offered):
        case Outcome.WORKED:
            assert runs is not None
            machine.rules().choose(Choice(runs))
            _tell_kept(machine, record, reading, runs, events)
            return "GRUB's new rules are kept."
        case Outcome.KEPT:
            assert runs is not None
            _tell_kept(machine, record, reading, runs, events)
        case Outcome.GONE:
            _write(machine, replace(record, offered=None), events)
        case Outcome.INTERRUPTED:
            tried = reading.whole(offered.name) if offered is not None else None
            if tried is not None and seen.recall(machine.paths.runtime) == booted.slot:
                offer(machine, tried, events, again=True)
                return "GRUB's new rules were interrupted; the next boot tries them again."
        case Outcome.FAILED:
            assert offered is not None
            cause = INTERRUPTED if offered.came_up else HUNG
            return _tell_failed(machine, record, offered, cause, events)
    return None


def _follow_release(machine: Machine, booted: Booted, events: Events) -> str | None:
    reading, record = machine.rules().read(), rules_record.read(machine.paths.state)
    choice, own = reading.choice, own_rules(machine.paths)
    if choice is None or own is None or booted.arguments.rules != choice.use:
        return None
    if seen.recall(machine.paths.runtime) != booted.slot:
        return None  # see `offer`
    if wanted(reading, own, record) != Fit.NEWER:
        return None
    other = reading.whole(rules.other_name(choice.use))
    if choice.tried != NONE and other == own:
        return None  # the next boot tries them
    offer(machine, own, events)
    return f"GRUB tries its new rules ({own.number}) at the next boot."


def _tell_kept(
    machine: Machine, record: RulesRecord, reading: RulesReading, name: str, events: Events
) -> None:
    kept = reading.whole(name)
    if kept is not None:
        offered = record.offered.time if record.offered is not None else None
        detail = {"number": kept.number, "digest": kept.digest, "offered": offered}
        _tell_once(machine, HistoryEntry("rules-kept", now(), detail=detail), events)
    # What was kept has worked, whatever was said of it before.
    failed = tuple(one for one in record.failed if kept is None or one.digest != kept.digest)
    _write(machine, RulesRecord(None, failed), events)


def _tell_failed(
    machine: Machine, record: RulesRecord, offered: OfferedRules, cause: str, events: Events
) -> str:
    detail = {
        "number": offered.number, "digest": offered.digest, "offered": offered.time, "cause": cause,
    }  # fmt: skip
    _tell_once(machine, HistoryEntry("rules-failed", now(), detail=detail), events)
    failed = FailedRules(offered.digest, offered.number, now(), cause)
    others = tuple(one for one in record.failed if one.digest != offered.digest)
    _write(machine, RulesRecord(None, (*others, failed)), events)
    text = f"GRUB's new rules ({offered.number}) failed, and the old ones stay: {cause}."
    events.warning(text)
    return text


def _tell_once(machine: Machine, entry: HistoryEntry, events: Events) -> None:
    """A cut may come between the line and the record that would say that it was written."""
    for line in reversed(machine.records.history()):
        if line.event == entry.event and all(
            line.detail.get(name) == entry.detail[name] for name in ("digest", "offered")
        ):
            return
    note(machine, events, entry)
    failpoint("rules-told")


def _write(machine: Machine, record: RulesRecord, events: Events) -> None:
    attempt_note(
        lambda: rules_record.write(machine.paths.state, record),
        events.warning,
        "record of the rules",
    )
