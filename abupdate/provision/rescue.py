"""The rescue system of a first install: another release, in a store of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.config import Settings
from abupdate.disk.filesystem import Superblock
from abupdate.errors import RefusedError
from abupdate.events import Events
from abupdate.rescue.release import product, refuse_unfit
from abupdate.rescue.store import ensure_store
from abupdate.source.local import StoredSource
from abupdate.source.source import Source
from abupdate.store.repository import Repository
from abupdate.update.admit import Release, examined, release_of
from abupdate.update.prepare import Need, needed
from abupdate.update.records import SlotRecord, SlotState
from abupdate.update.slots import Machine


@dataclass(frozen=True)
class RescueSystem:
    """A rescue system that is trusted. `store` has it; `need`: what it takes up."""

    release: Release
    store: Repository
    need: Need

    def record(self, found: Superblock, when: float) -> SlotRecord:
        """What is kept of it on data, once `found` is on its partition."""
        release = self.release
        return SlotRecord(
            slot="R",
            state=SlotState.CLEAN,
            release=str(release.version),
            commit=release.commit,
            manifest_sha256=release.manifest_sha256,
            tag=release.tag,
            signer=release.signer,
            uuid=found.uuid,
            superblock=found.fingerprint,
            written=when,
        )


@contextmanager
def received(
    machine: Machine,
    source: Source,
    compatible: str,
    intake: Path,
    settings: Settings,
    events: Events,
) -> Iterator[RescueSystem]:
    """Take a rescue system for `compatible` in. What came in lasts for the block.

    `intake`: a folder for it; where the machine's own store has it, that is used. Raises an
    `AbupdateError` where it is not trusted, for another product, or none.
    """
    paths = machine.paths
    if not isinstance(source, StoredSource):
        paths = replace(paths, data=intake / "data")
    own = replace(machine, paths=paths.of_rescue())
    if not isinstance(source, StoredSource):
        ensure_store(own)
    with examined(own, [source], settings, events) as found:
        verified = found.verified
        if verified.compatible != product(compatible):
            raise RefusedError(
                f"The rescue system should be made for '{product(compatible)}', "
                f"and is for '{verified.compatible}'.",
                "docs/rescue.md tells how one is made.",
            )
        refuse_unfit(found)
        found.candidate.join()
        yield RescueSystem(release_of(found), own.store(), needed(found.content))
