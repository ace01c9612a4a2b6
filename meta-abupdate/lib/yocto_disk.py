"""The partitions of a new device, one file each, for wic to put on a disk.

It is `abupdate provision` into a plain file, but for what an image build must do otherwise: it
cannot mount, and the partition table is wic's. Runs under pseudo, as root in its own eyes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.config import Settings
from abupdate.disk import drive, filesystem, gpt, grubimage, images
from abupdate.disk.layout import (
    BIOS,
    MIB,
    RESCUE,
    BootDisk,
    Partition,
    PartitionSpec,
    Slot,
    partitions,
)
from abupdate.disk.medium import FileMedium, Ids, scratch
from abupdate.disk.partition import Extent, TableEntry, plan
from abupdate.errors import NoSpaceError, UsageError
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.provision.belongings import belongings
from abupdate.provision.grub import CORE, SECTOR, grub_files, places_of
from abupdate.provision.layout import data_minimum, slot_minimum
from abupdate.provision.rescue import RescueSystem, received
from abupdate.provision.store import store_bytes
from abupdate.provision.write import Work, write
from abupdate.source.local import FileSource
from abupdate.store.repository import Repository
from abupdate.update import trust
from abupdate.update.admit import examined, release_of
from abupdate.update.prepare import needed
from abupdate.update.slots import Machine

FIRMWARE = ("uefi", "bios")
# In a folder of their own: GRUB calls its boot sector boot.img, as the part of the ESP is called.
_GRUB = "grub"


@dataclass(frozen=True)
class Sizes:
    """MiB of the partitions."""

    boot: int
    rescue: int
    slot: int
    data: int

    def specs(self) -> list[PartitionSpec]:
        """abupdate's layout in these sizes."""
        made = partitions(self.slot * MIB, self.rescue * MIB, self.boot * MIB)
        return [*made[:-1], replace(made[-1], size=self.data * MIB)]


@dataclass(frozen=True)
class Release:
    """What goes into slot A, who must have signed it, and the rescue system behind it."""

    bundle: Path
    signers: Path
    rescue: Path | None = None


def check_firmware(words: Sequence[str]) -> None:
    """Raise `UsageError` for what no machine has."""
    if not words or not set(words) <= set(FIRMWARE):
        raise UsageError(
            f"ABUPDATE_FIRMWARE: one or both of {', '.join(FIRMWARE)} were expected, "
            f"found {' '.join(words)!r}."
        )


def make_parts(
    release: Release, sizes: Sizes, firmware: Sequence[str], out: Path, events: Events
) -> None:
    """Write NAME.img for each partition into `out`, and GRUB's files for `finish`.

    Raises an `AbupdateError` for a release that a device would not believe, or one too large.
    """
    check_firmware(firmware)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(out, ".scratch-"))
        work = _work(release, sizes, "bios" in firmware, folder, events, stack)
        write(work)
        parts = work.medium
        assert isinstance(parts, _Parts)
        for name in ("boot", RESCUE, Slot.A.label, Slot.B.label, "data"):
            shutil.move(parts.part(name), out / f"{name}.img")
        # Written, and no hole: wic ends with an error where a part is nothing else.
        (out / f"{BIOS}.img").write_bytes(bytes(MIB))
        if "bios" in firmware:
            (out / _GRUB).mkdir(exist_ok=True)
            (out / _GRUB / CORE).write_bytes(work.grub.core)
            (out / _GRUB / SECTOR).write_bytes(work.grub.sector)


def finish(disk: Path, parts: Path) -> None:
    """Write what is outside of partitions: GRUB for BIOS, and where GRUB finds slots by itself.

    `parts`: the folder that `make_parts` filled. Raises `UsageError` for a disk that is none.
    """
    table = gpt.read(disk, grubimage.SECTOR)
    if table is None:
        raise UsageError(
            f"A disk with a partition table (GPT) was expected at {disk}, found none.",
            "The wks file should end with: bootloader --ptable gpt",
        )
    _check_table(disk, table.entries)
    told = places_of(table)
    if told is not None:
        grubimage.put_places(disk, told)
    core, sector = parts / _GRUB / CORE, parts / _GRUB / SECTOR
    if core.is_file():
        bios = next(entry for entry in table.entries if entry.name == BIOS)
        place, size = bios.extent.start, bios.extent.size
        grubimage.install_bios(disk, core.read_bytes(), sector.read_bytes(), place, size)


def _check_table(disk: Path, entries: Sequence[TableEntry]) -> None:
    numbers = {entry.name: entry.number for entry in entries}
    wanted = {BIOS: 1, "boot": 2}
    missing = [spec.name for spec in Sizes(1, 1, 1, 1).specs() if spec.name not in numbers]
    wrong = [name for name, number in wanted.items() if numbers.get(name) != number]
    if missing or wrong:
        found = ", ".join(f"{number} {name}" for name, number in numbers.items())
        raise UsageError(
            f"{disk} should have abupdate's partitions, bios and boot as 1 and 2; found {found}.",
            "Begin the wks file as files/wic/abupdate-ab.wks.in does.",
        )


def _work(
    release: Release, sizes: Sizes, bios: bool, folder: Path, events: Events, stack: ExitStack
) -> Work:
    """What `provision.prepare` finds out of a release, for a disk that has nothing on it."""
    machine = _machine(release.signers, folder / "device")
    settings, source = Settings(), FileSource(release.bundle)
    found = stack.enter_context(examined(machine, [source], settings, events))
    own = belongings(found, trust.trust_files(machine.paths), folder)
    grub = grub_files(found.content, Paths(root=folder / "none"), folder, bios=bios)
    found.candidate.join()
    rescue = None
    if release.rescue is not None:
        compatible, intake = found.verified.compatible, folder / "rescue"
        intake.mkdir()
        coming = received(machine, FileSource(release.rescue), compatible, intake, settings, events)
        rescue = stack.enter_context(coming)
    specs = sizes.specs()
    stores = store_bytes(machine.store()) + (store_bytes(rescue.store) if rescue else 0)
    _refuse_small(sizes, slot_minimum(needed(found.content)), stores, rescue)
    whole = MIB * (2 + sum((spec.size or 0) // MIB for spec in specs))
    path = folder / "disk"
    made = folder / "made"
    made.mkdir()
    return Work(
        drive=drive.new_file(path, whole, grubimage.SECTOR),
        is_new=True,
        specs=specs,
        extents=plan(whole, specs),
        keep=[],
        release=release_of(found),
        signed_at=found.verified.tagger_time,
        store=machine.store(),
        grub=grub,
        belongings=own,
        ids=Ids(),
        medium=_Parts(path, grubimage.SECTOR, Ids()),
        machine=machine,
        scratch=made,
        events=events,
        rescue=rescue,
    )


def _machine(signers: Path, folder: Path) -> Machine:
    """The device that is to be, with an empty store."""
    paths = Paths(root=folder / "root", data=folder / "data", runtime=folder / "run")
    paths.vendor.mkdir(parents=True)
    shutil.copyfile(signers, paths.vendor / "allowed_signers")
    store = paths.state / "store.git"
    store.mkdir(parents=True)
    Repository.create(store)
    most = shutil.disk_usage(folder).free
    slot = Partition(folder / "disk", 4, Slot.A.label, "", None, None, most)
    return Machine(paths, lambda _: BootDisk(folder / "disk", (slot,), slot))


def _refuse_small(sizes: Sizes, slot: int, stores: int, rescue: RescueSystem | None) -> None:
    least = {"SLOT": (slot, sizes.slot), "DATA": (data_minimum(stores), sizes.data)}
    if rescue is not None:
        least["RESCUE"] = (slot_minimum(rescue.need), sizes.rescue)
    for name, (wanted, given) in least.items():
        if wanted > given * MIB:
            raise NoSpaceError(
                f"ABUPDATE_{name}_SIZE: {-(-wanted // MIB)} MiB at least were expected for this "
                f"release, found {given}.",
                "Leave room for the releases to come: the size of a fielded slot is fixed.",
            )


class _Parts(FileMedium):
    """Each partition is a file of its own, and what was filled in is kept to be compared.

    The comparison is with the folder that the filesystem was made from: nothing here can mount.
    """

    def part(self, name: str) -> Path:
        """The file of a partition."""
        return self.path.with_name(f"{name}.img")

    def begin(
        self,
        specs: Sequence[PartitionSpec],
        extents: Sequence[Extent],
        keep: Sequence[TableEntry] = (),
    ) -> None:
        self._extents = {spec.name: one for spec, one in zip(specs, extents, strict=True)}

    @contextmanager
    def filling(self, spec: PartitionSpec, at: Path, label: str | None = None) -> Iterator[Path]:
        at.mkdir(parents=True, exist_ok=True)
        yield at
        if spec.name in (RESCUE, Slot.A.label):
            _refuse_parts_of_seconds(at)
        name, size = label or spec.label or "", self.extent(spec).size
        stamp = self._ids.stamp(spec.name)
        images.make_ext4(self.part(spec.name), size, name, at, self.sector, stamp)
        at.rename(self._folder(spec))

    @contextmanager
    def reading(self, spec: PartitionSpec, at: Path) -> Iterator[Path]:
        yield self._folder(spec)

    def write(self, spec: PartitionSpec, image: Path, *, hold: bool = False) -> None:
        shutil.copyfile(image, self.part(spec.name))

    def superblock(self, spec: PartitionSpec) -> filesystem.Superblock:
        found = filesystem.read_superblock(self.part(spec.name))
        assert found is not None
        return found

    def finish(
        self,
        bios: PartitionSpec | None,
        core: bytes,
        boot: bytes,
        places: Callable[[gpt.Table], bytes | None],
    ) -> None:
        """`finish` above does it, once there is a table."""

    def _folder(self, spec: PartitionSpec) -> Path:
        return self.path.with_name(f"{spec.name}.folder")


def _refuse_parts_of_seconds(folder: Path) -> None:
    """mke2fs keeps whole seconds of times of change, and a slot is compared with its release."""
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(top, name)  # noqa: PTH118 - many
            if os.lstat(path).st_mtime_ns % 10**9:
                raise UsageError(
                    f"Times of whole seconds were expected in the release, and {path} has more.",
                    "The class abupdate-image cuts them, as the last of IMAGE_PREPROCESS_COMMAND.",
                )
