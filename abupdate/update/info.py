"""What is in a release, and what an install of it would do here; nothing is kept or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.errors import AbupdateError
from abupdate.events import Events
from abupdate.source.source import Source
from abupdate.store.manifest import tree_digest
from abupdate.update.admit import check_policy, examined
from abupdate.update.job import job
from abupdate.update.prepare import needed, prepare, refuse_failed, refuse_running
from abupdate.update.slots import Machine, other_partition, require_root

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Info:
    """A release whose signature is good. Sizes in bytes, times in seconds since the epoch.

    `needs`: releases (or commits) that the bundle is a delta to. `slot` is where
    it would go; `write` and `write_files` what would be written there, None
    when the slot would be looked at first. `refused` says why this device does
    not take it.
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
    refused: str | None


def inspect(
    machine: Machine, sources: Sequence[Source], settings: Settings, events: Events
) -> Info:
    """Read a release as an install would. Raises `SourceError`, `NotTrustedError`."""
    require_root()
    with job(machine.paths.runtime, "info"), examined(machine, sources, settings, events) as found:
        content, verified, stated = found.content, found.verified, found.stated
        need = needed(content)
        slot = write = write_files = refused = None
        try:
            check_policy(machine, settings, found)
            booted = machine.booted()
            if booted.slot is not None:
                slot = booted.slot.other
                refuse_running(machine, booted, content.commit)
                refuse_failed(machine, content.commit)
                ready = prepare(
                    machine,
                    slot,
                    other_partition(booted, slot),
                    content,
                    found.candidate.repository,
                )
                if ready.proven:
                    write, write_files = ready.plan.size, len(ready.plan.files)
        except AbupdateError as error:
            refused = error.message
        return Info(
            schema_version=SCHEMA_VERSION,
            release=str(verified.version),
            compatible=verified.compatible,
            commit=verified.commit,
            manifest_sha256=verified.manifest_sha256,
            tree_digest=tree_digest(content.entries()),
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
            write=write,
            write_files=write_files,
            refused=refused,
        )
