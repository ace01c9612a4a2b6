"""`abupdate doctor`: what is wrong with this device, and what `--repair` would do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from abupdate.doctor.findings import Finding, Severity
from abupdate.doctor.look import look
from abupdate.doctor.plan import planned, settled
from abupdate.doctor.repairs import Refusal, Repair, Wishes
from abupdate.update.job import running_job
from abupdate.update.slots import Machine, require_root

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Told:
    """A repair: `answers` findings by their ids, `says` what it does and why, before it does.

    `risk`: what may be lost by it; it is then done only where it is asked for by its id.
    `outcome`: done, failed, asked (nobody asked for it), or planned (`--dry-run`); `result`
    tells more.
    """

    id: str
    answers: tuple[str, ...]
    says: str
    risk: str | None
    outcome: str
    result: str


@dataclass(frozen=True)
class Report:
    """What was found (after mending, with `repair`), what was mended, what could not be."""

    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
    findings: list[Finding]
    repaired: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    repairs: list[Told] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """No error is left, and nothing that was tried failed."""
        return not self.failed and all(f.severity != Severity.ERROR for f in self.findings)


def told(one: Repair, outcome: str, result: str = "") -> Told:
    """A repair for the report."""
    return Told(one.id, one.answers, one.says, one.risk, outcome, result)


def examine(machine: Machine, wishes: Wishes | None = None) -> Report:
    """Look, and write nothing; `repairs` is what `--repair` would do.

    Raises `RefusedError` where abupdate is not at home, or not root.
    """
    require_root()
    wishes = wishes or Wishes()
    now = look(machine, working=running_job(machine.paths.runtime) is not None)
    plan = planned(now, wishes)
    repairs = [
        told(one, "planned" if one.risk is None or one.id in wishes.also else "asked")
        for one in plan
        if not isinstance(one, Refusal)
    ]
    return Report(settled(now.findings, plan), repairs=repairs)
