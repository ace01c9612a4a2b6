"""A trial, from the restart to its end: known by boot id and slot, never by guessing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from abupdate.engine.contract import Health, Status
from abupdate.web.pages.views.situation import Kind, Situation, situation
from abupdate.web.pages.views.words import place, sentence

_BOOT_ID = re.compile(r"^[0-9a-f-]{8,40}$")


@dataclass(frozen=True)
class Asked:
    """What was restarted: the boot that ran then, and the slot that was to be tried."""

    boot: str | None
    slot: str | None

    @classmethod
    def parse(cls, boot: str | None, slot: str | None) -> Asked:
        """From an address; what does not fit counts as not said."""
        return cls(
            boot if boot and _BOOT_ID.match(boot) else None,
            slot if slot in ("A", "B", "R") else None,
        )


@dataclass(frozen=True)
class Attempt:
    """One boot of the trial. `state`: used, now or left."""

    number: int
    state: str


@dataclass(frozen=True)
class TrialView:
    """`phase`: restarting, armed, trial, confirmed, over (it did not stay) or none.

    `tone`: ok, wait or bad. `checks`: what the health checks say now, failed ones first.
    """

    phase: str
    tone: str
    title: str
    text: tuple[str, ...]
    cause: str | None
    actions: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    checks: tuple[dict[str, Any], ...]
    passed: int
    live: bool


def trial_view(status: Status, health: Health | None, asked: Asked) -> TrialView:  # noqa: PLR0911 - one case a line
    """What the trial page says."""
    now = situation(status)
    restarted = asked.boot is None or asked.boot != status.boot_id
    if status.rebooting:
        return _view("restarting", now.tone, now.title, now.text, live=True)
    if not restarted and asked.slot is not None and now.kind in (Kind.CONFIRMED, Kind.UNFINISHED):
        text = "The restart was asked for, and has not begun yet."
        return _view("restarting", "wait", "The device is about to restart", (text,), live=True)
    if now.kind == Kind.TRIAL:
        return _on_trial(status, health, now)
    if now.kind == Kind.ARMED:
        return _armed(status, now, asked, restarted)
    if now.kind in (Kind.FELL_BACK, Kind.UNFINISHED, Kind.LOST, Kind.FOREIGN, Kind.RESCUE):
        return _view("over", now.tone, now.title, now.text, now.cause, now.actions)
    booted = status.report["booted"]
    if asked.slot is not None and asked.slot != booted["slot"]:
        return _view(
            "over", "bad", f"The device is back in {place(booted['slot'])}, not in "
            f"{place(asked.slot)}", (f"Release {booted['release'] or 'unknown'} runs.",),
            "The log and the history tell what happened.", ("why",),
        )  # fmt: skip
    return _ended(status, now)


def _ended(status: Status, now: Situation) -> TrialView:
    last, booted = status.report["last_install"], status.report["booted"]
    release = booted["release"] or "unknown"
    if last is not None and last["outcome"] == "confirmed" and last["slot"] == booted["slot"]:
        return _view(
            "confirmed", "ok", f"Release {release} is confirmed",
            (f"It passed its health checks in {place(booted['slot'])} and stays.",),
            actions=("overview",),
        )  # fmt: skip
    return _view("none", now.tone, "Nothing is on trial", (sentence(now.title),),
                 actions=now.actions or ("overview",))  # fmt: skip


def _on_trial(status: Status, health: Health | None, now: Situation) -> TrialView:
    boot = status.report["boot"]
    this = boot["tries"] - boot["countdown"]
    attempts = tuple(
        Attempt(n, "used" if n < this else "now" if n == this else "left")
        for n in range(1, boot["tries"] + 1)
    )
    checks = sorted(
        health.checks if health is not None else [], key=lambda check: bool(check.get("passed"))
    )
    passed = sum(bool(check.get("passed")) for check in checks)
    actions = tuple(action for action in now.actions if action != "trial")
    return _view(
        "trial", "wait", now.title, now.text, now.cause, actions, attempts=attempts,
        checks=tuple(checks), passed=passed, live=True,
    )  # fmt: skip


def _armed(status: Status, now: Situation, asked: Asked, restarted: bool) -> TrialView:
    tries = status.report["boot"]["tries"]
    attempts = tuple(Attempt(n, "left") for n in range(1, tries + 1))
    text = now.text
    if asked.slot is not None and not restarted:
        text = ("The restart was asked for, and has not begun yet.", *text)
    elif asked.slot is not None:
        booted = place(status.report["booted"]["slot"])
        text = (f"The device restarted, and is in {booted}: the menu was used.", *text)
    return _view("armed", "wait", now.title, text, now.cause, now.actions, attempts=attempts,
                 live=True)  # fmt: skip


def _view(
    phase: str,
    tone: str,
    title: str,
    text: tuple[str, ...] = (),
    cause: str | None = None,
    actions: tuple[str, ...] = (),
    *,
    attempts: tuple[Attempt, ...] = (),
    checks: tuple[dict[str, Any], ...] = (),
    passed: int = 0,
    live: bool = False,
) -> TrialView:
    return TrialView(phase, tone, title, text, cause, actions, attempts, checks, passed, live)
