"""The first install: a whole disk, or an image of one, for a new device.

    release → signature → what it needs → the disk: is it free? → plan → (a person agrees)
      → table, marked as unfinished → slot A: materialise, fixups, read back → slot B, rescue
      → data: store, records → ESP with the boot state → boot sector: no longer unfinished

Nothing is written before `Prepared.write`. From its first write to its last the disk says
that it is unfinished and starts nothing; running it again starts over.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import provision as provisioned_state
from abupdate.bundle.read import read_header
from abupdate.config import Settings
from abupdate.disk import drive as drives
from abupdate.disk import grubimage
from abupdate.disk.drive import Drive, Found
from abupdate.disk.filesystem import Superblock
from abupdate.disk.images import make_vfat
from abupdate.disk.layout import (
    BIOS,
    BOOT,
    BOOT_LABEL,
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
from abupdate.failpoints import failpoint
from abupdate.paths import Paths
from abupdate.provision.belongings import Belongings, belongings
from abupdate.provision.grub import GrubFiles, Signed, grub_files
from abupdate.provision.layout import DEFAULT, Layout, data_minimum, specs
from abupdate.provision.plan import Plan, disk_facts, planned
from abupdate.provision.store import copy_release, give, store_bytes
from abupdate.release.fixups import fixups
from abupdate.run import Sandbox
from abupdate.source.local import FileSource, StoredSource
from abupdate.source.source import Source
from abupdate.store.outputs import Outputs
from abupdate.store.repository import Repository
from abupdate.update import trust
from abupdate.update.admit import Examined, Release, examined, release_of
from abupdate.update.hooks import Hooks
from abupdate.update.job import job, signals_raise
from abupdate.update.prepare import needed
from abupdate.update.records import HistoryEntry, Records, SlotRecord, SlotState, now
from abupdate.update.slots import STORE_USER, Machine, require_root
from abupdate.update.trust import check_policy
from abupdate.update.write import fill, read_back

_SCRATCH = "/var/tmp"  # noqa: S108 - a folder of a random name is made there
_NOBODY = "65534"
_FORMAT = "sha256"  # of new stores
# No filesystem there tells GRUB that rescue is there.
_EMPTY_RESCUE = "empty"


@dataclass(frozen=True)
class Wishes:
    """What is asked for beside disk and release. Sizes in bytes.

    `erase`: the serial or model that says which disk may be lost. `size`, `sector`: of a new
    plain file. `keep`: names or numbers of partitions that stay. `seed`: the same image for
    the same seed and release. `signers`: an allowed_signers file to believe instead of this
    machine's. `compatible`: the product that the release must be for.
    """

    layout: Layout = DEFAULT
    erase: str | None = None
    size: int | None = None
    sector: int = 512
    keep: tuple[str, ...] = ()
    seed: str | None = None
    signers: Path | None = None
    compatible: str | None = None
    signed: Signed | None = None


@dataclass(frozen=True)
class Provisioned:
    """What was made. `seconds` by step."""

    disk: str
    release: str
    commit: str
    signer: str
    seconds: dict[str, float]


@dataclass
class Prepared:
    """A release that is trusted and a disk that may be written; `plan` tells what would be done.

    `is_new`: the disk is a plain file that is not there yet.
    """

    plan: Plan
    drive: Drive
    is_new: bool
    release: Release
    store: Repository
    specs: list[PartitionSpec]
    keep: list[Found]
    grub: GrubFiles
    belongings: Belongings
    ids: Ids
    signed_at: int
    machine: Machine
    events: Events
    _outputs: Outputs = field(default_factory=Outputs)

    @property
    def must_be_confirmed(self) -> bool:
        """Whether somebody must say that it is this disk."""
        if self.drive.is_file:
            return not (self.is_new or self.drive.is_empty or self.drive.unfinished)
        return not self.drive.unfinished

    def confirm(self, answer: str) -> None:
        """Raise `RefusedError` unless the answer names the disk by serial, model or name."""
        if answer.strip() != self.plan.confirm:
            raise RefusedError(
                f"{self.drive.path} is '{self.plan.confirm}', and '{answer.strip()}' was given: "
                "nothing was written.",
                "Give the serial number of the disk that may be lost; `lsblk -o PATH,MODEL,SERIAL` "
                "tells.",
            )

    def write(self) -> Provisioned:
        """Do it. Raises an `AbupdateError`; the disk is then marked as unfinished."""
        drive = self.drive
        if self.is_new:
            with drive.path.open("xb") as file:
                file.truncate(drive.size)
        try:
            drives.refuse_if_used(drive)  # again: a person may have thought for an hour
            kind = FileMedium if drive.is_file else DiskMedium
            self._write(kind(drive.path, drive.sector, self.ids))
        except BaseException:
            if self.is_new:
                drive.path.unlink(missing_ok=True)
            raise
        return Provisioned(
            disk=str(self.drive.path),
            release=str(self.release.version),
            commit=self.release.commit,
            signer=self.release.signer,
            seconds={name: round(value, 3) for name, value in self.events.seconds.items()},
        )

    def _write(self, medium: Medium) -> None:
        """Everything, in its order: what starts the disk comes last."""
        events, named = self.events, {spec.name: spec for spec in self.specs}
        with events.step("table", "Make the partition table"):
            medium.begin(self.specs, [found.entry for found in self.keep])
            failpoint("table-made")
        slot = named[Slot.A.label]
        with events.step("write", f"Write release {self.release.version} into slot A"):
            self._fill_slot(medium, slot)
            failpoint("slot-filled")
        for spec in self.specs:
            if spec.name in (BIOS, BOOT, DATA, slot.name):
                continue
            with events.step("make", f"Make {spec.name}"):
                self._make_empty(medium, spec)
        with events.step("data", "Fill the data partition"), self._data(medium) as data:
            self._fill_data(data, medium.superblock(slot))
        failpoint("data-filled")
        with events.step("boot", "Make it start"):
            self._fill_boot(medium, named[BOOT])
            failpoint("esp-written")
            bios = named.get(BIOS) if self.grub.core else None
            medium.finish(bios, self.grub.core, self.grub.sector)

    def _fill_slot(self, medium: Medium, spec: PartitionSpec) -> None:
        machine, release, events = self.machine, self.release, self.events
        timeout = self.belongings.settings.hooks.timeout
        hooks = Hooks(machine, Slot.A, release, events, timeout)
        with medium.filling(spec, machine.mountpoint) as target:
            filled = fill(self.store, target, release, None, hooks, events)
        self._outputs = filled.outputs
        with (
            events.step("verify", "Read it back"),
            medium.reading(spec, machine.mountpoint) as target,
        ):
            read_back(target, filled.plan, filled.outputs, events, full=True)

    def _make_empty(self, medium: Medium, spec: PartitionSpec) -> None:
        label = {Slot.B.label: Slot.B.unfinished_label, RESCUE: _EMPTY_RESCUE}.get(spec.name)
        if spec.filesystem == "ext4":
            with medium.filling(spec, self.machine.mountpoint, label) as target:
                self._same_times(target)
        elif spec.filesystem == "vfat":
            folder = self.machine.paths.runtime / spec.name
            folder.mkdir()
            self._write_vfat(medium, spec, folder)

    def _data(self, medium: Medium) -> AbstractContextManager[Path]:
        """The data partition, to be written to: a new one, or the one that is kept."""
        at = self.machine.mountpoint
        for found in self.keep:
            if found.entry.name == DATA:
                return medium.kept(found.entry, at)
        return medium.filling(next(spec for spec in self.specs if spec.name == DATA), at)

    def _fill_data(self, data: Path, slot: Superblock) -> None:
        """The owner's files stay where the partition is kept, changes in /etc among them."""
        state, upper = data / "abupdate", data / "etc" / Slot.A / "upper"
        copy_release(self.store, self.release.version, state / "store.git")
        give(state / "store.git", self.belongings.owner)
        self._write_records(state, slot)
        for folder in (upper, data / "etc" / Slot.A / "work", data / "state"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.belongings.files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._same_times(data)

    def _write_records(self, state: Path, slot: Superblock) -> None:
        """What an install would have left on the data partition, had there been one before."""
        release = self.release
        when = now() if self.ids.time is None else float(self.ids.time)
        records = Records(state)
        records.write_outputs(Slot.A, self._outputs)
        records.write_slot(
            SlotRecord(
                slot=Slot.A,
                state=SlotState.CLEAN,
                release=str(release.version),
                commit=release.commit,
                manifest_sha256=release.manifest_sha256,
                tag=release.tag,
                signer=release.signer,
                uuid=slot.uuid,
                superblock=slot.fingerprint,
                outputs=self._outputs.digest,
                written=when,
                confirmed=when,
            )
        )
        detail = {"commit": release.commit, "signer": release.signer, "source": release.source}
        records.append(HistoryEntry("provisioned", when, str(release.version), Slot.A, detail))
        # Of what a kept partition tells, this is true no more.
        for gone in ("slots/B.json", "slots/B.outputs", "intent.json", "last-boot.json"):
            (state / gone).unlink(missing_ok=True)
        paths = replace(self.machine.paths, data=state.parent)
        trust.remember_signature(paths, self.signed_at)

    def _fill_boot(self, medium: Medium, spec: PartitionSpec) -> None:
        esp = self.machine.paths.runtime / "esp"
        self.grub.write_esp(esp)
        boot = self.belongings.settings.boot
        Grubenv(esp / "grub").write(provisioned_state(boot.tries, boot.limit))
        self._write_vfat(medium, spec, esp)

    def _write_vfat(self, medium: Medium, spec: PartitionSpec, content: Path) -> None:
        self._same_times(content)
        image, size = content.with_suffix(".img"), medium.extent(spec).size
        stamp = self.ids.stamp(spec.name)
        make_vfat(image, size, content, medium.sector, stamp, spec.label or BOOT_LABEL)
        medium.write(spec, image)
        image.unlink()

    def _same_times(self, folder: Path) -> None:
        """For an image that is reproducible: none of its times is that of the run."""
        folder.chmod(0o755)
        if self.ids.time is not None:
            _set_times(folder, self.ids.time)


@contextmanager
def prepared(
    host: Machine, disk: Path, source: Source, settings: Settings, wishes: Wishes, events: Events
) -> Iterator[Prepared]:
    """Find out what a provision would do, with everything that could refuse it.

    What came in lasts for the block. `host`: the machine that this runs on. Raises an
    `AbupdateError`; nothing was written then.
    """
    require_root()
    with ExitStack() as stack:
        stack.enter_context(signals_raise("the disk is as it was, or says that it is unfinished"))
        drive, is_new = _drive(disk, wishes)
        if drive.readonly:
            raise RefusedError(f"{drive.path} takes no writes.", "Look for a write-protect switch.")
        if not is_new:
            stack.enter_context(locked(drive.path))
        intake = stack.enter_context(_intake())
        # A file's partitions are filled as folders beside it.
        work = stack.enter_context(scratch(drive.path)) if drive.is_file else intake
        runtime = (
            work / "run" if drive.is_file else host.paths.runtime / "provision" / drive.path.name
        )
        machine = _machine(host, source, drive, intake, runtime, wishes, stack)
        machine.unmount_leftovers()  # of a run that was killed
        if not is_new:
            drives.refuse_if_used(drive)
        found = stack.enter_context(examined(machine, [source], settings, events))
        verified = found.verified
        check_policy(machine.paths, verified.version, verified.compatible, _product(found, wishes))
        has_bios = wishes.layout.has_bios and drive.sector == grubimage.SECTOR
        grub = grub_files(found.content, host.paths, work, bios=has_bios, signed=wishes.signed)
        believed = replace(trust.trust_files(machine.paths), sandbox=machine.sandbox)
        own = belongings(found, believed, work)
        need = needed(found.content)
        fixups(found.content.manifest)
        keep = _kept(drive, wishes.keep)
        with events.step("store", "Take the release in"):
            found.candidate.join()
        store = machine.store()
        wanted = specs(wishes.layout, need, store_bytes(store), [one.entry for one in keep])
        extents = place(drive.size, wanted, [one.entry.extent for one in keep])
        _refuse_small_data(wanted, extents, store_bytes(store))
        plan = Plan(
            disk=disk_facts(drive),
            partitions=planned(drive, wanted, extents, keep, str(verified.version)),
            release=str(verified.version),
            compatible=verified.compatible,
            commit=verified.commit,
            signer=verified.signers,
            source=found.source,
            firmware=("bios", "uefi") if has_bios else ("uefi",),
            confirm=drive.name,
            warnings=tuple(_warnings(wishes.layout, drive, wishes.signed)),
        )
        yield Prepared(
            plan=plan,
            drive=drive,
            is_new=is_new,
            release=release_of(found),
            store=store,
            specs=wanted,
            keep=keep,
            grub=grub,
            belongings=own,
            ids=_ids(wishes.seed, verified.tagger_time),
            signed_at=verified.tagger_time,
            machine=machine,
            events=events,
        )


def _drive(disk: Path, wishes: Wishes) -> tuple[Drive, bool]:
    """The disk, and whether it is a plain file that is not there yet."""
    if disk.exists():
        if wishes.size is not None:
            raise UsageError(
                f"--size is for a new file, and {disk} is there.", "Leave it out, or remove it."
            )
        return drives.look(disk, wishes.sector), False
    if wishes.size is None or not disk.parent.is_dir() or disk.is_symlink():
        drives.look(disk)  # tells what is wrong
    assert wishes.size is not None
    return drives.new_file(disk, wishes.size, wishes.sector), True


@contextmanager
def _intake() -> Iterator[Path]:
    """A folder for what comes in, where the user who runs git can get to."""
    place = os.environ.get("TMPDIR") or _SCRATCH
    with tempfile.TemporaryDirectory(prefix="abupdate-provision-", dir=place) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def _machine(
    host: Machine,
    source: Source,
    drive: Drive,
    intake: Path,
    runtime: Path,
    wishes: Wishes,
    stack: ExitStack,
) -> Machine:
    """The device that is to be, with an empty store; this machine's where the release is in it."""
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
    slot = Partition(drive.path, 4, Slot.A.label, "", None, None, drive.size)
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
        (vendor / "allowed_signers").write_bytes(signers.read_bytes())
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


def _kept(drive: Drive, wanted: Sequence[str]) -> list[Found]:
    """The partitions that stay, by name or number. Raises `RefusedError`, `UsageError`."""
    if wanted and drive.table != "gpt":
        raise RefusedError(
            f"--keep needs a partition table of the kind GPT, and {drive.path} has "
            f"{ {'dos': 'an MBR', None: 'none'}.get(drive.table, drive.table) }.",
            "GRUB finds abupdate's partitions by GPT; `sgdisk --mbrtogpt` may convert the table.",
        )
    kept = []
    for text in dict.fromkeys(wanted):
        found = [one for one in drive.partitions if text in (one.entry.name, str(one.entry.number))]
        if len(found) != 1:
            names = ", ".join(
                f"{one.entry.number} {one.entry.name}".strip() for one in drive.partitions
            )
            raise UsageError(
                f"--keep {text}: one partition of that name or number was expected on "
                f"{drive.path}, found {len(found)} (there are: {names or 'none'})."
            )
        kept.append(found[0])
    for one in kept:
        _refuse_to_keep(one)
    return kept


def _refuse_to_keep(found: Found) -> None:
    entry, content = found.entry, found.content
    where = f"Partition {entry.number} '{entry.name}'"
    if entry.name in (BIOS, BOOT, *(slot.label for slot in Slot)):
        raise RefusedError(
            f"{where} cannot be kept: what starts the device is made anew, and so are its slots.",
            "data, rescue and partitions of the owner's can be kept.",
        )
    if entry.esp:
        raise RefusedError(
            f"{where} is an EFI system partition, and cannot be kept: which one of two the "
            "firmware starts from is up to the firmware.",
            "Copy what is on it, and provision without keeping it.",
        )
    labels = (*(slot.label for slot in Slot), BOOT_LABEL)
    if content is not None and content.label in labels:
        raise RefusedError(
            f"{where} has the label '{content.label}', by which GRUB finds a slot or its files.",
            "Give it another label first: tune2fs -L NAME, or fatlabel.",
        )
    if entry.name == DATA and (content is None or (content.kind, content.label) != ("ext4", DATA)):
        kind = content.kind if content else "nothing that is known"
        raise RefusedError(
            f"{where} should hold an ext4 labelled '{DATA}' to be kept as the data partition, "
            f"found {kind}.",
            "Give another partition of the layout that name, or let it be made anew.",
        )


def _refuse_small_data(
    wanted: Sequence[PartitionSpec], extents: Sequence[Extent], store: int
) -> None:
    for spec, extent in zip(wanted, extents, strict=True):
        if spec.name == DATA and extent.size < data_minimum(store):
            raise NoSpaceError(
                f"The data partition needs {data_minimum(store) >> 20} MiB at least for this "
                f"release, and {extent.size >> 20} MiB are left for it.",
                "Take a larger disk, or smaller slots (`--layout`).",
            )


def _warnings(layout: Layout, drive: Drive, signed: Signed | None) -> Iterator[str]:
    if not layout.has_rescue:
        yield "no rescue partition: nothing stands behind the two slots"
    if layout.has_bios and drive.sector != grubimage.SECTOR:
        yield f"no BIOS starts from sectors of {drive.sector} bytes: UEFI alone"
    if not layout.has_bios:
        yield "no partition for BIOS: UEFI alone"
    if signed is not None and layout.has_bios:
        yield "Secure Boot is for UEFI: a BIOS starts it unchecked"


def _product(found: Examined, wishes: Wishes) -> str:
    return wishes.compatible or found.verified.compatible


def _ids(seed: str | None, when: int) -> Ids:
    if seed is None:
        return Ids()
    return Ids(lambda name: uuid5(NAMESPACE_URL, f"abupdate:{seed}:{name}"), when)


def _set_times(folder: Path, when: int) -> None:
    """All that is in a folder, and itself, as of that time."""
    for top, _, names in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in names)):  # noqa: PTH118 - many
            os.utime(path, (when, when), follow_symlinks=False)
