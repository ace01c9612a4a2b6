"""How health checks and the story of a fallback look."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from abupdate.health.check import CheckResult
from abupdate.health.watch import Watched
from abupdate.update.trials import TrialBoot, Verdict
from abupdate.update.why import Story

_OUTPUT_LINES = 5
_JOURNAL_LINES = 12


def checks_text(watched: Watched) -> str:
    """The table of the health checks, and their verdict."""
    lines = [line for result in watched.results for line in _check_lines(result)]
    failed = watched.failed
    told = [result for result in watched.results if not result.passed and not result.required]
    if failed:
        verdict = f"Not healthy: {_names(failed)}."
    else:
        verdict = "Healthy." + (f" To look at: {_names(told)}." if told else "")
    looks = f" {watched.looks} looks in {watched.seconds:.0f} s." if watched.looks > 1 else ""
    return "\n".join([*lines, "", verdict + looks])


def checks_json(watched: Watched) -> dict[str, Any]:
    """The same for a program."""
    return {
        "schema_version": 1,
        "healthy": not watched.failed,
        "looks": watched.looks,
        "seconds": watched.seconds,
        "checks": [asdict(result) for result in watched.results],
    }


def _names(results: list[CheckResult]) -> str:
    return ", ".join(result.name for result in results)


def _check_lines(result: CheckResult) -> list[str]:
    kind = "required" if result.required else "wanted"
    verdict = "ok" if result.passed else "FAILED"
    reason = "" if result.passed and result.reason == "ok" else result.reason
    line = f"  {verdict:<7} {kind:<9} {result.name:<20} {result.seconds:6.1f} s  {reason}"
    output = [] if result.passed else result.output.splitlines()[-_OUTPUT_LINES:]
    return [line.rstrip(), *(f"      | {text}" for text in output)]


_ENDED = {
    "fallback": "given up",
    "rejected": "rejected by a person",
    "interrupted": "interrupted",
    "unfinished": "never finished",
    "lost": "lost",
}


def why_text(story: Story) -> str:
    """`abupdate why` for a person."""
    name = f"Release {story.release}" if story.release else "A release of which no record is left"
    place = f" in slot {story.slot}" if story.slot else ""
    when = f" on {_day(story.time)}" if story.time else ""
    lines = [f"{name}{place} was {_ENDED[story.event]}{when}."]
    if story.cause:
        lines.append(f"  Cause: {story.cause}.")
    if story.boots:
        lines.append("")
        lines += [_boot_line(number, boot) for number, boot in enumerate(story.boots, 1)]
        lines += _last_words(story.boots)
    lines += ["", _now(story)]
    return "\n".join(lines)


def _boot_line(number: int, boot: TrialBoot) -> str:
    after = f" after {boot.seconds:.0f} s" if boot.seconds is not None else ""
    verdict = {
        Verdict.PASSED: "its checks passed",
        Verdict.FAILED: "not healthy",
        Verdict.UNJUDGED: "left",
    }.get(Verdict(boot.verdict)) if boot.verdict else None  # fmt: skip
    if verdict is None:
        verdict = "the kernel crashed" if boot.console else "cut off, before a verdict"
    why = f": {'; '.join(boot.reasons)}" if boot.reasons else ""
    return f"  boot {number}  {_day(boot.started)}  {verdict}{after}{why}"


def _last_words(boots: tuple[TrialBoot, ...]) -> list[str]:
    """What the last boot that left anything printed."""
    lines: list[str] = []
    for boot in reversed(boots):
        if not boot.against_it:
            continue
        for check in boot.checks:
            if not check.passed and check.output:
                lines += ["", f"  {check.name} said:"]
                lines += [f"    | {text}" for text in check.output.splitlines()[-_OUTPUT_LINES:]]
        for what, told in (("The kernel kept", boot.console), ("Its log ended with", boot.journal)):
            if told:
                lines += ["", f"  {what}:"]
                lines += [f"    | {text}" for text in told[-_JOURNAL_LINES:]]
        break
    return lines


def _now(story: Story) -> str:
    place = "rescue" if story.booted == "R" else f"slot {story.booted}"
    text = f"Release {story.running or 'unknown'} runs in {place}."
    if story.rearmed:
        text += f" Release {story.release} was armed once more by itself."
    if story.failed:
        text += (
            f" Release {story.release} is not tried again by itself;"
            " `abupdate install --retry-failed` does."
        )
    if story.open:
        text += " `abupdate acknowledge` says that this is known."
    return text


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
