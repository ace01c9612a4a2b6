"""How things look on a terminal, and as JSON lines on a descriptor."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from abupdate.boot.state import Ustate
from abupdate.errors import UsageError
from abupdate.events import Event, EventKind, Events
from abupdate.update.records import HistoryEntry
from abupdate.update.status import SlotStatus, StatusReport

if TYPE_CHECKING:
    from abupdate.release.difference import Differences
    from abupdate.update.info import Info

_BAR = 24
_PACKAGES = 8  # that are listed
_RESCUE = {
    "empty": "not installed",
    "unfinished": "half written",
    "none": "this disk has no place for it",
}


def terminal_events(progress_fd: int | None = None, stream: TextIO | None = None) -> Events:
    """Steps and progress for a person on standard error; JSON lines on `progress_fd` as well."""
    events = Events(terminal_sink(stream or sys.stderr))
    if progress_fd is not None:
        try:
            os.fstat(progress_fd)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"--progress-fd {progress_fd}: that is no open file.", "Open it: 3>FILE"
            ) from error
        events.subscribe(_json_sink(progress_fd))
    return events


def terminal_sink(stream: TextIO) -> Callable[[Event], None]:
    """A line for each step that ended; a bar that moves, only where there is a terminal."""
    moving = stream.isatty()

    def show(event: Event) -> None:
        clear = "\r\x1b[K" if moving else ""
        match event.kind:
            case EventKind.STEP_END:
                stream.write(f"{clear}  {event.text or event.step:<44} {event.seconds:7.1f} s\n")
            case EventKind.STEP_FAILED:
                stream.write(f"{clear}  {event.text or event.step:<44}  failed\n")
            case EventKind.WARNING:
                stream.write(f"{clear}warning: {event.text}\n")
            case EventKind.NOTE:
                stream.write(f"{clear}  {event.text}\n")
            case EventKind.PROGRESS if moving:
                stream.write(clear + _bar(event))
            case _:
                return
        stream.flush()

    return show


def _bar(event: Event) -> str:
    done = event.done or 0
    scale, unit = (1 << 20, "MiB") if event.unit == "bytes" else (1, event.unit or "")
    if not event.total:
        text = f"{done // scale} {unit}"
    else:
        full = _BAR * done // event.total
        bar = "#" * full + "." * (_BAR - full)
        text = f"[{bar}] {done // scale}/{event.total // scale} {unit}"
    if event.files_total:
        text += f", {event.files}/{event.files_total} files"
    if event.rate:
        text += f", {event.rate / scale:.0f} {unit}/s"
    if event.left:
        text += f", {event.left:.0f} s left"
    return f"  {event.step:<10} {text}"


def _json_sink(descriptor: int) -> Callable[[Event], None]:
    def show(event: Event) -> None:
        os.write(descriptor, json.dumps(event.as_dict()).encode() + b"\n")

    return show


def printable(text: str) -> str:
    """Lines in which what somebody else wrote cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def status_text(report: StatusReport) -> str:
    """`abupdate status` for a person."""
    booted = report.booted
    place = "rescue" if booted.slot == "R" else f"slot {booted.slot}"
    lines = [f"Release {booted.release or 'unknown'} runs in {place}: {booted.text}."]
    if report.last_install is not None:
        lines.append(_install_text(report))
    lines.append("")
    failed = report.boot.failed if report.boot else None
    lines += [_slot_line(name, slot, name == failed) for name, slot in report.slots.items()]
    if report.boot is not None:
        boot = report.boot
        full = boot.tries if boot.ustate == 1 else boot.limit
        lines.append(
            f"  boot     {boot.ustate_text} (ustate {boot.ustate}), "
            f"countdown {boot.countdown} of {full}"
        )
    if report.rescue == "ready":
        lines.append(f"  rescue   release {report.rescue_release or 'unknown'}")
    else:
        lines.append(f"  rescue   {_RESCUE[report.rescue]}: nothing stands behind the two slots")
    if report.rules is not None and report.rules.next is not None:
        lines.append("  rules    GRUB tries newer ones at the next boot")
    if report.rules is not None and report.rules.failed is not None:
        lines.append(
            f"  rules    the release's own ({report.rules.failed}) failed; GRUB has others"
        )
    if report.failed:
        lines.append(f"  failed   {', '.join(report.failed)}: not tried again by itself")
    if report.job:
        lines.append(f"  job      {report.job.get('job', 'unknown')} is running")
    if report.etc is not None:
        lines += [f"  conflict {told}" for told in report.etc.conflicts]
        if report.etc.conflicts:
            lines.append("           `abupdate etc resolve PATH` when you have looked at it")
    lines += [f"  problem  {problem}" for problem in report.problems]
    return "\n".join(lines)


def _install_text(report: StatusReport) -> str:
    last = report.last_install
    assert last is not None
    told = f"Last install: release {last.release} into slot {last.slot}: "
    words = {
        "confirmed": "confirmed.",
        "fallback": "given up; the other slot runs again.",
        "interrupted": "interrupted; nothing speaks against it.",
        "installed, on trial": "installed, on trial; not a success until it is confirmed.",
        "unfinished": "did not finish; install again.",
        "installing": "being written.",
        "unknown": "armed, and then lost from the boot state.",
        "rejected": "rejected.",
    }
    text = told + words.get(last.outcome, last.outcome)
    if last.rearmed and last.outcome == "installed, on trial":
        text += "\n  Its first trial was interrupted; it was armed once more."
    if last.cause:
        text += f"\n  cause: {last.cause}"
    if report.boot is not None and report.boot.ustate == int(Ustate.FAILED):
        text += "\n  `abupdate why` tells the story, `abupdate acknowledge` ends this notice."
    return text


def _slot_line(name: str, slot: SlotStatus, failed: bool) -> str:
    marks = [slot.state]
    if slot.good:
        marks.append("good")
    if failed:
        marks.append("given up")
    if slot.booted:
        marks.append("booted")
    release = slot.release or "-"
    return f"  slot {name}   {release:<12} {(slot.commit or '-')[:12]:<12} {', '.join(marks)}"


def info_text(info: Info) -> str:
    """`abupdate info` for a person."""

    def day(seconds: int) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

    rows = [
        ("release", f"{info.release} for {info.compatible}"),
        ("signed by", f"{info.signer}, {day(info.signed)}"),
        ("commit", info.commit),
        ("bundle", f"{info.transferred / (1 << 20):.1f} MiB, "
         + (f"a delta to {', '.join(info.needs)}" if info.needs else "complete")),
        ("content", f"{info.bytes >> 20} MiB in {info.inodes} files and folders"
         + (f", of {info.capacity >> 20} MiB" if info.capacity else "")),
    ]  # fmt: skip
    if info.floor:
        rows.append(("floor", f"{info.floor}: nothing older may run once this is confirmed"))
    if info.min_from:
        rows.append(("updates", f"from {info.min_from} or newer"))
    if info.changes is not None:
        rows.append(("changes", changes_text(info.changes, info.running)))
    if info.refused:
        rows.append(("install", f"refused here: {info.refused}"))
    elif info.slot and info.write is not None:
        rows.append(("install", f"into slot {info.slot}: {info.write / (1 << 20):.1f} MiB in "
                     f"{info.write_files} files would be written, {info.kept} paths stay, "
                     f"{info.removed} go"))  # fmt: skip
    elif info.slot:
        rows.append(("install", f"into slot {info.slot}, after a look at all that it holds"))
    return "\n".join(f"  {name:<10} {text}" for name, text in rows)


def changes_text(changes: Differences, running: str | None) -> str:
    """What differs from the release that runs: packages, and how many files."""
    files = changes.files
    counts = {"added": files.added, "changed": files.changed, "removed": files.removed,
              "with other attributes": files.attributes}  # fmt: skip
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    lines = [f"since {running}: files {told}" if told else f"since {running}: no file"]
    for one in changes.packages[:_PACKAGES]:
        lines.append(f"{one.name} {one.old or 'is new:'} {'→ ' if one.old and one.new else ''}"
                     f"{one.new or 'goes'}")  # fmt: skip
    if len(changes.packages) > _PACKAGES:
        lines.append(f"and {len(changes.packages) - _PACKAGES} packages more (--json)")
    return f"\n{'':<13}".join(lines)


def history_text(entries: list[HistoryEntry]) -> str:
    """`abupdate history` for a person, newest last."""
    lines = []
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        where = f"slot {entry.slot}" if entry.slot else ""
        why = entry.detail.get("cause") or entry.detail.get("error") or ""
        if newer := entry.detail.get("downgrade_from"):
            why = f"older than {newer}, which ran"
        release = f"release {entry.release}" if entry.release else ""
        lines.append(f"{when}  {entry.event:<15} {release:<16} {where:<7} {why}".rstrip())
    return "\n".join(lines) if lines else "Nothing has happened yet."
