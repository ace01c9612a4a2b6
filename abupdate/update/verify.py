"""Does a slot still equal its commit? Read again, every byte, from the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from abupdate.errors import ContentDiffersError, RefusedError
from abupdate.events import Events
from abupdate.store.content import open_commit
from abupdate.store.verify import compare, describe
from abupdate.update.job import job
from abupdate.update.records import SlotRecord, SlotState
from abupdate.update.slots import Machine, require_root, require_store

_READ_OPTIONS = "ro,nosuid,nodev,noexec,noatime"


@dataclass(frozen=True)
class Verified:
    """A slot that equals its commit."""

    slot: Slot
    release: str
    commit: str


def verify_slot(machine: Machine, slot: Slot | None, events: Events) -> Verified:
    """Compare a slot (the booted one by default) with the commit of its record.

    Raises `ContentDiffersError` naming the paths that differ, `RefusedError`
    when the slot holds nothing complete.
    """
    require_root()
    require_store(machine)
    with job(machine.paths.runtime, "verify"):
        booted = machine.booted()
        wanted = slot or booted.slot
        if wanted is None:
            raise RefusedError("This is rescue: say which slot to verify, A or B.")
        partition = booted.disk.slot(wanted)
        record = machine.records.slot(wanted)
        complete = record is not None and record.state == SlotState.CLEAN
        if record is None or not complete or partition.label != wanted.label:
            found = "no record" if record is None else f"the record '{record.state}'"
            raise RefusedError(
                f"Slot {wanted} should hold a complete release, found the label "
                f"'{partition.label}' and {found} of what it holds.",
                "Install a release into it first.",
            )
        machine.unmount_leftovers()
        compare_partition(
            machine, f"slot {wanted}", partition.device, record,
            running=wanted == booted.slot, events=events,
        )  # fmt: skip
        return Verified(wanted, record.release, record.commit)


def compare_partition(
    machine: Machine,
    what: str,
    device: Path,
    record: SlotRecord,
    *,
    running: bool,
    events: Events,
) -> None:
    """Read all of a slot, or of rescue, and compare it with the commit of its record.

    `what`: "slot A", or as else it is called. `machine`: its store has the release. The caller
    holds the lock. Raises `ContentDiffersError` naming the paths that differ.
    """
    outputs = machine.records.outputs(record)
    if outputs is None:
        raise ContentDiffersError(
            f"What fixups left in {what} should be kept with the SHA-256 "
            f"{record.outputs}, found none or another: nothing can be compared with it.",
            f"Install a release into {what} again.",
        )
    # The running slot cannot be unmounted, and so is read through the cache.
    options = _READ_OPTIONS if running else f"{_READ_OPTIONS},noload"
    if not running:
        filesystem.refuse_if_in_use(device)
        filesystem.drop_cache(device)
    with (
        open_commit(machine.store(), record.commit, record.manifest_sha256) as content,
        events.step("verify", f"Read {what}"),
        filesystem.mounted(device, machine.mountpoint, options) as mountpoint,
    ):
        differences = compare(mountpoint, content, events, outputs)
    if differences:
        raise ContentDiffersError(
            f"{what[0].upper()}{what[1:]} should equal release {record.release}, but "
            f"{describe(differences)}.",
            "Install the release again into the other slot; a disk that changes what it "
            "holds is failing.",
        )
