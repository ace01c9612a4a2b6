"""How things stand, in one headline: the first words of every page.

A fallback comes before all else, with its cause; success is said of a confirmed release only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from abupdate.engine.contract import Job, Status
from abupdate.web.pages.views.words import duration, place, sentence


class Kind(StrEnum):
    """Where a device can stand."""

    RESTARTING = "restarting"
    RESCUE = "rescue"
    FOREIGN = "foreign"
    LOST = "lost"
    FELL_BACK = "fell-back"
    TRIAL = "trial"
    ARMED = "armed"
    UNFINISHED = "unfinished"
    NOT_ARMED = "not-armed"
    CONFIRMED = "confirmed"


@dataclass(frozen=True)
class Situation:
    """`tone`: ok, wait or bad. `actions`: what a person can do now, the likeliest first.

    `release` and `slot`: what it is about. `cause`: why, for what went wrong.
    """

    kind: Kind
    tone: str
    title: str
    text: tuple[str, ...] = ()
    cause: str | None = None
    actions: tuple[str, ...] = ()
    release: str | None = None
    slot: str | None = None


def situation(status: Status) -> Situation:  # noqa: PLR0911 - one case a line
    """The headline of a device's state."""
    report = status.report
    booted, boot = report["booted"], report["boot"]
    release = booted["release"] or "unknown"
    if status.rebooting:
        return Situation(
            Kind.RESTARTING, "wait", "The device is restarting",
            ("This page comes back by itself and tells what became of it.",),
        )  # fmt: skip
    if status.mode == "rescue":
        return _armed_in_rescue(report) or _rescue(report)
    if status.mode == "foreign":
        return Situation(
            Kind.FOREIGN, "bad", "This system was not booted by abupdate's rules",
            ("Nothing can be installed from here.",),
        )  # fmt: skip
    if boot is None:
        return Situation(
            Kind.LOST, "bad", "The boot state cannot be read",
            ("Both copies are damaged. The next boot is rescue, which rebuilds them.",),
            actions=("repair",),
        )  # fmt: skip
    if boot["ustate"] == 3:
        return _fell_back(report)
    if boot["ustate"] == 1 and boot["trial"] == booted["slot"]:
        return _trial(status, release)
    if boot["ustate"] == 1:
        return _armed(report)
    return _unsettled(report) or Situation(
        Kind.CONFIRMED, "ok", f"Release {release} runs in {place(booted['slot'])}: "
        + booted["text"], release=release, slot=booted["slot"],
    )  # fmt: skip


def _rescue(report: dict[str, Any]) -> Situation:
    broken = [f"slot {name}" for name, slot in report["slots"].items() if not slot["good"]]
    text = "The rescue system runs from memory: it can write both slots."
    if broken:
        text += f" Not fit to boot: {' and '.join(broken)}."
    last = report["last_install"] or {}
    return Situation(
        Kind.RESCUE, "bad", "The device is in rescue", (text,), last.get("cause"), ("rescue",)
    )


def _armed_in_rescue(report: dict[str, Any]) -> Situation | None:
    boot = report["boot"]
    if boot is None or boot["ustate"] != 1:
        return None
    text = (
        f"GRUB tries it at the next boot, {boot['countdown']} times at most. It stays when it is "
    )
    return replace(_armed(report), text=(f"{text}confirmed there; rescue comes back otherwise.",))


def _fell_back(report: dict[str, Any]) -> Situation:
    last, boot = report["last_install"] or {}, report["boot"]
    runs = f"release {report['booted']['release'] or 'unknown'} runs again"
    slot = boot["failed"] if boot["failed"] in ("A", "B") else last.get("slot")
    release = last.get("release") if last.get("slot") == slot else None
    name = f"Release {release}" if release else f"What was in {place(slot)}"
    if last.get("outcome") == "rejected":
        title = f"{name} was rejected; {runs}"
    else:
        title = f"{name} was given up; {runs}"
    text = ["It is not tried again by itself."] if release in report["failed"] else []
    if report["booted"]["slot"] == slot:  # rejected, and the reboot is to come
        title = f"{name} was given up, and still runs"
        text = ["The next boot leaves it."]
        return Situation(
            Kind.FELL_BACK, "bad", title, tuple(text), last.get("cause"), ("reboot",), release, slot
        )
    return Situation(
        Kind.FELL_BACK, "bad", title, tuple(text), last.get("cause") or "no cause is known yet",
        ("why", "acknowledge"), release, slot,
    )  # fmt: skip


def _trial(status: Status, release: str) -> Situation:
    boot = status.report["boot"]
    attempt = boot["tries"] - boot["countdown"]
    slot = status.report["booted"]["slot"]
    manual = status.confirm_mode == "manual"
    text = [
        f"Boot {attempt} of {boot['tries']}. "
        + (
            "It stays when you confirm it."
            if manual
            else "It stays when its health checks pass; until then it is no success."
        )
    ]
    if status.deadline is not None:
        text.append(f"Without a verdict it is given up in {duration(status.deadline)}.")
    return Situation(
        Kind.TRIAL, "wait", f"Release {release} is installed, on trial", tuple(text), None,
        ("confirm", "reject") if manual else ("trial", "reject"), release, slot,
    )  # fmt: skip


def _armed(report: dict[str, Any]) -> Situation:
    boot, last = report["boot"], report["last_install"] or {}
    slot = boot["trial"]
    release = report["slots"].get(slot, {}).get("release") or last.get("release")
    text = f"GRUB tries it at the next boot, {boot['countdown']} times at most, and goes back to "
    text += f"{place(boot['slot'])} if nothing confirms it."
    return Situation(
        Kind.ARMED, "wait", f"Release {release or 'unknown'} is installed, and waits for a restart",
        (text,), None, ("reboot",), release, slot,
    )  # fmt: skip


def _unsettled(report: dict[str, Any]) -> Situation | None:
    last = report["last_install"]
    if last is None or report["job"] is not None:
        return None
    release, slot, cause = last["release"], last["slot"], last["cause"]
    runs = f"Release {report['booted']['release'] or 'unknown'} runs, as before."
    match last["outcome"]:
        case "not armed" if report["slots"].get(slot, {}).get("state") == "complete":
            return Situation(
                Kind.NOT_ARMED, "wait", f"Release {release} is written, and not armed",
                (f"It is complete in {place(slot)}; GRUB does not try it until it is armed.",),
                None, ("arm",), release, slot,
            )  # fmt: skip
        case "unfinished":
            title = f"The install of release {release} did not finish"
            text = f"{runs} What is in {place(slot)} never boots; install again."
        case "interrupted":
            title = f"The trial of release {release} was interrupted"
            text = f"{runs} Nothing speaks against it; it can be installed again."
        case "lost" | "unknown":
            title = f"Release {release} was armed, and then lost from the boot state"
            text = f"{runs} It can be installed again."
        case _:
            return None
    return Situation(Kind.UNFINISHED, "wait", title, (text,), cause, ("update",), release, slot)


def next_boot(report: dict[str, Any]) -> str:
    """What the next boot starts: A, B, R, or an empty text where nobody knows."""
    boot = report["boot"]
    if boot is None:
        return "R"
    if boot["once"] == "R":
        return "R"
    if boot["ustate"] == 1 and boot["trial"] in ("A", "B") and boot["countdown"] > 0:
        return str(boot["trial"])
    return _without_trial(report)


def _without_trial(report: dict[str, Any]) -> str:
    """GRUB's rules when nothing is tried (docs/boot-state-machine.md)."""
    boot, slots = report["boot"], report["slots"]
    slot = boot["slot"]
    if slot not in ("A", "B"):
        return ""
    other = "B" if slot == "A" else "A"
    if slots.get(slot, {}).get("good") and (boot["limit"] == 0 or boot["countdown"] > 0):
        return str(slot)
    if slots.get(other, {}).get("good") and boot["failed"] != other:
        return other
    return "R" if report["rescue"] == "ready" else ""


def running(jobs: list[Job]) -> Job | None:
    """The job that runs, if one does."""
    return next((job for job in jobs if job.state == "running"), None)


_KINDS = {
    "inspect": "Looking into a bundle",
    "install": "Installing",
    "rollback": "Going back",
    "reflash": "Putting slots back",
    "rescue-update": "Replacing the rescue system",
    "repair": "Mending",
}


def job_title(job: Job) -> str:
    """What a job does, with the release where it is known."""
    told = _KINDS.get(job.kind, sentence(job.kind).rstrip("."))
    wanted = job.release or job.wish.get("release")
    return f"{told} release {wanted}" if wanted and job.kind in ("install", "reflash") else told
