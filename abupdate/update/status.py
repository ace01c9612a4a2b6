"""What a person or a program needs to know of this device, as one value.

The JSON form is a contract: its schema is docs/status.schema.json, made from
these classes; `schema_version` rises when a field changes its meaning or goes.
Nothing here writes or imports what takes long. Labels and boot state are
readable by root only: others see slots as unfinished and the copies as problems.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abupdate.boot.state import NONE, BootState, Ustate
from abupdate.disk.layout import RESCUE, UNFINISHED_RESCUE, BootDisk, Partition, Slot
from abupdate.errors import AbupdateError, RefusedError
from abupdate.health.mounts import TOLD, mounts_that
from abupdate.update import rules_record
from abupdate.update.carried import carried
from abupdate.update.job import running_job
from abupdate.update.records import Intent, SlotRecord
from abupdate.update.release_rules import foreign_text, own_rules
from abupdate.update.slots import Booted, Machine

SCHEMA_VERSION = 1
_UNSIGNED = b"unsigned_branches"
_MAX_RELEASE = 1024 * 1024

USTATE_WORDS = {
    Ustate.OK: "ok",
    Ustate.INSTALLED: "installed, not confirmed",
    Ustate.FAILED: "fell back",
}


@dataclass(frozen=True)
class SlotStatus:
    """A slot. `state`: complete, unfinished (an install did not finish), empty or missing."""

    device: str | None
    label: str | None
    state: str
    release: str | None
    commit: str | None
    signer: str | None
    good: bool
    booted: bool
    confirmed: float | None


@dataclass(frozen=True)
class BootedStatus:
    """What runs. `how`: normal, trial, fallback or rescue, as GRUB said; `text` in words."""

    slot: str
    how: str | None
    release: str | None
    commit: str | None
    text: str


@dataclass(frozen=True)
class BootStatus:
    """The boot state (docs/boot-state-machine.md), and which copy of it is whole."""

    slot: str
    good: str
    trial: str
    ustate: int
    ustate_text: str
    countdown: int
    tries: int
    limit: int
    failed: str
    once: str
    source: str | None


@dataclass(frozen=True)
class InstallStatus:
    """The last install and what became of it.

    `outcome`: installing, "installed, on trial" until it is confirmed,
    confirmed, rejected, fallback, interrupted (all boots of its trial were cut
    off, and nothing speaks against it), unfinished (it was cut off), "not armed"
    (as asked for), or lost (complete, and cut off while it was being armed, or
    the boot state was lost). `rearmed`: its trial was interrupted once, and it
    was armed again by itself.
    """

    release: str
    slot: str
    outcome: str
    cause: str | None
    started: float
    rearmed: bool


@dataclass(frozen=True)
class EtcStatus:
    """What the last update made of the owner's changes in /etc of the booted slot.

    `changed`: how many paths they were. `conflicts`: what could not be merged, and nobody
    has settled since (`abupdate etc resolve`).
    """

    changed: int
    conflicts: list[str]


@dataclass(frozen=True)
class RulesStatus:
    """GRUB's rules on the boot partition. `runs`: which of the two started this boot, a or b.

    `number` of those in use, and `release` of those that the running release brings. `next`:
    which GRUB tries once at the next boot. `failed`: the number of the release's, where they were
    tried and failed; they are not tried again.
    """

    runs: str | None
    use: str
    number: int
    next: str | None
    release: int | None
    failed: int | None


@dataclass(frozen=True)
class StatusReport:
    """All of `abupdate status --json`. Times are seconds since the epoch.

    `failed`: releases that were given up here, and are not tried again by themselves.
    `rescue`: ready, unfinished (writing it was cut off), empty (a partition without a rescue
    system) or none; `rescue_release`: what it holds, None where that is not known.
    `rules` is None where which rules GRUB uses cannot be read.
    `problems`: what is not as it should be, a difference between what was
    installed, what runs and the boot state among it.
    """

    schema_version: int
    booted: BootedStatus
    slots: dict[str, SlotStatus]
    boot: BootStatus | None
    rescue: str
    rescue_release: str | None
    rules: RulesStatus | None
    last_install: InstallStatus | None
    etc: EtcStatus | None
    failed: list[str]
    job: dict[str, Any] | None
    problems: list[str]


def collect(machine: Machine) -> StatusReport:
    """Read everything. Raises `RefusedError` on a system that abupdate does not run."""
    booted = machine.booted()
    reading = machine.grubenv().read()
    state = reading.state
    records = {slot: machine.records.slot(slot) for slot in Slot}
    problems = list(reading.problems)
    slots = {str(slot): _slot(slot, booted, state, records[slot], problems) for slot in Slot}
    intent = machine.records.intent()
    problems += differences(machine, booted, state, records, intent)
    working = running_job(machine.paths.runtime)
    rescue, held = _rescue(booted.disk), machine.records.rescue()
    return StatusReport(
        schema_version=SCHEMA_VERSION,
        booted=_booted(booted, state, records[booted.slot] if booted.slot else held),
        slots=slots,
        boot=_boot(state, reading.source) if state else None,
        rescue=rescue,
        rescue_release=held.release if held is not None and rescue == "ready" else None,
        rules=_rules(machine, booted, problems),
        last_install=_last_install(intent, state, working is not None) if intent else None,
        etc=_etc(machine, booted),
        failed=[failed.release for failed in machine.records.failed()],
        job=working,
        problems=problems,
    )


def _rescue(disk: BootDisk) -> str:
    if disk.labelled(RESCUE):
        return "ready"
    if disk.labelled(UNFINISHED_RESCUE):
        return "unfinished"
    return "empty" if any(part.name == RESCUE for part in disk.partitions) else "none"


def _rules(machine: Machine, booted: Booted, problems: list[str]) -> RulesStatus | None:
    reading = machine.rules().read()
    choice = reading.choice
    used = reading.files[choice.use] if choice is not None else None
    if choice is None or used is None:
        return None
    own = own_rules(machine.paths)
    failed = rules_record.read(machine.paths.state).failure(own.digest) if own else None
    if not used.rules.readable:
        problems.append(foreign_text(used.rules, own))
    return RulesStatus(
        runs=booted.arguments.rules,
        use=choice.use,
        number=used.rules.number,
        next=choice.tried if choice.tried != NONE else None,
        release=own.number if own else None,
        failed=failed.number if failed else None,
    )


def _etc(machine: Machine, booted: Booted) -> EtcStatus | None:
    known = carried(machine.paths, booted.slot) if booted.slot else None
    if known is None:
        return None
    conflicts = [f"/etc/{told.path}: {told.text}" for told in known.conflicts]
    return EtcStatus(known.changed, conflicts)


def differences(
    machine: Machine,
    booted: Booted,
    state: BootState | None,
    records: Mapping[Slot, SlotRecord | None],
    intent: Intent | None,
) -> list[str]:
    """Where what was installed, what runs, and the boot state do not fit together."""
    found = mounts_that(TOLD, machine.paths.runtime)
    found += _unsigned(machine, records) + _stale_channels(machine)
    record = records[booted.slot] if booted.slot else None
    running = _running_version(machine)
    if record is not None and running is not None and running != record.release:
        found.append(
            f"Release {running} runs in slot {booted.slot}, and its record says {record.release}: "
            "something else than abupdate wrote the slot."
        )
    if state is None or booted.slot is None:
        return found
    if booted.slot not in (state.slot, state.trial):
        how = "GRUB fell back" if booted.arguments.how == "fallback" else "the menu was used"
        found.append(
            f"Slot {booted.slot} runs, and slot {state.slot} is what normally boots: {how}."
        )
    if state.ustate == Ustate.FAILED and state.failed != NONE and intent is None:
        found.append(f"Slot {state.failed} was given up, and no record is left of what was in it.")
    if state.ustate == Ustate.INSTALLED and (intent is None or intent.slot != state.trial):
        found.append(f"Slot {state.trial} is armed, and no record tells of an install into it.")
    return found


def _unsigned(machine: Machine, records: Mapping[Slot, SlotRecord | None]) -> list[str]:
    """What was taken, or would be, though nobody has signed it."""
    found = [
        f"NOBODY HAS SIGNED release {record.release} of slot {slot} ({record.signer})."
        for slot, record in records.items()
        if record is not None and not record.tag
    ]
    texts = [*machine.paths.config_files(), machine.paths.cmdline]
    if any(_may_name_branches(path.read_bytes()) for path in texts if path.is_file()):
        from abupdate.config import load  # takes longer than all the rest: where it must be

        try:
            if names := load(machine.paths).settings.source.unsigned_branches:
                found.append(
                    f"Releases of branch {' and '.join(names)} are taken though NOBODY SIGNS "
                    "THEM: source.unsigned_branches is set."
                )
        except AbupdateError as error:
            found.append(error.message)
    return found


def _may_name_branches(text: bytes) -> bool:
    """Also where a key in quotes has its letters escaped, which only the parser can tell."""
    return _UNSIGNED in text or b"\\" in text


def _stale_channels(machine: Machine) -> list[str]:
    if not (machine.paths.state / "trust" / "channels").exists():
        return []
    from abupdate.update import channels  # not needed otherwise, and takes long

    try:
        known = channels.followed(machine.paths).values()
        return [
            channels.stale_text(one)
            for one in known
            if channels.is_stale(machine.paths, one.valid_until)
        ]
    except AbupdateError as error:
        return [error.message]


def _running_version(machine: Machine) -> str | None:
    """What the root filesystem says that it is; None where it says nothing."""
    try:
        with (machine.paths.root / ".abupdate/release.toml").open("rb") as file:
            stated = tomllib.loads(file.read(_MAX_RELEASE).decode())
    except (OSError, ValueError):
        return None
    version = stated.get("version")
    return version if isinstance(version, str) else None


def _slot(
    slot: Slot,
    booted: Booted,
    state: BootState | None,
    record: SlotRecord | None,
    problems: list[str],
) -> SlotStatus:
    try:
        partition: Partition | None = booted.disk.slot(slot)
    except RefusedError as error:
        partition = None
        problems.append(error.message)
    complete = partition is not None and partition.label == slot.label
    known = record if record is not None and complete else None
    if partition is None:
        condition = "missing"
    elif complete:
        condition = "complete"
    else:
        condition = "unfinished" if record is not None else "empty"
    return SlotStatus(
        device=str(partition.device) if partition else None,
        label=partition.label if partition else None,
        state=condition,
        release=known.release if known else None,
        commit=known.commit if known else None,
        signer=known.signer if known else None,
        good=state is not None and slot in state.good,
        booted=slot == booted.slot,
        confirmed=known.confirmed if known else None,
    )


def _booted(booted: Booted, state: BootState | None, record: SlotRecord | None) -> BootedStatus:
    return BootedStatus(
        slot=str(booted.slot) if booted.slot else "R",
        how=booted.arguments.how,
        release=record.release if record else None,
        commit=record.commit if record else None,
        text=_how_in_words(booted, state),
    )


def _how_in_words(booted: Booted, state: BootState | None) -> str:
    if booted.slot is None:
        return "rescue"
    if state is not None and state.ustate == Ustate.INSTALLED and state.trial == booted.slot:
        attempt = state.tries - state.countdown
        return f"on trial, boot {attempt} of {state.tries}, not confirmed"
    if booted.arguments.how == "fallback":
        return "GRUB fell back to it"
    if state is not None and booted.slot not in state.good:
        return "given up; a reboot leaves it"
    if booted.arguments.how == "trial":
        return "confirmed on this boot"
    return "confirmed"


def _boot(state: BootState, source: str | None) -> BootStatus:
    return BootStatus(
        slot=state.slot,
        good=state.good,
        trial=state.trial,
        ustate=int(state.ustate),
        ustate_text=USTATE_WORDS[Ustate(int(state.ustate))],
        countdown=state.countdown,
        tries=state.tries,
        limit=state.limit,
        failed=state.failed,
        once=state.once,
        source=source,
    )


def _last_install(intent: Intent, state: BootState | None, working: bool) -> InstallStatus:
    return InstallStatus(
        release=intent.release,
        slot=intent.slot,
        outcome=_outcome(intent, state, working),
        cause=intent.cause,
        started=intent.started,
        rearmed=intent.rearmed,
    )


def _outcome(intent: Intent, state: BootState | None, working: bool) -> str:
    if intent.outcome is not None:
        return intent.outcome
    if state is not None and state.ustate == Ustate.INSTALLED and state.trial == intent.slot:
        return "installed, on trial"
    if state is not None and state.failed == intent.slot:
        return "fallback"
    if intent.armed is None:
        return "installing" if working else "unfinished"
    return "unknown"
