"""What the units of a boot do: note that it began, judge it, and act on the verdict.

On trial a boot ends in one of four ways: confirmed; failed, when a required check
did or `boot-complete.target` was not reached; unjudged, when its deadline passed;
or cut off, which only the next boot can tell. The first writes the boot state,
the others reboot: GRUB counts the boots, and the last one that fails gives the
release up itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from abupdate.boot import state as boot
from abupdate.boot.state import BootState, Ustate
from abupdate.config import Settings, load
from abupdate.errors import BusyError, UsageError
from abupdate.events import Events
from abupdate.health.watch import Watched
from abupdate.update import evidence, rules, seen, trials
from abupdate.update.health import health_check
from abupdate.update.job import job
from abupdate.update.judge import (
    Verdict,
    confirm_trial,
    give_up,
    note_trust,
    on_trial,
    write_judged,
)
from abupdate.update.records import LastBoot, SlotRecord, now
from abupdate.update.settle import rearm_interrupted, settle
from abupdate.update.slots import Booted, Machine, attempt_note, require_root
from abupdate.update.trials import Judged, TrialBoot, Trials

_FALLBACK, _TRIAL = "fallback", "trial"
_PATIENCE = 30.0  # seconds


@dataclass(frozen=True)
class _Trial:
    """The trial that runs: its record, and which of its boots this is."""

    record: SlotRecord | None
    booted: Booted
    state: BootState
    boot_id: str

    @property
    def attempt(self) -> int:
        return self.state.tries - self.state.countdown

    @property
    def is_last(self) -> bool:
        return self.state.countdown == 0


def boot_began(machine: Machine, events: Events) -> None:
    """As early as possible: note that a boot of a trial began; keep what is left of the last."""
    require_root()
    trial = _running_trial(machine)
    record = trial.record if trial else None
    commit = record.commit if record else None
    kept = Trials(machine.paths.state)
    attempt_note(lambda: _remember(machine), events.warning, "boot state of this start")
    if trial is not None and commit is not None:
        began = round(now() - evidence.uptime(), 3)
        found = TrialBoot(trial.boot_id, trial.attempt, began)
        attempt_note(lambda: kept.started(commit, found), events.warning, "record of this boot")
    attempt_note(lambda: _keep_crash(machine, commit), events.warning, "crash text")
    attempt_note(lambda: rules.came_up(machine), events.warning, "rules of this boot")


def _remember(machine: Machine) -> None:
    seen.remember_start(machine.paths.runtime, machine.boot_state())


def _keep_crash(machine: Machine, commit: str | None) -> None:
    """Add what the kernel kept of a crash to the boot of the trial that it ended.

    Told by what was there when the boot before this one began, never by a clock:
    early in a boot it may be years off.
    """
    before = machine.records.last_boot()
    dumps = evidence.crash_dumps(machine.paths.root)
    if before is not None and before.commit is not None:
        fresh = [dump for dump in dumps if dump.identity not in before.dumps]
        console = evidence.crash_text(fresh)
        if console:
            kept = Trials(machine.paths.state)
            kept.crashed(before.commit, before.boot_id, console)
    known = tuple(dump.identity for dump in dumps)
    machine.records.write_last_boot(LastBoot(evidence.boot_id(), commit, known))


def check_boot(machine: Machine, events: Events) -> Watched:
    """Run the checks of this boot until their verdict is sure; on a trial, keep what they found."""
    require_root()
    trial = _running_trial(machine)
    found = health_check(machine).verdict(on_trial=trial is not None)
    if trial is not None:
        passed = not found.failed
        _keep(
            machine,
            trial,
            Judged(
                trials.Verdict.PASSED if passed else trials.Verdict.FAILED,
                evidence.uptime(),
                trials.reasons(found.failed),
                tuple(found.results),
                () if passed else evidence.journal_tail(),
            ),
            events,
        )
    elif found.failed:
        # A fallback is told even where the slot that it fell back to is not healthy either.
        _settle_quietly(machine, events)
    return found


def boot_passed(machine: Machine, settings: Settings, events: Events) -> Verdict:
    """What a boot does whose checks passed: confirm a trial, or refill the countdown."""
    require_root()
    with job(machine.paths.runtime, "confirm"):
        booted, state = machine.booted(), machine.boot_state()
        if booted.slot is None:
            return Verdict("Rescue runs; nothing to confirm.")
        if on_trial(booted, state):
            if settings.confirm.mode == "manual":
                return Verdict("The checks passed; waiting for `abupdate confirm`.")
            return confirm_trial(machine, booted, state, settings, events)
        if state.ustate == Ustate.INSTALLED:
            return _trial_not_booted(machine, booted, state, events)
        if booted.slot != state.slot:
            return Verdict(f"Slot {booted.slot} was chosen in the menu; nothing changes.")
        return _healthy(machine, booted, state, settings, events)


def _healthy(
    machine: Machine, booted: Booted, state: BootState, settings: Settings, events: Events
) -> Verdict:
    """Refill the countdown; then look after the last install, now that this slot is sound."""
    assert booted.slot is not None
    healthy = boot.healthy(state, booted.slot, settings.boot.tries, settings.boot.limit)
    write_judged(machine, state, healthy, "It is noted as healthy", events)
    settle(machine, healthy, events)
    note_trust(machine, events)
    again = rearm_interrupted(machine, healthy, booted, events)
    told = rules.follow(machine, booted, events, offers=again is None)
    text = f"Slot {booted.slot} is healthy."
    if again is not None:
        text += (
            f" The trial of release {again.release} was interrupted; it is armed once more, from "
            "the next boot."
        )
    return Verdict(f"{text} {told}" if told else text)


def boot_failed(machine: Machine, events: Events) -> Verdict:
    """What a boot on trial does that did not reach `boot-complete.target`: reboot."""
    require_root()
    trial = _running_trial(machine)
    if trial is None:
        return _not_on_trial(machine)
    told = _judged_already(machine, trial)
    if told is not None and told.verdict == trials.Verdict.FAILED:
        return _leave(machine, trial, None, told.reasons, events)
    # Our checks passed, or never ran: something else is required by boot-complete.target.
    units = "; ".join(evidence.failed_units()) or "no unit says why"
    why = f"boot-complete.target was not reached ({units})"
    return _leave(machine, trial, _judged(trials.Verdict.FAILED, told, why), (why,), events)


def deadline_passed(machine: Machine, events: Events) -> Verdict | None:
    """Once its deadline is over, leave a trial that nobody judged. None before that.

    A confirmed slot has no deadline.
    """
    require_root()
    trial = _running_trial(machine)
    if trial is None:
        return _not_on_trial(machine)
    try:
        settings = load(machine.paths).settings
    except UsageError as error:
        events.warning(str(error))
        settings = Settings()
    deadline = settings.confirm.deadline_seconds
    if evidence.uptime() < deadline:
        return None
    told = _judged_already(machine, trial)
    passed = told is not None and told.verdict == trials.Verdict.PASSED
    verdict = trials.Verdict.UNJUDGED
    if passed and settings.confirm.mode == "manual":
        why = f"nobody confirmed it in {deadline:g} seconds"
    elif passed and evidence.boot_is_complete():
        # That is the device's fault, not the release's.
        verdict = trials.Verdict.PASSED
        why = f"healthy, and its confirmation could not be written in {deadline:g} seconds"
    else:
        units = "; ".join(evidence.failed_units())
        why = f"no verdict in {deadline:g} seconds" + (f" ({units})" if units else "")
    return _leave(machine, trial, _judged(verdict, told, why), (why,), events)


def _judged(verdict: trials.Verdict, told: TrialBoot | None, why: str) -> Judged:
    checks = told.checks if told else ()
    return Judged(verdict, evidence.uptime(), (why,), checks, evidence.journal_tail())


def _leave(
    machine: Machine, trial: _Trial, judged: Judged | None, why: tuple[str, ...], events: Events
) -> Verdict:
    """Keep the verdict and reboot: the next try counts; after the last one it is given up here.

    Should that fail, GRUB gives it up: falling back needs nothing of a system that failed.
    """
    cause = why[-1] if why else "its checks failed"
    try:
        with _patient_job(machine, "reject"):
            # Gathering evidence took its time: somebody may have confirmed it meanwhile.
            current = _running_trial(machine)
            if current is None:
                return Verdict("It was judged meanwhile; nothing is on trial.")
            if judged is not None:
                _keep(machine, trial, judged, events)
            # What passed its checks is no failed release: GRUB falls back, and it is tried again.
            passed = judged is not None and judged.verdict == trials.Verdict.PASSED
            if current.is_last and not passed:
                text = give_up(
                    machine, current.booted, current.state, _FALLBACK, cause, events
                ).text
                return Verdict(text, reboot=True)
    except Exception as error:  # whatever it is: this boot has failed, and is left
        events.warning(f"GRUB will give it up: {error}")
    text = f"Slot {trial.booted.slot} failed boot {trial.attempt} of {trial.state.tries}: {cause}."
    events.warning(text)
    return Verdict(text, reboot=True)


@contextmanager
def _patient_job(machine: Machine, name: str) -> Iterator[None]:
    """The lock of all jobs; another one gets `_PATIENCE` seconds to end."""
    end = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(job(machine.paths.runtime, name))
                break
            except BusyError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)
        yield


def _running_trial(machine: Machine) -> _Trial | None:
    booted, state = machine.booted(), machine.boot_state()
    if booted.slot is None or not on_trial(booted, state):
        return None
    return _Trial(machine.records.slot(booted.slot), booted, state, evidence.boot_id())


def _not_on_trial(machine: Machine) -> Verdict:
    """A trial whose boot state was lost is left all the same: the backup never holds a trial."""
    booted, state = machine.booted(), machine.boot_state()
    known = "" if booted.slot is None else f"{state.good}{state.failed}"
    if booted.arguments.how != _TRIAL or booted.slot is None or booted.slot in known:
        return Verdict("Nothing is on trial.")
    text = f"Slot {booted.slot} was booted on trial, and its boot state is lost"
    return Verdict(f"{text}; slot {state.slot} boots next.", reboot=True)


def _judged_already(machine: Machine, trial: _Trial) -> TrialBoot | None:
    if trial.record is None:
        return None
    boots = Trials(machine.paths.state).boots(trial.record.commit)
    return next((boot for boot in boots if boot.boot_id == trial.boot_id), None)


def _keep(machine: Machine, trial: _Trial, judged: Judged, events: Events) -> None:
    record = trial.record
    if record is None:
        events.warning("No record tells what release this is; its verdict is not kept.")
        return
    attempt_note(
        lambda: Trials(machine.paths.state).judged(record.commit, trial.boot_id, judged),
        events.warning,
        "record of this boot",
    )


def _settle_quietly(machine: Machine, events: Events) -> None:
    def do() -> None:
        with job(machine.paths.runtime, "settle"):
            settle(machine, machine.boot_state(), events)

    attempt_note(do, events.warning, "what became of the last install")


def _trial_not_booted(
    machine: Machine, booted: Booted, state: BootState, events: Events
) -> Verdict:
    """A trial is armed, and another slot runs."""
    if seen.changed_since_start(machine.paths.runtime, state):
        return Verdict(f"Slot {state.trial} was armed in this boot; the next one tries it.")
    if booted.arguments.how == _FALLBACK:
        # GRUB gave the trial up and could not save that.
        return give_up(machine, booted, state, _FALLBACK, "GRUB could not save its state", events)
    return Verdict(f"Slot {state.trial} is armed; slot {booted.slot} was chosen in the menu.")
