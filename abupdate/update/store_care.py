"""The store over the years: which releases it keeps and why, whether they are whole, and room.

It keeps what the slots hold, what an install that is not over wants, and as many of
the newest ones besides as `store.keep` says; `prune` drops the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from abupdate.bundle.candidate import cosignatures, signed_releases
from abupdate.disk.layout import Slot
from abupdate.errors import AbupdateError, ContentDiffersError, ProgramError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.tag import MAX_TAG, SignedTag, parse_tag
from abupdate.release.version import Version
from abupdate.store import packs
from abupdate.store.content import open_commit
from abupdate.store.repository import Repository
from abupdate.update.job import job, signals_raise
from abupdate.update.records import HistoryEntry, now, replace_file
from abupdate.update.slots import Machine, attempt_note, require_root, require_store

# More packs than that make each look into the store slower.
MAX_PACKS = 8
_FSCK_SECONDS = 3 * 3600.0


@dataclass(frozen=True)
class Stored:
    """A release of the store. `wanted_by`: what keeps it; nothing: `prune` drops it.

    `commit` and `signed` (seconds since the epoch) are None where its tag is damaged.
    """

    release: str
    commit: str | None
    signed: int | None
    wanted_by: tuple[str, ...]


@dataclass(frozen=True)
class Pruned:
    """What was dropped, and the store's packs before and after."""

    dropped: tuple[str, ...]
    before: packs.Packs
    after: packs.Packs


def contents(machine: Machine, keep: int) -> list[Stored]:
    """The releases of the store, the highest version first. Nothing is verified."""
    require_store(machine)
    found = sorted(_tags(machine.store()), key=lambda one: one[0], reverse=True)
    wanted = _wanted(machine)
    listed, more = [], keep
    for version, tag in found:
        # By its version where its tag is damaged: what a slot holds stays.
        reasons = wanted.get(tag.commit if tag is not None else str(version), ())
        if not reasons and tag is not None and more > 0:
            more -= 1
            reasons = ("store.keep",)
        listed.append(
            Stored(
                release=str(version),
                commit=tag.commit if tag is not None else None,
                signed=tag.tagger_time if tag is not None else None,
                wanted_by=reasons,
            )
        )
    return listed


def check(machine: Machine, events: Events) -> list[Stored]:
    """Hash every object of the store. Raises `ContentDiffersError` where one is wrong or missing.

    Gives the releases, all of which are whole then.
    """
    require_root()
    with job(machine.paths.runtime, "store check"):
        listed, faults = _faults(machine, events)
        noted = damage_note(machine)
        if faults:
            told = "; ".join(faults)
            attempt_note(lambda: replace_file(noted, f"{told}\n".encode()), events.warning, "note")
            raise ContentDiffersError(
                f"The store should hold every object of its releases, but {told}",
                "`abupdate doctor --repair --from SOURCE` fetches it again.",
            )
        noted.unlink(missing_ok=True)
        return listed


def damage_note(machine: Machine) -> Path:
    """Where the last check has noted what it found, for `abupdate doctor`, which hashes nothing."""
    return machine.paths.state / "store-damage"


def find_faults(machine: Machine, events: Events) -> list[str]:
    """What `check` would say, in words; the caller holds the lock."""
    return _faults(machine, events)[1]


def _faults(machine: Machine, events: Events) -> tuple[list[Stored], list[str]]:
    listed = contents(machine, keep=0)
    store = machine.store()
    faults = []
    with events.step("check", "Look at all objects"):
        try:
            store.git("fsck", "--full", "--strict", "--no-dangling", timeout=_FSCK_SECONDS)
        except ProgramError as error:
            faults.append(error.stderr.strip() or error.message)
    for one in listed:
        with events.step("check-release", f"Hash release {one.release}"):
            if one.commit is None:
                faults.append(f"the tag of release {one.release} is damaged")
                continue
            try:
                with open_commit(store, one.commit) as content:
                    content.hash_all()
            except AbupdateError as error:
                faults.append(f"release {one.release}: {error.message}")
    return listed, faults


def prune(machine: Machine, keep: int, events: Events) -> Pruned:
    """Drop the releases that nothing wants, and make one pack of the rest.

    Right again from any point. Raises `NoSpaceError` before anything is dropped.
    """
    require_root()
    with job(machine.paths.runtime, "store prune"):
        listed = contents(machine, keep)
        store = machine.store()
        packs.clear_leftovers(store)
        before = packs.count(store)
        dropped = [one.release for one in listed if not one.wanted_by]
        # Also what no ref tells any more, for a slot holds it.
        wanted = [name for name in _wanted(machine) if store.kind(name) == "commit"]
        with events.step("prune", "Drop what nothing needs"):
            if dropped:
                gone = [
                    f"{Version(release).ref}{more}" for release in dropped for more in ("", "+*")
                ]
                packs.require_room(store, wanted, without=gone)
                # Until the packs are made anew; a rerun sees it, though no ref tells any more.
                store.as_owner("touch", store.path / _PENDING)
            for release in dropped:
                version = Version(release)
                for signer in cosignatures(store, version):
                    store.delete_ref(f"{version.ref}+{signer}")
                store.delete_ref(version.ref)
            if dropped:
                entry = HistoryEntry("pruned", now(), detail={"dropped": dropped})
                attempt_note(lambda: machine.records.append(entry), events.warning, "history")
            failpoint("refs-dropped")
            if (store.path / _PENDING).exists() or before.count > MAX_PACKS:
                packs.repack(store, wanted)
                failpoint("repacked")
                store.as_owner("rm", "-f", "--", store.path / _PENDING)
        return Pruned(tuple(dropped), before, packs.count(store))


def serve(machine: Machine, address: str, port: int) -> None:
    """Offer the store to neighbours for reading, until this is stopped.

    It needs no lock: a release is there once its ref is, and what is dropped while a
    neighbour fetches it fails there.
    """
    require_root()
    require_store(machine)
    with signals_raise():
        machine.store().serve(address, port)


_PENDING = "abupdate-prune"


def _wanted(machine: Machine) -> dict[str, tuple[str, ...]]:
    """Commit, and the version that it has on record → what wants it."""
    wanted: dict[str, tuple[str, ...]] = {}
    for slot in Slot:
        record = machine.records.slot(slot)
        if record is not None:
            for name in (record.commit, record.release):
                wanted[name] = (*wanted.get(name, ()), f"slot {slot}")
    intent = machine.records.intent()
    if intent is not None and intent.outcome is None and intent.commit not in wanted:
        wanted[intent.commit] = ("the last install",)
    return wanted


def _tags(store: Repository) -> Iterator[tuple[Version, SignedTag | None]]:
    for version, oid in signed_releases(store).items():
        try:
            with store.reader() as reader:
                yield version, parse_tag(reader.read(oid, "tag", MAX_TAG), version)
        except AbupdateError:
            yield version, None
