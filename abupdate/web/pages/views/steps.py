"""A job's events as steps, with what is still to come and what was told on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from abupdate.engine.contract import Job, JobEvent
from abupdate.web.pages.views.words import duration, size

_MAX_LINES = 200
# What a job of a kind does, in its order; some steps are left out where nothing is to be done.
_INSTALL = (
    ("open", "Read its beginning"),
    ("trust", "Check its signature"),
    ("receive", "Receive the release"),
    ("store", "Take the release into the store"),
    ("plan", "Find what differs"),
    ("begin", "Take the other slot out of use"),
    ("write", "Write the release"),
    ("verify", "Read it back from the disk"),
    ("etc", "Carry /etc changes over"),
    ("mark", "Mark the slot complete"),
    ("arm", "Arm the slot"),
)
_AHEAD: dict[str, tuple[tuple[str, str], ...]] = {
    "inspect": _INSTALL[:3],
    "install": _INSTALL,
}


def step_text(name: str) -> str:
    """A step's words, by its name."""
    return dict(_INSTALL).get(name, name)


@dataclass
class Step:
    """One step. `state`: ahead, running, done or failed. `progress`: the last event of it."""

    name: str
    text: str
    state: str
    seconds: float | None = None
    progress: dict[str, Any] | None = None

    @property
    def percent(self) -> float | None:
        """How far it is; None where that is not known."""
        told = self.progress
        if not told or not told.get("total"):
            return None
        return float(round(min(100.0, 100.0 * told.get("done", 0) / told["total"]), 1))

    @property
    def figures(self) -> str:
        """The last progress in words."""
        told = self.progress
        if not told or told.get("done") is None:
            return ""
        in_bytes = told.get("unit") == "bytes"

        def amount(number: float) -> str:
            return size(number) if in_bytes else f"{number:,.0f}"

        text = amount(told["done"])
        if told.get("total"):
            text += f" of {amount(told['total'])}"
        if not in_bytes:
            text += f" {told.get('unit') or ''}".rstrip()
        if told.get("files_total"):
            text += f", {told.get('files') or 0:,} of {told['files_total']:,} files"
        if told.get("rate"):
            text += f", {amount(told['rate'])}/s"
        if told.get("left"):
            text += f", {duration(told['left'])} left"
        return text


@dataclass
class Folded:
    """The events of one job, folded as they come. `n`: of the last one that is in it."""

    n: int = 0
    steps: list[Step] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, one: JobEvent) -> None:
        """Take the next event in."""
        self.n = one.n
        event = one.event
        kind, name = event.get("kind"), str(event.get("step", ""))
        if kind == "step-begin":
            self.steps.append(Step(name, str(event.get("text") or name), "running"))
            return
        step = next((s for s in reversed(self.steps) if s.name == name), None)
        if kind == "progress":
            if step is not None and step.state == "running":
                step.progress = event
        elif kind in ("step-end", "step-failed"):
            if step is not None:
                step.state = "done" if kind == "step-end" else "failed"
                step.seconds = event.get("seconds")
        elif kind in ("note", "warning"):
            self.lines = [*self.lines, event][-_MAX_LINES:]

    def shown(self, job: Job) -> list[Step]:
        """The steps so far; while the job runs, those that are to come too."""
        steps = list(self.steps)
        if job.state != "running":
            for step in steps:
                if step.state == "running":  # it ended without a word
                    step.state = "failed"
            return steps
        expected = list(_AHEAD.get(job.kind, ()))
        names = [name for name, _ in expected]
        seen = [names.index(step.name) for step in steps if step.name in names]
        after = max(seen) + 1 if seen else 0
        if job.kind == "install" and job.wish.get("release"):
            after = max(after, names.index("plan"))
        if job.kind == "install" and job.wish.get("arm") is False:
            expected.pop()
        return steps + [Step(name, text, "ahead") for name, text in expected[after:]]


def overall(steps: list[Step]) -> float:
    """How far a job is, in percent: whole steps, and the part of the one that runs.

    Writing and reading back take nearly all the time, so they count more.
    """
    weight = {"write": 12.0, "verify": 8.0, "receive": 6.0, "store": 3.0}
    total = sum(weight.get(step.name, 1.0) for step in steps) or 1.0
    done = sum(
        weight.get(step.name, 1.0)
        * (1.0 if step.state == "done" else (step.percent or 0.0) / 100.0)
        for step in steps
    )
    return float(round(100.0 * done / total, 1))
