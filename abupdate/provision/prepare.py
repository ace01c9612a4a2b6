"""What a first install would do, with everything that could refuse it, before anything is written.

    the disk: is it free, may it be lost? → release → signature → what it needs → plan

`Prepared.write` then does it (`write`).
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from abupdate.bundle.read import read_header
from abupdate.config import Settings
from abupdate.disk import drive as drives
from abupdate.disk import grubimage
from abupdate.disk.drive import Drive, Found
from abupdate.disk.layout import (
    DATA,
    RESCUE,
    BootDisk,
    Partition,
    PartitionSpec,
    Slot,
)
from abupdate.disk.medium import DiskMedium, FileMedium, Ids, Medium, locked, scratch
from abupdate.disk.partition import Extent
from abupdate.disk.partition import plan as place
from abupdate.errors import AbupdateError, NoSpaceError, RefusedError, UsageError
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.provision import permission
from abupdate.provision.belongings import belongings
from abupdate.provision.grub import grub_files
from abupdate.provision.installer import installer_layout
from abupdate.provision.kept import check as check_kept
from abupdate.provision.layout import data_minimum, slot_minimum, specs
from abupdate.provision.plan import Plan, disk_facts, planned
from abupdate.provision.rescue import RescueSystem, received
from abupdate.provision.state import state_bytes
from abupdate.provision.store import store_bytes
from abupdate.provision.wishes import Wishes
from abupdate.provision.write import Work, write
from abupdate.release.fixups import fixups
from abupdate.run import DISK_PACKAGES, Sandbox, require_programs
from abupdate.signing.signers import TrustFiles
from abupdate.source.local import FileSource, StoredSource
from abupdate.source.source import Source
from abupdate.store.repository import Repository
from abupdate.update import trust
from abupdate.update.admit import Examined, examined, release_of
from abupdate.update.job import job, signals_raise
from abupdate.update.prepare import Need, needed
from abupdate.update.slots import STORE_USER, Machine, require_root

_SCRATCH = "/var/tmp"  # noqa: S108 - a folder of a random name is made there
_NOBODY = "65534"
_FORMAT = "sha256"  # of new stores
_MAX_SIGNERS = 1 << 20


@dataclass(frozen=True)
class Provisioned:
    """What was made. `seconds` by step."""

    disk: str
    release: str
    commit: str
    signer: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Prepared:
    """A release that is trusted and a disk that may be written; `plan` tells what would be done."""

    plan: Plan
    work: Work

    def write(self) -> Provisioned:
        """Do it. Raises an `AbupdateError`; the disk is then marked as unfinished."""
        work = self.work
        write(work)
        return Provisioned(
            disk=str(work.drive.path),
            release=str(work.release.version),
            commit=work.release.commit,
            signer=work.release.signer,
            seconds={name: round(value, 3) for name, value in work.events.seconds.items()},
        )


@contextmanager
def prepared(
    host: Machine, disk: Path, source: Source, settings: Settings, wishes: Wishes, events: Events
) -> Iterator[Prepared]:
    """Find out what a provision would do, with everything that could refuse it.

    What came in lasts for the block. `host`: the machine that this runs on. Raises an
    `AbupdateError`; nothing was written then.
    """
    require_root()
    wishes.check()
    require_programs([*DISK_PACKAGES, *(["cryptsetup"] if wishes.luks_key else [])])
    with ExitStack() as stack:
        stack.enter_context(signals_raise("the disk is as it was, or says that it is unfinished"))
        stack.callback(os.umask, os.umask(0o022))
        drive, is_new = _drive(disk, wishes)
        if not is_new:
            stack.enter_context(locked(_lock_file(host, drive)))
        intake = stack.enter_context(_intake())
        folder = stack.enter_context(_beside(drive)) if drive.is_file else intake
        machine = _machine(host, source, drive, intake, folder, wishes, stack)
        machine.unmount_leftovers()  # of a run that was killed
        keep = _allowed(drive, is_new, wishes)
        found = stack.enter_context(examined(machine, [source], settings, events))
        verified = found.verified
        believed = _believed(found, machine, wishes)
        has_bios = wishes.layout.has_bios and drive.sector == grubimage.SECTOR
        grub = grub_files(found.content, host.paths, folder, bios=has_bios, signed=wishes.signed)
        own = belongings(found, believed, folder)
        with events.step("store", "Take the release in"):
            found.candidate.join()
        store = machine.store()
        rescue = None
        if wishes.rescue is not None:
            compatible = verified.compatible
            coming = received(machine, wishes.rescue, compatible, intake, settings, events)
            rescue = stack.enter_context(coming)
        stores = store_bytes(store) + (store_bytes(rescue.store) if rescue else 0)
        need = needed(found.content)
        drive, wanted, extents = _arranged(drive, keep, need, stores, wishes, rescue)
        ids = _ids(wishes.seed, verified.tagger_time)
        medium = _medium(drive, ids, wishes)
        for one in keep:
            if one.entry.name == DATA:
                with medium.kept(one.entry, machine.mountpoint, read_only=True) as data:
                    check_kept(data, found, believed, stores, store.object_format)
        plan = Plan(
            disk=disk_facts(drive),
            partitions=planned(
                drive,
                wanted,
                extents,
                keep,
                str(verified.version),
                str(rescue.release.version) if rescue else None,
            ),
            release=str(verified.version),
            compatible=verified.compatible,
            commit=verified.commit,
            signer=verified.signers,
            source=found.source,
            firmware=("bios", "uefi") if has_bios else ("uefi",),
            confirm=drive.name,
            warnings=() if wishes.installer else tuple(_warnings(wishes, drive)),
        )
        work = Work(
            drive=drive,
            is_new=is_new,
            specs=wanted,
            extents=extents,
            keep=keep,
            release=release_of(found),
            signed_at=verified.tagger_time,
            store=store,
            grub=grub,
            belongings=own,
            ids=ids,
            medium=medium,
            machine=machine,
            scratch=_new_folder(folder / "made"),
            events=events,
            installs=wishes.layout if wishes.installer else None,
            state=wishes.state,
            page_code=wishes.page_code,
            rescue=rescue,
        )
        yield Prepared(plan, work)


def _believed(found: Examined, machine: Machine, wishes: Wishes) -> TrustFiles:
    """The keys that made the release believed. Raises where this cannot be a first release."""
    verified = found.verified
    product = wishes.compatible or verified.compatible
    trust.check_policy(machine.paths, verified.version, verified.compatible, product)
    fixups(found.content.manifest)
    return replace(trust.trust_files(machine.paths), sandbox=machine.sandbox)


def _arranged(
    drive: Drive,
    keep: Sequence[Found],
    need: Need,
    size: int,
    wishes: Wishes,
    rescue: RescueSystem | None,
) -> tuple[Drive, list[PartitionSpec], list[Extent]]:
    """The partitions to make, and where; the disk with its size, where that follows from them.

    `size`: bytes of the stores. Raises `NoSpaceError`.
    """
    layout, own = wishes.layout, state_bytes(wishes.state)
    if wishes.installer:
        layout, whole = installer_layout(need, size, own)
        drive = replace(drive, size=drive.size or whole)
    wanted = specs(layout, need, size, [one.entry for one in keep])
    if wishes.luks_key is not None:
        wanted = [replace(one, encrypted=one.name == DATA) for one in wanted]
    kept = [one.entry.extent for one in keep]
    extents = place(drive.size, wanted, kept, drive.usable if keep else None)
    _refuse_small_data(wanted, extents, data_minimum(size, own))
    if rescue is not None and not wishes.installer:
        _refuse_small_rescue(wanted, rescue)
    return drive, wanted, extents


def _refuse_small_rescue(wanted: Sequence[PartitionSpec], rescue: RescueSystem) -> None:
    size = next((spec.size for spec in wanted if spec.name == RESCUE), None)
    if size is None:
        raise RefusedError(
            "A rescue system needs a partition 'rescue' that is made new, and there is none.",
            "Name it in the layout, or leave --rescue out.",
        )
    least = slot_minimum(rescue.need)
    if size < least:
        raise NoSpaceError(
            f"Partition '{RESCUE}' needs {least >> 20} MiB at least for this rescue system, and "
            f"the layout gives it {size >> 20} MiB.",
            "Enlarge it in the layout file, or make the rescue system smaller.",
        )


def _new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def _lock_file(host: Machine, drive: Drive) -> Path:
    if drive.is_file:
        return drive.path
    folder = host.paths.runtime / "provision"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{drive.path.name}.lock"


def _allowed(drive: Drive, is_new: bool, wishes: Wishes) -> list[Found]:
    """What stays of a disk that may be written. Raises `RefusedError`."""
    if drive.readonly:
        raise RefusedError(f"{drive.path} takes no writes.", "Look for a write-protect switch.")
    if not is_new:
        drives.refuse_if_used(drive)
    if wishes.erase is not None:
        permission.check(drive, wishes.erase)
    elif permission.must_be_given(drive) and not wishes.asked_later:
        raise permission.missing(drive)
    if wishes.seed is not None and not drive.is_file:
        raise UsageError(
            f"--seed is for plain files, and {drive.path} is a disk.",
            "The ids of a disk are its own; write an image to it where they shall not be.",
        )
    if wishes.luks_key is not None and drive.is_file:
        raise RefusedError(
            f"--luks-key needs a disk, and {drive.path} is a plain file.",
            "Encryption belongs to one device: provision its disk, from an installer.",
        )
    return permission.kept(drive, wishes.keep, has_key=wishes.luks_key is not None)


def _drive(disk: Path, wishes: Wishes) -> tuple[Drive, bool]:
    """The disk, and whether it is a plain file that is not there yet."""
    if disk.exists():
        found = drives.look(disk, wishes.sector)
        if wishes.size is not None and not (found.unfinished and found.size == wishes.size):
            raise UsageError(
                f"--size is for a new file, and {disk} is there.", "Leave it out, or remove it."
            )
        return found, False
    sized = wishes.size is not None or wishes.installer
    if not sized or not disk.parent.is_dir() or disk.is_symlink():
        drives.look(disk)  # tells what is wrong
    return drives.new_file(disk, wishes.size or 0, wishes.sector), True


@contextmanager
def _intake() -> Iterator[Path]:
    """A folder for what comes in, where the user who runs git can get to."""
    place = Path(os.environ.get("TMPDIR") or _SCRATCH)
    with scratch(place, "abupdate-provision-") as folder:
        folder.chmod(0o711)
        yield folder


@contextmanager
def _beside(drive: Drive) -> Iterator[Path]:
    """A folder where the partitions of a file are filled as folders."""
    prefix = f".scratch-{drive.path.name}-"
    if drive.path.exists():
        drives.unmount_leftovers(drive.path, str(drive.path.parent / prefix))
    with scratch(drive.path.parent, prefix) as folder:
        yield folder


def _medium(drive: Drive, ids: Ids, wishes: Wishes) -> Medium:
    if drive.is_file:
        return FileMedium(drive.path, drive.sector, ids)
    return DiskMedium(drive.path, drive.sector, ids, wishes.luks_key)


def _machine(
    host: Machine,
    source: Source,
    drive: Drive,
    intake: Path,
    folder: Path,
    wishes: Wishes,
    stack: ExitStack,
) -> Machine:
    """The device that is to be, with an empty store; this machine's where the release is in it."""
    # Of a disk, the next run knows where this one has mounted something.
    runtime = (
        folder / "run" if drive.is_file else host.paths.runtime / "provision" / drive.path.name
    )
    paths = replace(host.paths, runtime=runtime)
    if wishes.signers is not None:
        paths = replace(paths, root=_trusting(wishes.signers, intake / "trust"))
    if isinstance(source, StoredSource):
        stack.enter_context(job(host.paths.runtime, "provision"))
        return replace(host, paths=paths)
    data, sandbox = intake / "data", _sandbox(host)
    paths = replace(paths, data=data)
    store = paths.state / "store.git"
    store.mkdir(parents=True)
    os.chown(store, int(sandbox.user), int(sandbox.user))
    # What a slot could hold at the most bounds what a bundle may unpack to.
    most = drive.size or shutil.disk_usage(drive.path.parent).free
    slot = Partition(drive.path, 4, Slot.A.label, "", None, None, most)
    machine = Machine(paths, lambda _: BootDisk(drive.path, (slot,), slot), sandbox)
    Repository.create(store, object_format=_format_of(source), sandbox=sandbox)
    return machine


def _format_of(source: Source) -> str:
    """That of a bundle file; what is wrong with it is told when it is read."""
    if isinstance(source, FileSource):
        with suppress(AbupdateError, OSError), source.path.open("rb") as file:
            return read_header(file).object_format
    return _FORMAT


def _trusting(signers: Path, root: Path) -> Path:
    """A root folder whose release keys are those of a file."""
    vendor = Paths(root=root).vendor
    vendor.mkdir(parents=True)
    try:
        with signers.open("rb") as file:
            (vendor / "allowed_signers").write_bytes(file.read(_MAX_SIGNERS))
    except OSError as error:
        raise UsageError(
            f"An allowed_signers file should be readable at {signers}: {error.strerror}.",
            "`abupdate publish keygen` makes one beside the key.",
        ) from error
    return root


def _sandbox(host: Machine) -> Sandbox:
    """Who runs git: the store's user, or nobody where this machine has none."""
    name = host.sandbox.user if host.sandbox else STORE_USER
    try:
        number = str(pwd.getpwnam(name).pw_uid)
    except KeyError:
        number = _NOBODY
    return replace(host.sandbox, user=number) if host.sandbox else Sandbox(number)


def _refuse_small_data(
    wanted: Sequence[PartitionSpec], extents: Sequence[Extent], least: int
) -> None:
    for spec, extent in zip(wanted, extents, strict=True):
        if spec.name == DATA and extent.size < least:
            raise NoSpaceError(
                f"The data partition needs {least >> 20} MiB at least for this "
                f"release, and {extent.size >> 20} MiB are left for it.",
                "Take a larger disk, or smaller slots (`--layout`).",
            )


def _warnings(wishes: Wishes, drive: Drive) -> Iterator[str]:
    layout = wishes.layout
    if not layout.has_rescue and RESCUE not in wishes.keep:
        yield "no rescue partition: nothing stands behind the two slots"
    elif wishes.rescue is None and RESCUE not in wishes.keep:
        yield "no rescue system (--rescue): nothing stands behind the two slots until it gets one"
    if layout.has_bios and drive.sector != grubimage.SECTOR:
        yield f"no BIOS starts from sectors of {drive.sector} bytes: UEFI alone"
    if not layout.has_bios:
        yield "no partition for BIOS: UEFI alone"
    if wishes.luks_key is not None:
        yield "data is encrypted: the release's initramfs must open it, or nothing on it is there"
    if wishes.signed is not None and layout.has_bios:
        yield "Secure Boot is for UEFI: a BIOS starts it unchecked"


def _ids(seed: str | None, when: int) -> Ids:
    if seed is None:
        return Ids()
    return Ids(lambda name: uuid5(NAMESPACE_URL, f"abupdate:{seed}:{name}"), when)
