"""The history as updates with their figures, and the story of one that did not stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abupdate.engine.contract import HistoryItem
from abupdate.web.pages.views.words import count, duration, place, size

_WORDS = {
    "installed": ("Installed, on trial", "wait"),
    "install-failed": ("Install failed", "bad"),
    "confirmed": ("Confirmed", "ok"),
    "fallback": ("Fell back", "bad"),
    "rejected": ("Rejected", "bad"),
    "interrupted": ("Trial interrupted", "wait"),
    "unfinished": ("Install cut off", "wait"),
    "lost": ("Lost from the boot state", "bad"),
    "rollback": ("Going back asked for", "wait"),
    "rearmed": ("Armed once more", "wait"),
    "replaced": ("Replaced before its trial", "plain"),
    "acknowledged": ("Fallback acknowledged", "plain"),
    "provisioned": ("Disk provisioned", "plain"),
    "pruned": ("Store tidied", "plain"),
    "repaired": ("Mended", "plain"),
    "factory-reset": ("Factory reset", "bad"),
    "retried": ("Tried again from rescue", "wait"),
    "rules-kept": ("Boot rules kept", "plain"),
    "rules-failed": ("Boot rules failed", "bad"),
}
_ENDED = {
    "fallback": "was given up",
    "rejected": "was rejected by a person",
    "interrupted": "was interrupted",
    "unfinished": "never finished",
    "lost": "was lost",
}
_LINES = 12


@dataclass(frozen=True)
class Row:
    """A line of the history. `figures`: what it took; `cause`: why it went wrong."""

    time: float
    event: str
    words: str
    tone: str
    release: str | None
    slot: str | None
    figures: tuple[str, ...]
    cause: str | None


def rows(items: Sequence[HistoryItem]) -> list[Row]:
    """The history in words, in the order that it came in."""
    return [_row(item) for item in items]


def _row(item: HistoryItem) -> Row:
    words, tone = _WORDS.get(item.event, (item.event.replace("-", " ").capitalize(), "plain"))
    detail = item.detail
    if item.event == "installed" and detail.get("armed") is False:
        words = "Written, not armed"
    cause = detail.get("cause") or detail.get("error")
    return Row(
        item.time, item.event, words, tone, item.release, item.slot, tuple(figures(detail)),
        str(cause) if cause else None,
    )  # fmt: skip


def figures(detail: dict[str, Any]) -> list[str]:
    """What an entry's details say in numbers; those of an unknown shape are left out."""
    told = []
    if isinstance(detail.get("transferred"), int):
        told.append(f"{size(detail['transferred'])} received")
    written = detail.get("written")
    if isinstance(written, dict) and isinstance(written.get("bytes"), int):
        told.append(f"{size(written['bytes'])} in {count(written.get('files'), 'file')} written")
        told.append(f"{written.get('kept') or 0:,} kept, {written.get('removed') or 0:,} removed")
    seconds = detail.get("seconds")
    if isinstance(seconds, dict):
        seconds = sum(value for value in seconds.values() if isinstance(value, int | float))
    if isinstance(seconds, int | float):
        told.append(duration(seconds))
    if detail.get("downgrade_from"):
        told.append(f"older than {detail['downgrade_from']}, which ran")
    if isinstance(detail.get("signer"), str):
        told.append(f"signed by {detail['signer']}")
    if isinstance(detail.get("boots"), int):
        told.append(count(detail["boots"], "trial boot"))
    if isinstance(detail.get("dropped"), list):
        told.append(f"{count(len(detail['dropped']), 'release')} dropped")
    return told


@dataclass(frozen=True)
class Boot:
    """A trial boot of a story, in words; `said`: pairs of who, and the last lines of it."""

    number: int
    started: float
    words: str
    reasons: tuple[str, ...]
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Story:
    """The post-mortem of a release that did not stay."""

    title: str
    time: float
    cause: str | None
    boots: tuple[Boot, ...]
    now: str
    open: bool
    failed: bool
    release: str | None


def story(why: dict[str, Any] | None) -> Story | None:
    """`abupdate why --json` in words."""
    if why is None:
        return None
    name = f"Release {why['release']}" if why.get("release") else "A release without a record"
    where = f" in {place(why['slot'])}" if why.get("slot") else ""
    now = f"Release {why.get('running') or 'unknown'} runs in {place(why.get('booted'))}."
    if why.get("rearmed"):
        now += f" Release {why['release']} was armed once more by itself."
    if why.get("failed"):
        now += f" Release {why['release']} is not tried again by itself."
    return Story(
        title=f"{name}{where} {_ENDED.get(why['event'], why['event'])}",
        time=float(why.get("time") or 0), cause=why.get("cause"),
        boots=tuple(_boot(n, boot) for n, boot in enumerate(why.get("boots") or (), 1)),
        now=now, open=bool(why.get("open")), failed=bool(why.get("failed")),
        release=why.get("release"),
    )  # fmt: skip


def _boot(number: int, boot: dict[str, Any]) -> Boot:
    verdict = {
        "passed": "its checks passed",
        "failed": "not healthy",
        "unjudged": "left without a verdict at its deadline",
    }.get(str(boot.get("verdict")))
    if verdict is None:
        verdict = "the kernel crashed" if boot.get("console") else "cut off before a verdict"
    if boot.get("seconds") is not None:
        verdict += f" after {duration(boot['seconds'])}"
    said = [
        (f"What {check.get('name', 'a check')} printed", str(check["output"]))
        for check in boot.get("checks") or ()
        if not check.get("passed") and check.get("output")
    ]
    for who, key in (("What the kernel left", "console"), ("The end of its log", "journal")):
        if boot.get(key):
            said.append((who, "\n".join(str(line) for line in boot[key][-_LINES:])))
    return Boot(
        number, float(boot.get("started") or 0), verdict,
        tuple(str(reason) for reason in boot.get("reasons") or ()), tuple(said),
    )  # fmt: skip
