"""A store that is whole again: what is sound stays, what is not is fetched again.

git never replaces an object that it has, damaged or not, so a damaged store is made anew beside
the old one:

    store.git → store.git.old;  an empty store.git;  each release of the old one that is whole is
    copied, others come from the sources, by the road of every release (update/admit.py);
    store.git.old → store.git.gone, which is deleted.

While `store.git.old` is there, that one counts: a run that was cut is undone by the next one
(`set_back`), which begins again. Slots, records and what is trusted are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from abupdate.bundle.candidate import Signed, cosignatures, signed_releases
from abupdate.config import Settings
from abupdate.disk.layout import Slot
from abupdate.doctor.diagnose_store import gone_store, old_store
from abupdate.errors import (
    AbupdateError,
    InterruptedByUserError,
    RefusedError,
    SourceError,
    TerminatedError,
    UsageError,
)
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.tag import MAX_TAG, parse_tag
from abupdate.release.version import Version
from abupdate.run import run
from abupdate.signing.signature import Verified
from abupdate.source.name import parse_source
from abupdate.store.content import open_commit
from abupdate.store.repository import Repository
from abupdate.update import trust
from abupdate.update.admit import examined
from abupdate.update.slots import Machine
from abupdate.update.store_care import damage_note, find_faults

_SHA1_DIGITS = 40
_BOOTED = "refs/tags/booted-"


@dataclass(frozen=True)
class Wanted:
    """A release that the store should have. `tag` is empty where nobody signed it.

    `slot`: the one that holds it.
    """

    version: Version
    commit: str
    tag: str
    slot: str | None

    def __str__(self) -> str:
        return f"{self.version} of slot {self.slot}" if self.slot else str(self.version)


# --- A store that git can read ---


def make_readable(machine: Machine) -> str:
    """Make an empty store where there is none; one that git cannot read gets its own files anew.

    Objects and refs stay. Done again it is right from any point: until git can read the store,
    it is found again.
    """
    set_back(machine)
    path = machine.paths.state / "store.git"
    new = not path.is_dir()
    store = _made(machine, path)
    store.refs("refs/")
    return f"{path} is {'there, and empty' if new else 'a store that git can read'} again."


def _made(machine: Machine, path: Path) -> Repository:
    if not path.is_dir():
        path.mkdir(parents=True)
        _give(machine, path)
    store = Repository(path, machine.sandbox)
    store.as_owner("rm", "-f", "--", path / "HEAD", path / "config")
    store = Repository.create(path, object_format=_format(machine), sandbox=machine.sandbox)
    store.as_owner("sync", "-f", path)
    failpoint("store-made")
    return store


def _give(machine: Machine, path: Path) -> None:
    if machine.sandbox is not None:
        run(["chown", f"{machine.sandbox.user}:{machine.sandbox.user}", path])


def _format(machine: Machine) -> str:
    records = [machine.records.slot(slot) for slot in Slot]
    short = any(one is not None and len(one.commit) == _SHA1_DIGITS for one in records)
    return "sha1" if short else "sha256"


def set_back(machine: Machine) -> None:
    """Undo a run that was cut, and delete what one has left."""
    old, path = old_store(machine), machine.paths.state / "store.git"
    if old.is_dir():
        _delete(machine, path)
        old.rename(path)
    _delete(machine, gone_store(machine.store()))


def _delete(machine: Machine, path: Path) -> None:
    """What is in it as its owner; the folder, which lies in one of root's, as root."""
    if path.is_dir():
        if inside := list(path.iterdir()):
            Repository(path, machine.sandbox).as_owner("rm", "-rf", "--", *inside)
        path.rmdir()


# --- Releases again ---


def refetch(machine: Machine, settings: Settings, sources: Sequence[str], events: Events) -> str:
    """Have the store hold whole what the slots hold, and nothing that is damaged.

    What no slot holds, is damaged, and does not come from the sources, is dropped. Raises
    `SourceError` where what a slot holds cannot be had, and nothing more than before is whole.
    """
    set_back(machine)
    wanted = list(_inventory(machine))
    faults = find_faults(machine, events)
    lacking = [one for one in wanted if not _is_whole(machine.store(), one)]
    if any(one.slot for one in lacking) and not sources:
        raise RefusedError(
            f"What {_list([one for one in lacking if one.slot])} consists of should be in the "
            "store, and is not, or is damaged; nothing here has it.",
            "Say where to fetch it: abupdate doctor --repair --from SOURCE (a bundle, an address, "
            "or REMOTE# for a git repository). Both slots boot as before.",
        )
    if not faults:
        damage_note(machine).unlink(missing_ok=True)  # an install has brought it meanwhile
        came, failed = _fetch(machine, settings, sources, lacking, events)
        return _told(machine, came, [], failed)
    return _anew(machine, settings, sources, wanted, lacking, events)


def _anew(
    machine: Machine,
    settings: Settings,
    sources: Sequence[str],
    wanted: list[Wanted],
    lacking: list[Wanted],
    events: Events,
) -> str:
    path, old = machine.paths.state / "store.git", old_store(machine)
    path.rename(old)
    failpoint("store-set-aside")
    try:
        store, source = _made(machine, path), Repository(old, machine.sandbox)
        for one in wanted:
            if one not in lacking:
                with events.step("copy", f"Keep release {one.version}"):
                    _copy(source, store, one, settings)
        came, failed = _fetch(machine, settings, sources, lacking, events)
        missing = [one for one in lacking if one not in came]
        if any(one.slot for one in missing) and not came:
            raise SourceError(
                f"{_list(missing)} could not be fetched: {'; '.join(failed)}.",
                "The store is as it was.",
            )
        _copy_boots(source, store)
        store.as_owner("sync", "-f", path)
    except BaseException:
        set_back(machine)
        raise
    old.rename(gone_store(machine.store()))
    _delete(machine, gone_store(machine.store()))
    damage_note(machine).unlink(missing_ok=True)
    return _told(machine, came, [one for one in missing if not one.slot], failed)


def _told(machine: Machine, came: list[Wanted], dropped: list[Wanted], failed: list[str]) -> str:
    left = [one for one in _inventory(machine) if not _is_whole(machine.store(), one)]
    if left:
        raise SourceError(
            f"{_list(left)} could not be fetched: {'; '.join(failed) or 'no source has it'}.",
            f"{_list(came)} came." if came else None,
        )
    told = f"Fetched again: {_list(came)}. " if came else ""
    told += f"Dropped, for no slot holds it: {_list(dropped)}. " if dropped else ""
    return f"{told}All that the store holds is whole."


def _inventory(machine: Machine) -> Iterator[Wanted]:
    """What the slots hold, and all other releases that the store can tell of."""
    store, held = machine.store(), set()
    for slot in Slot:
        record = machine.records.slot(slot)
        if record is None:
            continue
        try:
            version = Version.parse(record.release)
        except UsageError:
            continue
        if version not in held:
            held.add(version)
            yield Wanted(version, record.commit, record.tag, str(slot))
    for version, oid in signed_releases(store).items():
        if version in held:
            continue
        try:
            with store.reader() as reader:
                commit = parse_tag(reader.read(oid, "tag", MAX_TAG), version).commit
        except AbupdateError:
            commit = ""
        yield Wanted(version, commit, oid, None)


def _is_whole(store: Repository, one: Wanted) -> bool:
    try:
        if one.tag:
            with store.reader() as reader:
                reader.read(one.tag, "tag", MAX_TAG)
        with open_commit(store, one.commit) as content:
            content.hash_all()
    except AbupdateError as error:
        _reraise_stop(error)
        return False
    return bool(one.commit)


def _copy(source: Repository, store: Repository, one: Wanted, settings: Settings) -> None:
    more = cosignatures(source, one.version) if one.tag else {}
    tags = [oid for oid in (one.tag, *more.values()) if oid]
    with source.packing(tags, one.commit) as pack:
        store.index_pack(pack, settings.store.max_bundle)
    if one.tag:
        store.set_ref(one.version.ref, one.tag)
    for signer, oid in more.items():
        store.set_ref(f"{one.version.ref}+{signer}", oid)


def _copy_boots(source: Repository, store: Repository) -> None:
    """The tags of confirmed boots whose releases stay."""
    boots = source.refs("refs/tags/")
    kinds = store.kinds(boots.values())
    for ref, oid in boots.items():
        if ref.startswith(_BOOTED) and kinds[oid] == "commit":
            store.set_ref(ref, oid)


def _fetch(
    machine: Machine,
    settings: Settings,
    sources: Sequence[str],
    lacking: Sequence[Wanted],
    events: Events,
) -> tuple[list[Wanted], list[str]]:
    """What came of what is lacking, and why other attempts failed."""
    came: list[Wanted] = []
    failed: list[str] = []
    for text in sources:
        left = [one for one in lacking if one not in came and one.commit]
        for name in [f"{text}{one.version.tag}" for one in left] if text.endswith("#") else [text]:
            try:
                came += _receive(machine, settings, name, left, events)
            except AbupdateError as error:
                _reraise_stop(error)
                failed.append(f"{name}: {error.message}")
    return came, failed


def _receive(
    machine: Machine, settings: Settings, name: str, left: list[Wanted], events: Events
) -> list[Wanted]:
    """One release, believed as any other, which must be one that is lacking."""

    def early(verified: Verified) -> None:
        if not _same(left, verified.version, verified.commit):
            raise RefusedError(
                f"{_list(left)} should come from there, found release {verified.version} "
                f"({verified.commit[:12]}).",
                "Give the very releases that are missing.",
            )

    with examined(machine, [parse_source(name)], settings, events, early) as found:
        candidate, verified = found.candidate, found.verified
        if not isinstance(candidate, Signed):
            raise RefusedError("Nobody has signed that.", "Give a release.")
        there = candidate.cosigned
        candidate.cosigned = {one: there[one] for one in verified.cosigners if one in there}
        candidate.join()
        trust.remember_signature(machine.paths, verified.tagger_time)
    failpoint("store-fetched")
    return _same(left, verified.version, verified.commit)


def _same(left: Sequence[Wanted], version: Version, commit: str) -> list[Wanted]:
    return [one for one in left if (one.version, one.commit) == (version, commit)]


def _reraise_stop(error: AbupdateError) -> None:
    if isinstance(error, (InterruptedByUserError, TerminatedError)):
        raise error


def _list(releases: Sequence[Wanted]) -> str:
    return " and ".join(f"release {one}" for one in releases)
