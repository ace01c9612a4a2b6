"""What an update would do, from `abupdate info --json`: shown before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abupdate.engine.contract import Status
from abupdate.web.pages.views.words import count, place, size


@dataclass(frozen=True)
class Proposal:
    """`facts`: rows of what it is. `plan`: what happens then. `warnings`: what to weigh first.

    `refused`: why this device does not take it. `forceable`: a person may overrule that.
    `packages`: name, version that runs, version to come; None where one has not got it.
    """

    release: str
    current: str | None
    slot: str | None
    refused: str | None
    forceable: bool
    facts: tuple[tuple[str, str], ...]
    plan: tuple[str, ...]
    warnings: tuple[str, ...]
    write: int | None
    bytes: int
    capacity: int | None
    signed: float | None
    signer: str
    packages: tuple[tuple[str, str | None, str | None], ...] = ()


def proposal(info: dict[str, Any], status: Status) -> Proposal:
    """What installing a bundle would do to this device."""
    report = status.report
    booted, slot = report["booted"], info.get("slot")
    target = report["slots"].get(slot, {}) if slot else {}
    needs = info.get("needs") or ()
    facts = [
        ("For", str(info.get("compatible", "unknown"))),
        ("Commit", str(info.get("commit", ""))[:12]),
        ("Bundle", size(info.get("transferred"))
         + (f", a delta to {', '.join(needs)}" if needs else ", complete")),
        ("Content", f"{size(info.get('bytes'))} in {count(info.get('inodes'), 'file or folder', 'files and folders')}"),  # noqa: E501
    ]  # fmt: skip
    changes = info.get("changes") or {}
    if files := changes.get("files"):
        facts.append(("Changes", _changed(files, info.get("running"))))
    if info.get("write") is not None:
        facts.append(
            ("Written", f"{size(info['write'])} in {count(info.get('write_files'), 'file')}")
        )
        facts.append(
            ("Kept", f"{count(info.get('kept'), 'path')}; {info.get('removed') or 0:,} removed")
        )
    elif slot:
        facts.append(("Written", f"known after a look at all that slot {slot} holds"))
    if info.get("min_from"):
        facts.append(("Updates", f"from {info['min_from']} or newer"))
    warnings = []
    if info.get("floor"):
        warnings.append(
            f"Once it is confirmed, nothing older than {info['floor']} may run here any more."
        )
    if target.get("release") and target.get("state") == "complete":
        warnings.append(
            f"Release {target['release']} in slot {slot} is replaced: until the new one is "
            f"confirmed, only {place(booted['slot'])} and rescue stand behind it."
        )
    if report["rescue"] != "ready":
        warnings.append("No rescue system stands behind the two slots.")
    if not str(info.get("signer", "")) or "unsigned" in str(info.get("signer", "")).lower():
        warnings.append("Nobody has signed this release.")
    tries = (report["boot"] or {}).get("tries", 3)
    plan = (
        f"It is written into slot {slot} and read back. Release {booted['release'] or 'unknown'} "
        f"in {place(booted['slot'])} runs on, untouched.",
        f"At the restart GRUB tries it, {tries} times at most.",
        "It stays when you confirm it." if status.confirm_mode == "manual"
        else "It stays when its health checks pass.",
        f"Otherwise the device goes back to {place(booted['slot'])} by itself.",
    )  # fmt: skip
    return Proposal(
        release=str(info.get("release", "unknown")), current=booted["release"], slot=slot,
        refused=info.get("refused"), forceable=info.get("exit_code") == 7, facts=tuple(facts),
        plan=plan if slot else (), warnings=tuple(warnings), write=info.get("write"),
        bytes=int(info.get("bytes") or 0), capacity=info.get("capacity"),
        signed=info.get("signed"), signer=str(info.get("signer") or "nobody"),
        packages=tuple(
            (str(one["name"]), one["old"], one["new"]) for one in changes.get("packages", ())
        ),
    )  # fmt: skip


def _changed(files: dict[str, int], running: str | None) -> str:
    """How many files differ from what runs."""
    words = (("added", "new"), ("changed", "changed"), ("removed", "gone"),
             ("attributes", "with another owner or mode"))  # fmt: skip
    told = [f"{files[key]:,} {word}" for key, word in words if files.get(key)]
    return f"{', '.join(told) or 'no file'} since {running or 'what runs'}"
