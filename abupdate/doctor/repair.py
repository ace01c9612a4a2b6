"""`abupdate doctor --repair`: one repair after the other, each said before it is done.

It holds the lock of every other job. After each repair everything is looked at anew: the next
one may need what it did. A repair that fails stops no other one. Repairs by which something
may be lost are done only where they were asked for by their id.
"""

from __future__ import annotations

from collections.abc import Callable

from abupdate.disk.gptcopies import table_kept
from abupdate.doctor.examine import Report, Told, told
from abupdate.doctor.look import Look, look
from abupdate.doctor.plan import STAGES, Stage, planned, settled
from abupdate.doctor.repairs import Repair, Wishes
from abupdate.errors import (
    AbupdateError,
    InterruptedByUserError,
    TerminatedError,
)
from abupdate.update.job import job
from abupdate.update.records import HistoryEntry, now
from abupdate.update.slots import Machine, attempt_note, require_root

# Told before a repair is done, and after it with its outcome.
Tell = Callable[[Told], None]


def repair(machine: Machine, wishes: Wishes | None = None, tell: Tell = lambda _: None) -> Report:
    """Mend what is safe to mend or was asked for, and look again.

    Raises `BusyError` while another job runs.
    """
    require_root()
    with job(machine.paths.runtime, "doctor"):
        work = _Work(machine, wishes or Wishes(), tell)
        with table_kept(work.now.disk.device):
            for stage in STAGES:
                work.run(stage)
        return work.report()


class _Work:
    def __init__(self, machine: Machine, wishes: Wishes, tell: Tell) -> None:
        self._machine, self._wishes, self._tell = machine, wishes, tell
        self._told: dict[str, Told] = {}
        self.now: Look = look(machine, working=False)

    def run(self, stage: Stage) -> None:
        """What this stage has to do, until nothing is left that was not tried."""
        while (one := self._next(stage)) is not None:
            if one.risk is not None and one.id not in self._wishes.also:
                self._say(told(one, "asked", f"Not done: {one.risk}"))
                continue
            self._tell(told(one, "begun"))
            self._say(self._done(one))
            self.now = look(self._machine, working=False)

    def _next(self, stage: Stage) -> Repair | None:
        plan = stage(self.now, self._wishes, frozenset(self._told))
        left = (one for one in plan if isinstance(one, Repair) and one.id not in self._told)
        return next(left, None)

    def _done(self, one: Repair) -> Told:
        try:
            return told(one, "done", one.act())
        except (InterruptedByUserError, TerminatedError):
            raise
        except (AbupdateError, OSError) as error:
            return told(one, "failed", str(error))

    def _say(self, one: Told) -> None:
        self._told[one.id] = one
        self._tell(one)

    def report(self) -> Report:
        """The findings that are left, and what was done."""
        repairs = list(self._told.values())
        self._note(repairs)
        plan = planned(self.now, self._wishes, frozenset(self._told))
        return Report(
            settled(self.now.findings, plan),
            [one.result for one in repairs if one.outcome == "done"],
            [one.result for one in repairs if one.outcome == "failed"],
            repairs,
        )

    def _note(self, repairs: list[Told]) -> None:
        """A line of history for each that was done, where data is there to take it."""
        if not (self._machine.paths.state / "slots").is_dir():
            return
        for one in repairs:
            if one.outcome == "done":
                detail = {"repair": one.id, "why": one.says, "result": one.result}
                entry = HistoryEntry("repaired", now(), detail=detail)
                attempt_note(
                    lambda entry=entry: self._machine.records.append(entry),  # type: ignore[misc]
                    self._wishes.events.warning,
                    "history",
                )
