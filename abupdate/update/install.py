"""The install: one transaction from a release to an armed slot.

Read `install` from top to bottom: that is the order of the writes, and each
line may be the last one before the power goes. Until `arm`, the booted slot is
what boots next. From `begin` on, the other slot is out of `good` in both
copies of the boot state, and from `relabel` on its label says so as well;
running the install again is right from any point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from abupdate.boot import state as boot
from abupdate.config import Settings
from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from abupdate.errors import (
    AbupdateError,
    DeviceFaultError,
    ProgramError,
    fault_of,
)
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.source.source import Source
from abupdate.store.materialise.apply import Written
from abupdate.store.materialise.plan import Plan
from abupdate.store.outputs import NOTHING, Outputs
from abupdate.update import arming, etc
from abupdate.update.admit import Examined, Release, admit
from abupdate.update.carried import Carried
from abupdate.update.hooks import Hooks
from abupdate.update.job import job, unstoppable
from abupdate.update.prepare import (
    Prepared,
    check_files,
    prepare,
    proven_base,
    refuse_failed,
    refuse_running,
)
from abupdate.update.records import HistoryEntry, Intent, SlotRecord, SlotState, now
from abupdate.update.settle import make_room
from abupdate.update.slots import Booted, Machine, attempt_note, require_root
from abupdate.update.target import target
from abupdate.update.trials import Trials
from abupdate.update.write import fill, read_back

_WRITE_OPTIONS = "rw,nosuid,nodev,noexec,noatime"
_READ_OPTIONS = "ro,noload,nosuid,nodev,noexec,noatime"


@dataclass(frozen=True)
class Installed:
    """What an install did. `audited`: what the slot held was looked at; `seconds` by step.

    `downgrade_from`: the newer release that ran. `etc`: what became of the owner's changes.
    """

    slot: Slot
    release: str
    commit: str
    signer: str
    armed: bool
    written: Written
    audited: bool
    transferred: int
    downgrade_from: str | None
    etc: Carried | None
    seconds: dict[str, float]


def install(
    machine: Machine,
    sources: Sequence[Source],
    settings: Settings,
    events: Events,
    *,
    slot: Slot | None = None,
    arm: bool = True,
    full_verify: bool | None = None,
    retry_failed: bool = False,
    allow_downgrade: bool = False,
    interactive: bool = False,
) -> Installed:
    """Install a release from the first source that gives it into the other slot, and arm it.

    What was written is read back from the device; with `full_verify` (default:
    as `install.verify` says) all of the slot is. `slot`: which, where rescue runs.
    A release that this device gave up is refused without `retry_failed`, an older one
    than what runs without `allow_downgrade`. `interactive`: a person gets a shell where
    a fixup or hook failed. Raises an `AbupdateError`; the booted slot then stays
    what boots next.
    """
    require_root()
    with job(machine.paths.runtime, "install"):
        booted, slot, partition = target(machine, slot)
        work = _Work(machine, booted, slot, partition.device, events)

        def accept(found: Examined) -> None:
            content, repository = found.content, found.candidate.repository
            if not retry_failed:
                refuse_failed(machine, content.commit)
            with events.step("plan", "Find what differs"):
                work.prepared = prepare(machine, slot, partition, content, repository)
            if not found.candidate.checked:
                with events.step("check-store", "Check its files in the store"):
                    check_files(repository, work.prepared.plan, events)

        release = admit(machine, sources, settings, accept, events, allow_downgrade=allow_downgrade)
        refuse_running(machine, booted, release.commit)
        if full_verify is None:
            full_verify = settings.install.verify == "full"
        timeout = settings.hooks.timeout
        hooks = Hooks(machine, slot, release, events, timeout, interactive)
        try:
            hooks.before()
            written = _write(work, release, hooks, settings, full_verify)
            with unstoppable():
                if arm:
                    with events.step("arm", f"Arm slot {slot}"):
                        arming.arm(machine, slot, events)
                else:
                    _close_unarmed(machine)
                done = Installed(
                    slot=slot,
                    release=str(release.version),
                    commit=release.commit,
                    signer=release.signer,
                    armed=arm,
                    written=written,
                    audited=work.audited,
                    transferred=release.transferred,
                    downgrade_from=str(release.downgrade_from) if release.downgrade_from else None,
                    etc=work.etc,
                    seconds={name: round(value, 3) for name, value in events.seconds.items()},
                )
                _tell_success(machine, done, release.source, events)
        except (AbupdateError, OSError, MemoryError) as error:
            fault = error if isinstance(error, AbupdateError) else fault_of(error)
            _tell_failure(machine, slot, release, fault, events)
            raise
        return done


@dataclass
class _Work:
    """One install's slot, and what was found out for it before anything is written."""

    machine: Machine
    booted: Booted
    slot: Slot
    device: Path
    events: Events
    prepared: Prepared | None = None
    audited: bool = False
    outputs: Outputs = NOTHING
    etc: Carried | None = None


def _write(
    work: _Work, release: Release, hooks: Hooks, settings: Settings, full_verify: bool
) -> Written:
    """Everything between the trusted release and the complete slot, in its order."""
    machine, slot, device, events = work.machine, work.slot, work.device, work.events
    filesystem.refuse_if_in_use(device)  # again: a download and hooks may have taken an hour
    make_room(machine, machine.boot_state(), events)
    _record_intent(machine, work.booted, slot, release)
    with events.step("begin", f"Take slot {slot} out of use"):
        _begin(machine, work.booted, slot)
        ready = work.prepared
        # Still: nobody wrote to it since the plan was made.
        proven = ready is not None and ready.proven and bool(proven_base(machine, slot, device))
        _record_slot(machine, slot, SlotState.WRITING, release)
        unfit = ready is not None and ready.unfit
        empty = _relabel_unfinished(device, slot, machine.mountpoint, unfit)
    # The plan is for what the record proves, or else for an empty slot.
    planned = ready.plan if ready is not None and ready.proven == proven != empty else None
    with events.step("write", f"Write release {release.version}"):
        plan, written = _materialise(work, release, hooks, planned)
        work.audited = plan is not planned
    with events.step("verify", "Read it back from the disk"):
        _read_back(work, plan, full_verify)
    hooks.after(device)
    with events.step("etc", "Carry /etc changes over"):
        version = str(release.version)
        work.etc = etc.carry_over(
            machine, work.booted.slot, slot, device, version, settings, events
        )
    with events.step("mark", f"Mark slot {slot} complete"):
        filesystem.relabel(device, slot.label, fresh_uuid=True)
        failpoint("label-restored")
        machine.records.write_outputs(slot, work.outputs)
        _record_slot(machine, slot, SlotState.CLEAN, release, device, work.outputs)
        failpoint("slot-recorded")
    return written


def _record_intent(machine: Machine, booted: Booted, slot: Slot, release: Release) -> None:
    running = machine.records.slot(booted.slot) if booted.slot else None
    machine.records.write_intent(
        Intent(
            slot=slot,
            release=str(release.version),
            commit=release.commit,
            from_slot=booted.name,
            from_release=running.release if running else None,
            started=now(),
        )
    )
    Trials(machine.paths.state).forget(release.commit)
    failpoint("intent-recorded")


def _begin(machine: Machine, booted: Booted, slot: Slot) -> None:
    begun = boot.begin(machine.boot_state(), slot, booted.name)
    machine.grubenv().write(begun, backup_first=True)
    failpoint("begun")


def _relabel_unfinished(device: Path, slot: Slot, mountpoint: Path, unfit: bool) -> bool:
    """The label is the commit mark: gone before the first byte of content changes.

    Whether a new, empty filesystem had to be made.
    """
    label = slot.unfinished_label
    try:
        usable = filesystem.read_superblock(device) is not None
        if usable:
            filesystem.relabel(device, label)
            usable = not unfit and filesystem.repair(device)
        if usable:
            # A sound ext4 may still have features that this kernel does not know.
            with filesystem.mounted(device, mountpoint, _WRITE_OPTIONS):
                pass
    except ProgramError:
        usable = False
    if not usable:
        filesystem.make(device, label)
    failpoint("slot-relabelled")
    return not usable


def _materialise(
    work: _Work, release: Release, hooks: Hooks, plan: Plan | None
) -> tuple[Plan, Written]:
    """What is planned, in the mounted slot; then it is unmounted, flushed and checked."""
    device = work.device
    with filesystem.mounted(device, work.machine.mountpoint, _WRITE_OPTIONS) as target:
        failpoint("slot-mounted")
        filled = fill(work.machine.store(), target, release, plan, hooks, work.events)
        work.outputs = filled.outputs
    failpoint("unmounted")
    filesystem.flush(device)
    filesystem.drop_cache(device)
    failpoint("cache-dropped")
    filesystem.check(device)
    failpoint("checked")
    return filled.plan, filled.written


def _read_back(work: _Work, plan: Plan, full: bool) -> None:
    filesystem.drop_cache(work.device)
    with filesystem.mounted(work.device, work.machine.mountpoint, _READ_OPTIONS) as mountpoint:
        read_back(mountpoint, plan, work.outputs, work.events, full=full)
    failpoint("read-back")


def _record_slot(
    machine: Machine,
    slot: Slot,
    state: SlotState,
    release: Release,
    device: Path | None = None,
    outputs: Outputs = NOTHING,
) -> None:
    superblock = filesystem.read_superblock(device) if device else None
    if device is not None and superblock is None:
        raise DeviceFaultError(
            f"{device} should hold the filesystem that was just verified, and it cannot be read.",
            "The slot stays unarmed; the disk may be failing.",
        )
    machine.records.write_slot(
        SlotRecord(
            slot=slot,
            state=state,
            release=str(release.version),
            commit=release.commit,
            manifest_sha256=release.manifest_sha256,
            tag=release.tag,
            signer=release.signer,
            uuid=superblock.uuid if superblock else None,
            superblock=superblock.fingerprint if superblock else None,
            outputs=outputs.digest,
            written=now(),
        )
    )


def _close_unarmed(machine: Machine) -> None:
    intent = machine.records.intent()
    assert intent is not None
    machine.records.write_intent(replace(intent, outcome="not armed"))


def _tell_success(machine: Machine, done: Installed, source: str, events: Events) -> None:
    detail = {
        "commit": done.commit,
        "signer": done.signer,
        "source": source,
        "armed": done.armed,
        "transferred": done.transferred,
        "downgrade_from": done.downgrade_from,
        "written": asdict(done.written),
        "audited": done.audited,
        "seconds": done.seconds,
    }
    entry = HistoryEntry("installed", now(), done.release, done.slot, detail)
    attempt_note(lambda: machine.records.append(entry), events.warning, "history")


def _tell_failure(
    machine: Machine, slot: Slot, release: Release, error: AbupdateError, events: Events
) -> None:
    entry = HistoryEntry(
        "install-failed", now(), str(release.version), slot, {"error": error.message}
    )
    attempt_note(lambda: machine.records.append(entry), events.warning, "history")
