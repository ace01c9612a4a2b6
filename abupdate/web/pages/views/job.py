"""A job's headline: what it does or did, and what is to be done next."""

from __future__ import annotations

from dataclasses import dataclass

from abupdate.engine.contract import Job, Status
from abupdate.web.pages.views.proposal import Proposal
from abupdate.web.pages.views.situation import Kind, Situation, job_title
from abupdate.web.pages.views.words import place, sentence

WRITERS = ("install", "rollback", "reflash")


@dataclass(frozen=True)
class JobView:
    """`tone`: plain, ok, wait, bad or busy. `next`: what a person can do then."""

    title: str
    tone: str
    text: tuple[str, ...] = ()
    next: tuple[str, ...] = ()


def job_view(  # noqa: PLR0911 - one case a line
    job: Job, status: Status, now: Situation, plan: Proposal | None, *, latest: bool
) -> JobView:
    """`latest`: no later job has written a slot, so that the device's state is this one's."""
    booted = status.report["booted"]
    runs = f"Release {booted['release'] or 'unknown'} runs in {place(booted['slot'])}"
    title = job_title(job)
    match job.state:
        case "running":
            text = f"{runs}, and is not touched." if job.kind in ("install", "inspect") else ""
            return JobView(f"{title}…", "busy", (text,) if text else ())
        case "failed":
            text = f"{runs}, as before." if job.kind in WRITERS and latest else ""
            return JobView(f"{title} failed", "bad", (text,) if text else (), ("again",))
        case "cancelled":
            return JobView(f"{title} was stopped", "wait", (f"{runs}, as before.",), ("again",))
        case "lost":
            return JobView(f"{title} ended without a word", "bad", (f"{runs}.",), ("again",))
    if plan is not None:
        if plan.refused:
            return JobView(
                f"Release {plan.release} is refused here", "bad", (sentence(plan.refused),)
            )
        return JobView(f"Release {plan.release}", "plain", ("Nothing is written yet.",))
    if job.kind in WRITERS and latest:
        return _became(job, status, now)
    told = (job.message,) if job.message else ()
    return JobView(f"{title}: done", "plain", told)


def _became(job: Job, status: Status, now: Situation) -> JobView:
    """What an install led to, as the device tells it: never a success by itself."""
    last = status.report["last_install"] or {}
    if now.kind == Kind.CONFIRMED and last.get("outcome") == "confirmed":
        release = status.report["booted"]["release"] or "unknown"
        return JobView(
            f"Release {release} is confirmed", "ok", ("It passed its health checks and stays.",),
            ("overview",),
        )  # fmt: skip
    if now.kind == Kind.CONFIRMED:
        return JobView(f"{job_title(job)}: done", "plain", (job.message,) if job.message else ())
    text = (*now.text, f"Cause: {now.cause}") if now.cause else now.text
    return JobView(now.title, now.tone, text, now.actions)
