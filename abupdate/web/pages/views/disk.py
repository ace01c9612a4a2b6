"""The boot disk as a picture, and what each slot holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abupdate.engine.contract import PartitionView, Status
from abupdate.web.pages.views.situation import next_boot
from abupdate.web.pages.views.words import sentence

# Shares of the picture's width, in percent, that a partition has at least.
_LEAST = {"A": 14.0, "B": 14.0, "rescue": 15.0, "data": 14.0, "boot": 5.5, "bios": 2.0}
_GAP = 0.6
_LETTERS = 12


@dataclass(frozen=True)
class Part:
    """A partition in the picture. `x`, `width` and `fill` (what is used of it) in percent."""

    name: str
    role: str
    title: str
    holds: str
    x: float
    width: float
    fill: float | None
    size: int
    used: int | None
    booted: bool
    next: bool

    @property
    def long(self) -> bool:
        """What it holds does not fit where the drawing is 330 pixels wide."""
        return 7 * len(self.holds) + 4 > 3.3 * self.width


@dataclass(frozen=True)
class Place:
    """A slot with what it holds. `marks`: words beside its name; `note`: what to know of it."""

    name: str
    title: str
    release: str | None
    commit: str | None
    signer: str | None
    confirmed: float | None
    booted: bool
    next: bool
    tone: str
    marks: tuple[str, ...]
    note: str


def picture(status: Status) -> list[Part]:
    """The partitions from left to right. Small ones are drawn wider than they are."""
    shown = [part for part in status.partitions if part.size > 0]
    if not shown:
        return []
    # The square root keeps slots visible beside a data partition of a hundred times their size.
    roots = [part.size**0.5 for part in shown]
    least = [_LEAST.get(part.role, 4.0) for part in shown]
    space = 100.0 - _GAP * (len(shown) - 1)
    widths = _widths(roots, least, space)
    booted, after = _booted(status.report), next_boot(status.report)
    parts, x = [], 0.0
    for part, width in zip(shown, widths, strict=True):
        slot = "R" if part.role == "rescue" else part.role
        parts.append(
            Part(
                name=part.name, role=part.role, title=_title(part), x=round(x, 2),
                holds=_holds(part, status.report), width=round(width, 2), fill=_fill(part),
                size=part.size, used=part.used, booted=slot == booted, next=slot == after,
            )
        )  # fmt: skip
        x += width + _GAP
    return parts


def _widths(roots: list[float], least: list[float], space: float) -> list[float]:
    """Shares of `space` by size, none below its least."""
    fixed: set[int] = set()
    while True:
        left = space - sum(least[i] for i in fixed)
        total = sum(root for i, root in enumerate(roots) if i not in fixed) or 1.0
        widths = [least[i] if i in fixed else left * roots[i] / total for i in range(len(roots))]
        small = {i for i, width in enumerate(widths) if i not in fixed and width < least[i]}
        if not small:
            return widths
        fixed |= small


def _booted(report: dict[str, Any]) -> str:
    return str(report["booted"]["slot"])


def _title(part: PartitionView) -> str:
    return {"A": "A", "B": "B", "bios": "", "other": ""}.get(part.role, part.role)


def _holds(part: PartitionView, report: dict[str, Any]) -> str:
    if part.role in ("A", "B"):
        slot = report["slots"].get(part.role, {})
        return _short(str(slot.get("release") or slot.get("state", "")))
    if part.role == "rescue":
        return report["rescue_release"] or ("" if report["rescue"] == "ready" else "empty")
    return ""


def _short(text: str) -> str:
    """As much as fits into a slot where the drawing is 700 pixels wide."""
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _fill(part: PartitionView) -> float | None:
    if part.used is None:
        return None
    return round(min(100.0, max(0.0, 100.0 * part.used / part.size)), 1)


def places(report: dict[str, Any]) -> list[Place]:
    """The two slots, and rescue."""
    after = next_boot(report)
    found = [_place(name, slot, report, after) for name, slot in sorted(report["slots"].items())]
    return [*found, _rescue(report, after)]


def _place(name: str, slot: dict[str, Any], report: dict[str, Any], after: str) -> Place:
    boot = report["boot"] or {}
    on_trial = boot.get("ustate") == 1 and boot.get("trial") == name
    marks = []
    if slot["booted"]:
        marks.append("booted")
    if name == after:
        marks.append("boots next")
    tone, note = "plain", ""
    if slot["state"] != "complete":
        tone = "bad" if slot["state"] == "missing" else "wait"
        note = {
            "unfinished": "Half written: it never boots.",
            "empty": "Nothing is in it yet.",
            "missing": "The partition is not there.",
        }.get(slot["state"], sentence(slot["state"]))
    elif on_trial:
        tone = "wait"
        note = "On trial, not confirmed." if slot["booted"] else "On trial from the next boot."
    elif boot.get("failed") == name:
        tone, note = "bad", "Given up."
    elif slot["good"]:
        tone = "ok"
        note = "" if slot["booted"] else "Stands by: a fallback or rollback goes there."
    else:
        tone, note = "wait", "Complete, and not confirmed: it does not boot by itself."
    return Place(
        name, f"Slot {name}", slot["release"], slot["commit"], slot["signer"], slot["confirmed"],
        slot["booted"], name == after, tone, tuple(marks), note,
    )  # fmt: skip


def _rescue(report: dict[str, Any], after: str) -> Place:
    note = {
        "ready": "Stands behind both slots.",
        "empty": "Not installed: nothing stands behind the two slots.",
        "unfinished": "Half written: nothing stands behind the two slots.",
        "none": "This disk has no place for it.",
    }.get(report["rescue"], report["rescue"])
    booted = _booted(report) == "R"
    marks = (("booted",) if booted else ()) + (("boots next",) if after == "R" else ())
    return Place(
        "R", "Rescue", report["rescue_release"], None, None, None, booted, after == "R",
        "ok" if report["rescue"] == "ready" else "wait", marks, note,
    )  # fmt: skip
