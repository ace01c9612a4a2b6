"""What `doctor` sees of the store, as far as a quick look tells.

Whether it is there and its user's, whether the releases that the slots hold are in
it by name, and what a killed git or install left. No object is hashed here: that is
`abupdate store check`, which reads all of them.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from abupdate.bundle.quarantine import quarantines
from abupdate.disk.layout import Slot
from abupdate.doctor.findings import Finding, finding
from abupdate.errors import ProgramError, RefusedError, UsageError
from abupdate.release.version import Version
from abupdate.store import packs
from abupdate.store.repository import Repository
from abupdate.update.records import SlotRecord
from abupdate.update.slots import Machine, require_store
from abupdate.update.store_care import MAX_PACKS, damage_note

_SHOWN = 3
_LONGEST = 300
_REPAIR = "abupdate doctor --repair"


def store_findings(machine: Machine, obstacle: str | None, *, working: bool) -> list[Finding]:
    """All of it. `working`: a job runs, which may be writing there.

    `obstacle` is why nothing may be mended now, None when it may.
    """
    try:
        require_store(machine)
    except RefusedError as error:
        return [finding("store-missing", error.message, error.hint or "")]
    store = machine.store()
    found = list(_owner(store))
    if working:
        return found
    found += _damaged(machine, obstacle)
    found += _left(store, obstacle)
    try:
        found += _content(machine, store, obstacle)
    except ProgramError as error:
        found.append(
            finding(
                "store-unreadable",
                f"git should be able to read {store.path}, found: {error.message}",
                f"Look for errors of the disk in the kernel's log. {_REPAIR} makes git's own files "
                "anew.",
            )
        )
    return found


def _damaged(machine: Machine, obstacle: str | None) -> Iterator[Finding]:
    """What the last `store check` noted, or a repair that was cut: nothing is hashed here."""
    note, old = damage_note(machine), old_store(machine)
    found = ""
    with suppress(OSError):
        found = " ".join(note.read_text(errors="replace").split())[:_LONGEST]
    if old.is_dir():
        found = f"{old}: a repair of it was cut"
    if found:
        yield finding(
            "store-damaged",
            f"The store should hold every object of its releases, found: {found}.",
            obstacle or f"{_REPAIR} --from SOURCE keeps what is whole, and fetches the rest again.",
            repairable=obstacle is None,
        )


def lost_refs(machine: Machine) -> dict[str, str]:
    """Ref → tag of each release that a slot holds, whose tag is in the store without its ref.

    Raises `ProgramError`.
    """
    store, held = machine.store(), _held(machine)
    refs = store.refs("refs/tags/release/")
    lost = {ref: record.tag for ref, record in held.items() if record.tag and ref not in refs}
    kinds = store.kinds(lost.values())
    return {ref: tag for ref, tag in lost.items() if kinds[tag] == "tag"}


def old_store(machine: Machine) -> Path:
    """What a repair that was cut has set aside."""
    return machine.paths.state / "store.git.old"


def gone_store(store: Repository) -> Path:
    """What a repair that was cut was about to delete."""
    return store.path.with_name("store.git.gone")


def _owner(store: Repository) -> Iterator[Finding]:
    """git runs as the store's user, and can neither read nor replace what is another's."""
    if store.sandbox is None:
        return
    user, top = store.sandbox.user, store.path
    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        yield finding(
            "store-owner",
            f"{top} should belong to the user {user}, found no such user.",
            "Install the package that brings it, in the next release.",
        )
        return
    looked = [top, *top.glob("*"), *top.glob("objects/*"), *top.glob("objects/pack/*")]
    foreign = [path for path in [*looked, *top.rglob("refs/**/*")] if _uid(path) not in (uid, None)]
    if foreign:
        yield finding(
            "store-owner",
            f"{top} should belong to the user {user}, found others as the owners of "
            f"{_names(foreign)}.",
            f"chown --recursive --no-dereference {user}: {top}",
        )


def _left(store: Repository, obstacle: str | None) -> Iterator[Finding]:
    gone = gone_store(store)
    left = [*packs.leftovers(store), *quarantines(store), *([gone] if gone.is_dir() else [])]
    if left:
        yield finding(
            "store-leftovers",
            f"No job runs, and nothing half done should be there, found {_names(left)}.",
            obstacle or f"{_REPAIR} removes it.",
            repairable=obstacle is None,
        )
    torn = packs.torn_refs(store)
    if torn:
        yield finding(
            "store-ref-broken",
            f"Each ref should name an object, found no name in {_names(torn)}.",
            obstacle or f"{_REPAIR} removes it, and names what a slot holds again.",
            repairable=obstacle is None,
        )
    count = packs.count(store).count
    if count > MAX_PACKS:
        yield finding(
            "store-packs",
            f"{store.path} should have {MAX_PACKS} packs at most, found {count}: each makes "
            "every look into it slower.",
            "Make one of them: abupdate store prune",
        )


def _content(machine: Machine, store: Repository, obstacle: str | None) -> Iterator[Finding]:
    refs, held = store.refs("refs/"), _held(machine)
    records = held.values()
    kinds = store.kinds(
        [*refs.values(), *(name for one in records for name in (one.commit, one.tag) if name)]
    )
    for name, oid in refs.items():
        if kinds[oid] is None:
            yield finding(
                "store-ref-broken",
                f"{name} should name an object of the store, found {oid}, which is not there.",
                "abupdate store check tells what else is missing; a full bundle of that release "
                "brings it again.",
                repairable=False,
            )
    for ref, record in held.items():
        gone = [
            f"its {kind} {oid}"
            for kind, oid in (("commit", record.commit), ("tag", record.tag))
            if oid and kinds[oid] != kind
        ]
        if gone:
            yield finding(
                "store-release-missing",
                f"The store should hold release {record.release} of slot {record.slot}, found "
                f"{' and '.join(gone)} missing: no delta to it can come in.",
                "It runs all the same. Install from a full bundle next.",
            )
        elif record.tag and ref not in refs:  # what nobody has signed has neither
            yield finding(
                "store-ref-missing",
                f"{ref} should name release {record.release} of slot {record.slot}, found no such "
                "ref.",
                obstacle or f"{_REPAIR} makes it again.",
                repairable=obstacle is None,
            )


def _held(machine: Machine) -> dict[str, SlotRecord]:
    """Ref → record of the releases that the slots hold."""
    found = {}
    for slot in Slot:
        record = machine.records.slot(slot)
        if record is not None:
            with suppress(UsageError):
                found[Version.parse(record.release).ref] = record
    return found


def _uid(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:  # gone meanwhile
        return None


def _names(paths: Iterable[Path]) -> str:
    """The first ones by name, and how many more."""
    names = [str(path) for path in paths]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
