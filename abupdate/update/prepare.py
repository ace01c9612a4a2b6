"""Before anything is written: does a release fit, what does the slot hold, what is to be done?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from abupdate.bundle.quarantine import Room
from abupdate.disk import filesystem
from abupdate.disk.layout import Partition, Slot
from abupdate.errors import (
    DeviceFaultError,
    NoSpaceError,
    NothingToDoError,
    NotTrustedError,
    RefusedError,
)
from abupdate.events import Events
from abupdate.release.fixups import fixups
from abupdate.store.content import CommitContent, open_commit, read_blobs
from abupdate.store.manifest import Kind
from abupdate.store.materialise.plan import Plan, plan_from
from abupdate.store.outputs import Outputs
from abupdate.store.repository import Repository
from abupdate.update.records import SlotState
from abupdate.update.slots import Booted, Machine

_BLOCK = 4096
_BYTES_PER_INODE = 16384  # of the filesystems that mke2fs makes


@dataclass(frozen=True)
class Need:
    """What a release takes up on a slot: bytes (whole blocks) and inodes."""

    bytes: int
    inodes: int


@dataclass(frozen=True)
class Prepared:
    """What a release needs, and the plan for it.

    `proven`: the slot is known to hold exactly what the plan starts from;
    otherwise the plan is for an empty slot.
    `unfit`: the slot needs a new filesystem, for the one that it has is smaller
    than the partition, and too small.
    """

    need: Need
    plan: Plan
    proven: bool
    unfit: bool = False


def prepare(
    machine: Machine,
    slot: Slot,
    partition: Partition,
    content: CommitContent,
    repository: Repository,
) -> Prepared:
    """Find out what an install would do. `repository`: where `content` comes from.

    Raises `NoSpaceError`, `NotTrustedError`, `SourceError` for fixups that cannot run.
    """
    need = needed(content)
    fixups(content.manifest)
    unfit = _unfit(partition, need)
    base = proven_base(machine, slot, partition.device)
    if base is None or unfit:
        return Prepared(need, plan_from(None, content), proven=False, unfit=unfit)
    commit, outputs = base
    try:
        plan = plan_from(content.beside(commit), content, outputs)
        return Prepared(need, plan, proven=True)
    except (NotTrustedError, DeviceFaultError):
        # A store that is damaged where the old release was is no reason to stop: the slot is
        # audited. Where the new one is at fault, this tells. git may have ended: a new one.
        with open_commit(repository, content.commit, content.manifest_sha256) as again:
            return Prepared(need, plan_from(None, again), proven=False)


def room(machine: Machine) -> Room | None:
    """What the largest slot of this disk can hold; None on a machine without slots (for `info`)."""
    names = {slot.label for slot in Slot}
    try:
        disk = machine.find_disk(machine.paths.root)
    except RefusedError:
        return None
    slots = [part for part in disk.partitions if part.name in names]
    if not slots:
        return None
    inodes = []
    for part in slots:
        superblock = filesystem.read_superblock(part.device)
        inodes += [superblock.inodes if superblock else 0, part.size // _BYTES_PER_INODE]
    return Room(max(part.size for part in slots), max(inodes))


def check_files(repository: Repository, plan: Plan, events: Events) -> None:
    """Hash what a plan will write while nothing is written yet: a store may have rotten.

    Raises `NotTrustedError`, `DeviceFaultError`.
    """
    files, done = plan.files, 0
    wanted = ((files[index], files.oid(index)) for index in range(len(files)))
    with repository.reader() as reader:
        for _, chunks in read_blobs(reader, wanted):
            done += sum(len(chunk) for chunk in chunks)
            events.progress(done, plan.size)


def refuse_running(machine: Machine, booted: Booted, commit: str) -> None:
    """Raise `NothingToDoError` for the release that runs."""
    record = machine.records.slot(booted.slot) if booted.slot else None
    if record is not None and record.commit == commit:
        raise NothingToDoError(f"Release {record.release} is what runs now.")


def refuse_failed(machine: Machine, commit: str) -> None:
    """Raise `RefusedError` for a release that this device gave up."""
    for failed in machine.records.failed():
        if failed.commit == commit:
            raise RefusedError(
                f"Release {failed.release} was tried here and given up: {failed.cause}.",
                "`abupdate why` tells the story; `--retry-failed` installs it all the same.",
            )


def needed(content: CommitContent) -> Need:
    """What the manifest's paths take up, from their own sizes and not from what is claimed."""
    size = inodes = 0
    for entry in content.entries():
        if entry.kind is Kind.HARDLINK:
            continue
        inodes += 1
        size += -(-(entry.size or 0) // _BLOCK) * _BLOCK if entry.kind is Kind.FILE else _BLOCK
    return Need(size, inodes)


def _unfit(partition: Partition, need: Need) -> bool:
    """Whether only a new filesystem has the bytes and inodes that a release needs.

    Raises `NoSpaceError` where not even that has them.
    """
    superblock = filesystem.read_superblock(partition.device)
    # Of a new one, 95 % can be used at most; one that fills the partition already has no less.
    most = partition.size * 95 // 100
    filled = superblock is not None and superblock.size >= most
    made = Need(
        superblock.capacity if superblock and filled else most, partition.size // _BYTES_PER_INODE
    )
    has = Need(superblock.capacity, superblock.inodes) if superblock else made
    if need.bytes <= has.bytes and need.inodes <= has.inodes:
        return False
    if need.bytes <= made.bytes and need.inodes <= made.inodes:
        return True
    raise NoSpaceError(
        f"The release needs {need.bytes >> 20} MiB and {need.inodes} inodes, and the slot "
        f"{partition.device} has {made.bytes >> 20} MiB and {made.inodes} inodes.",
        "Make the release smaller, or the slots larger.",
    )


def proven_base(machine: Machine, slot: Slot, device: Path) -> tuple[str, Outputs] | None:
    """The commit that a slot holds, and what fixups left over it, when nobody can have
    written to it since.

    An install that did not end, a mount for writing, and a repair each change
    the superblock; what changes beneath the filesystem is for `--verify full`.
    """
    record = machine.records.slot(slot)
    superblock = filesystem.read_superblock(device)
    if record is None or superblock is None or record.state != SlotState.CLEAN:
        return None
    outputs = machine.records.outputs(record)
    same = record.superblock == superblock.fingerprint and outputs is not None
    if not same or outputs is None or not machine.store().has(record.commit):
        return None
    return record.commit, outputs
