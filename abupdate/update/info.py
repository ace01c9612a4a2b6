"""What is in a release, and what an install of it would do here; nothing is kept or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.errors import (
    AbupdateError,
    DeviceFaultError,
    ExitCode,
    NotTrustedError,
    SourceError,
)
from abupdate.events import Events
from abupdate.release.difference import Differences, differences
from abupdate.source.source import Source
from abupdate.store.content import open_commit
from abupdate.store.manifest import tree_digest
from abupdate.update.admit import Examined, check_policy, examined
from abupdate.update.job import job
from abupdate.update.prepare import needed, prepare, refuse_failed, refuse_running
from abupdate.update.slots import Booted, Machine, other_partition, require_root
from abupdate.update.target import target

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Info:
    """A release whose signature is good. Sizes in bytes, times in seconds since the epoch.

    `needs`: releases (or commits) that the bundle is a delta to. `slot` is where
    it would go, `capacity` the bytes that have room there; `write` and `write_files`
    what would be written there, `kept` the paths that stay, `removed` those that
    go with all below them: None when the slot would be looked at first. `changes` is
    what differs from the release that runs, which is `running`; None where the store has
    not got that. `refused` says why this device does not take it, `exit_code` what an
    install would end with.
    """

    schema_version: int
    release: str
    compatible: str
    commit: str
    manifest_sha256: str
    tree_digest: str
    signer: str
    signed: int
    created: int
    floor: str | None
    min_from: str | None
    needs: tuple[str, ...]
    transferred: int
    bytes: int
    inodes: int
    slot: Slot | None
    write: int | None
    write_files: int | None
    kept: int | None
    removed: int | None
    capacity: int | None
    running: str | None
    changes: Differences | None
    refused: str | None
    exit_code: int


def inspect(
    machine: Machine,
    sources: Sequence[Source],
    settings: Settings,
    events: Events,
    *,
    retry_failed: bool = False,
    allow_downgrade: bool = False,
) -> Info:
    """Read a release as an install with these options would.

    Raises `SourceError`, `NotTrustedError`.
    """
    require_root()
    with job(machine.paths.runtime, "info"), examined(machine, sources, settings, events) as found:
        verified, stated = found.verified, found.stated
        need = needed(found.content)
        slot = partition = plan = refused = running = changes = None
        code = ExitCode.OK
        try:
            check_policy(machine, settings, found, allow_downgrade=allow_downgrade)
            booted = machine.booted()
            running, changes = _changes(machine, booted, found)
            if booted.slot is not None:
                slot = booted.slot.other
                partition = other_partition(booted, slot)
                refuse_running(machine, booted, found.content.commit)
                if not retry_failed:
                    refuse_failed(machine, found.content.commit)
                repository = found.candidate.repository
                ready = prepare(machine, slot, partition, found.content, repository)
                plan = ready.plan if ready.proven else None
                target(machine)
        except AbupdateError as error:
            refused, code = error.message, error.exit_code
        return Info(
            schema_version=SCHEMA_VERSION,
            release=str(verified.version),
            compatible=verified.compatible,
            commit=verified.commit,
            manifest_sha256=verified.manifest_sha256,
            tree_digest=tree_digest(found.content.entries()),
            signer=verified.signers,
            signed=verified.tagger_time,
            created=stated.created,
            floor=str(stated.floor) if stated.floor else None,
            min_from=str(stated.min_from) if stated.min_from else None,
            needs=found.candidate.needs,
            transferred=found.candidate.transferred,
            bytes=need.bytes,
            inodes=need.inodes,
            slot=slot,
            write=plan.size if plan is not None else None,
            write_files=len(plan.files) if plan is not None else None,
            kept=plan.kept if plan is not None else None,
            removed=len(plan.remove) if plan is not None else None,
            capacity=partition.size * 95 // 100 if partition is not None else None,
            running=running,
            changes=changes,
            refused=refused,
            exit_code=code,
        )


def _changes(
    machine: Machine, booted: Booted, found: Examined
) -> tuple[str | None, Differences | None]:
    """The release that runs, and what this one changes of it."""
    record = machine.records.slot(booted.slot) if booted.slot is not None else None
    if record is None or record.commit is None or record.commit == found.content.commit:
        return None, None
    content = found.content
    try:
        # A git of its own: it ends where the store has lost some of the old release.
        with open_commit(
            found.candidate.repository, content.commit, content.manifest_sha256
        ) as new:
            return record.release, differences(new.beside(record.commit), new)
    except (NotTrustedError, DeviceFaultError, SourceError):
        return record.release, None
