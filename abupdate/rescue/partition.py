"""Replace the rescue system: the one job that writes its partition.

A rescue system is a release of a product of its own (`COMPATIBLE:rescue`), with versions, a
floor and a store of its own; the keys and revocations are the device's. From the first byte to
the last the partition's label is `newR`, by which GRUB finds nothing: whoever loses power then
has the two slots, and runs the command again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from abupdate.config import Settings
from abupdate.disk import filesystem
from abupdate.disk.layout import RESCUE, UNFINISHED_RESCUE, Partition
from abupdate.errors import NoSpaceError, NothingToDoError, RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.version import Version
from abupdate.rescue.release import product, refuse_unfit
from abupdate.rescue.store import ensure_store
from abupdate.source.source import Source
from abupdate.update import trust
from abupdate.update.admit import Examined, Release, admit
from abupdate.update.job import job
from abupdate.update.prepare import needed
from abupdate.update.records import HistoryEntry, SlotRecord, SlotState, now
from abupdate.update.slots import Booted, Machine, attempt_note, require_root
from abupdate.update.write import fill, read_back

_WRITE_OPTIONS = "rw,nosuid,nodev,noexec,noatime"
_READ_OPTIONS = "ro,noload,nosuid,nodev,noexec,noatime"


@dataclass(frozen=True)
class Replaced:
    """What the rescue partition holds now. `before`: the release that it held, if that is known."""

    release: str
    commit: str
    signer: str
    before: str | None


def replace_rescue(
    machine: Machine,
    sources: Sequence[Source],
    settings: Settings,
    events: Events,
    *,
    allow_downgrade: bool = False,
) -> Replaced:
    """Write a rescue system from the first source that gives one. Raises an `AbupdateError`.

    Refused unless a slot that is confirmed stands in for it meanwhile.
    """
    require_root()
    with job(machine.paths.runtime, "rescue update"):
        booted = machine.booted()
        partition = _partition(booted)
        _refuse_unsafe(machine, booted)
        machine.unmount_leftovers()
        filesystem.refuse_if_in_use(partition.device)
        own = replace(machine, paths=machine.paths.of_rescue())
        ensure_store(own)
        known = machine.records.rescue()
        complete = known is not None and known.state == SlotState.CLEAN
        held = known if complete and partition.label == RESCUE else None

        def accept(found: Examined) -> None:
            _refuse_unfit(found, partition, known, allow_downgrade=allow_downgrade)

        device = settings.device.model_copy(
            update={"compatible": product(settings.device.compatible)}
        )
        asked = settings.model_copy(update={"device": device})
        release = admit(own, sources, asked, accept, events)
        if held is not None and held.commit == release.commit:
            raise NothingToDoError(f"Release {held.release} is the rescue system already.")
        _write(machine, own, partition, release, events)
        if release.floor is not None:
            trust.raise_floor(own.paths, release.floor)
        entry = HistoryEntry(
            "rescue-updated", now(), str(release.version), None,
            {"commit": release.commit, "signer": release.signer},
        )  # fmt: skip
        attempt_note(lambda: machine.records.append(entry), events.warning, "history")
        return Replaced(
            str(release.version), release.commit, release.signer, known.release if known else None
        )


def _partition(booted: Booted) -> Partition:
    found = booted.disk.find(RESCUE)
    if found is None:
        raise RefusedError(
            f"{booted.disk.device} has no partition named '{RESCUE}'.",
            "A device gets one when it is provisioned; see docs/provision.md.",
        )
    strangers = [part for part in booted.disk.labelled(RESCUE) if part != found]
    if strangers:
        raise RefusedError(
            f"The label '{RESCUE}' should be on {found.device} only, found it on "
            f"{strangers[0].device} too.",
            f"Give what is not abupdate's another: tune2fs -L NAME {strangers[0].device}",
        )
    if not filesystem.takes_writes(found.device):
        raise RefusedError(
            f"Not a writable boot medium: {found.device}, the rescue partition, takes no writes."
        )
    return found


def _refuse_unsafe(machine: Machine, booted: Booted) -> None:
    """While it is written, rescue is not there: a confirmed slot must be."""
    state = machine.boot_state()
    if state.on_trial:
        raise RefusedError(
            f"Slot {state.trial} is armed or on trial: until it is judged, rescue may be needed.",
            "Try again once it is confirmed.",
        )
    sound = [
        part for slot, part in booted.disk.slots().items()
        if slot in state.good and part.label == slot.label
    ]  # fmt: skip
    if not sound or (booted.slot is not None and booted.slot not in state.good):
        raise RefusedError(
            "A confirmed slot should stand in for rescue while that is written, found none.",
            "Install a release first, and let it be confirmed.",
        )


def _refuse_unfit(
    found: Examined, partition: Partition, known: SlotRecord | None, *, allow_downgrade: bool
) -> None:
    """Raise where it is older, too large, or could not do what rescue has to."""
    content, version = found.content, found.verified.version
    if known is not None and version < Version.parse(known.release) and not allow_downgrade:
        raise RefusedError(
            f"Rescue system {version} is older than {known.release}, which is there.",
            "`--allow-downgrade` takes it all the same.",
        )
    refuse_unfit(found)
    need = needed(content)
    room = partition.size * 95 // 100
    if need.bytes > room:
        raise NoSpaceError(
            f"The rescue system needs {need.bytes >> 20} MiB, and {partition.device} has "
            f"{room >> 20}.",
            "Make it smaller.",
        )


def _write(
    machine: Machine, own: Machine, partition: Partition, release: Release, events: Events
) -> None:
    """Each line may be the last before the power goes; the label comes back at the end."""
    device, point = partition.device, machine.mountpoint
    record = SlotRecord(
        slot="R",
        state=SlotState.WRITING,
        release=str(release.version),
        commit=release.commit,
        manifest_sha256=release.manifest_sha256,
        tag=release.tag,
        signer=release.signer,
        written=now(),
    )
    with events.step("begin", "Take the rescue system out of use"):
        machine.records.write_rescue(record)
        if filesystem.read_superblock(device) is not None:
            filesystem.relabel(device, UNFINISHED_RESCUE)
        failpoint("rescue-relabelled")
        filesystem.make(device, UNFINISHED_RESCUE)
    with events.step("write", f"Write release {release.version}"):
        with filesystem.mounted(device, point, _WRITE_OPTIONS) as target:
            filled = fill(own.store(), target, release, None, None, events)
        filesystem.flush(device)
        filesystem.drop_cache(device)
        failpoint("rescue-written")
    with events.step("verify", "Read it back from the disk"):
        filesystem.check(device)
        with filesystem.mounted(device, point, _READ_OPTIONS) as target:
            read_back(target, filled.plan, filled.outputs, events, full=True)
    with events.step("mark", "Mark it complete"):
        filesystem.relabel(device, RESCUE, fresh_uuid=True)
        failpoint("rescue-labelled")
        found = filesystem.read_superblock(device)
        done = replace(
            record,
            state=SlotState.CLEAN,
            uuid=found.uuid if found else None,
            superblock=found.fingerprint if found else None,
        )
        machine.records.write_rescue(done)
