"""The writes of a first install, in their order: what starts the disk comes last.

Until then the boot sector says that it is unfinished, and nothing starts from it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import provision as provisioned_state
from abupdate.disk import drive as drives
from abupdate.disk.drive import Drive, Found
from abupdate.disk.filesystem import Superblock
from abupdate.disk.images import make_vfat
from abupdate.disk.layout import BIOS, BOOT, BOOT_LABEL, DATA, RESCUE, PartitionSpec, Slot
from abupdate.disk.medium import Ids, Medium
from abupdate.disk.partition import Extent
from abupdate.errors import RefusedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.provision.belongings import Belongings
from abupdate.provision.grub import GrubFiles, places_of
from abupdate.provision.installer import mark
from abupdate.provision.layout import Layout
from abupdate.provision.plan import first_label
from abupdate.provision.rescue import RescueSystem
from abupdate.provision.state import copy_state
from abupdate.provision.store import compare_release, copy_release, give
from abupdate.store.outputs import Outputs
from abupdate.store.repository import Repository
from abupdate.update import trust
from abupdate.update.admit import Release
from abupdate.update.hooks import Hooks
from abupdate.update.records import HistoryEntry, Records, SlotRecord, SlotState, now
from abupdate.update.slots import Machine
from abupdate.update.write import Filled, fill, read_back

# Of data: where the rescue system's own store is (`Paths.of_rescue`).
_RESCUE = "abupdate/rescue"


@dataclass(frozen=True)
class Work:
    """All that the writes need.

    `is_new`: the disk is a plain file that is not there yet. `store` has the release.
    `signed_at`: seconds since the epoch. `machine`: whose folders things
    are mounted at. `scratch`: an empty folder. `installs`:
    it becomes an installer, of disks with that layout. `state`: what is the owner's on data.
    `rescue`: what goes into its partition.
    """

    drive: Drive
    is_new: bool
    specs: list[PartitionSpec]
    extents: list[Extent]
    keep: list[Found]
    release: Release
    signed_at: int
    store: Repository
    grub: GrubFiles
    belongings: Belongings
    ids: Ids
    medium: Medium
    machine: Machine
    scratch: Path
    events: Events
    installs: Layout | None = None
    state: Path | None = None
    page_code: bytes | None = None
    rescue: RescueSystem | None = None


def write(work: Work) -> None:
    """Make it. Raises an `AbupdateError`; a disk is then marked as unfinished, a new file gone."""
    drive = work.drive
    with _new_file(drive) if work.is_new else nullcontext():
        _refuse_changed(drive, is_new=work.is_new)
        try:
            _Writer(work).run()
        finally:
            work.medium.close()


@contextmanager
def _new_file(drive: Drive) -> Iterator[None]:
    """A file of that size, locked; gone again where the block fails."""
    with drive.path.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            file.truncate(drive.size)
            yield
        except BaseException:
            drive.path.unlink(missing_ok=True)
            raise


def _refuse_changed(drive: Drive, *, is_new: bool) -> None:
    """A person may have thought for an hour: is it still that disk, and as it was shown?"""
    drives.refuse_if_used(drive)
    if not is_new and drives.look(drive.path, drive.sector) != drive:
        raise RefusedError(
            f"{drive.path} is not as it was shown any more: nothing was written.",
            "Was another disk plugged in, or this one written? Look again.",
        )


class _Writer:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._medium = work.medium
        self._at = work.machine.mountpoint

    def run(self) -> None:
        work, medium, events = self._work, self._medium, self._work.events
        named = {spec.name: spec for spec in work.specs}
        slot, rescue = named[Slot.A.label], named.get(RESCUE)
        with events.step("table", "Make the partition table"):
            medium.begin(work.specs, work.extents, [found.entry for found in work.keep])
            failpoint("table-made")
        with events.step("write", f"Write release {work.release.version} into slot A"):
            filled = self._fill_slot(slot)
            failpoint("slot-filled")
        saved = None
        filling = rescue if work.rescue is not None else None
        if rescue is not None and work.rescue is not None:
            version = work.rescue.release.version
            with events.step("rescue", f"Write rescue system {version}"):
                saved = self._fill_rescue(rescue, work.rescue)
                failpoint("rescue-filled")
        with events.step("make", "Make the other partitions"):
            for spec in work.specs:
                if spec.name not in (BIOS, BOOT, DATA, slot.name) and spec is not filling:
                    self._make_empty(spec)
        with events.step("data", "Fill the data partition"):
            with self._data() as data:
                self._fill_data(data, medium.superblock(slot), filled.outputs)
            failpoint("data-filled")
        with events.step("boot", "Fill the boot partition"):
            self._fill_boot(named[BOOT])
        # After the last large write: a medium that is smaller than it says has lost something.
        with events.step("verify", "Read it back"):
            with medium.reading(slot, self._at) as target:
                read_back(target, filled.plan, filled.outputs, events, full=True)
            if rescue is not None and saved is not None:
                with medium.reading(rescue, self._at) as target:
                    read_back(target, saved.plan, saved.outputs, events, full=True)
            with self._data(read_only=True) as data:
                compare_release(work.store, data / "abupdate" / "store.git")
                if work.rescue is not None:
                    compare_release(work.rescue.store, data / _RESCUE / "store.git")
        with events.step("start", "Make it start"):
            bios = named.get(BIOS) if work.grub.core else None
            medium.finish(bios, work.grub.core, work.grub.sector, places_of)

    def _fill_slot(self, spec: PartitionSpec) -> Filled:
        work = self._work
        timeout = work.belongings.settings.hooks.timeout
        hooks = Hooks(work.machine, Slot.A, work.release, work.events, timeout)
        with self._medium.filling(spec, self._at) as target:
            return fill(work.store, target, work.release, None, hooks, work.events)

    def _fill_rescue(self, spec: PartitionSpec, rescue: RescueSystem) -> Filled:
        with self._medium.filling(spec, self._at) as target:
            return fill(rescue.store, target, rescue.release, None, None, self._work.events)

    def _keep_rescue(self, data: Path, rescue: RescueSystem) -> None:
        """Its release in a store of its own, for the next one; and what its partition holds."""
        store = data / _RESCUE / "store.git"
        copy_release(rescue.store, rescue.release.version, store)
        give(store, self._work.belongings.owner)
        spec = next((one for one in self._work.specs if one.name == RESCUE), None)
        if spec is not None:
            found = self._medium.superblock(spec)
            Records(data / "abupdate").write_rescue(rescue.record(found, self._when))

    def _make_empty(self, spec: PartitionSpec) -> None:
        if spec.filesystem == "ext4":
            with self._medium.filling(spec, self._at, first_label(spec)) as target:
                self._same_times(target)
        elif spec.filesystem == "vfat":
            folder = self._work.scratch / spec.name
            folder.mkdir()
            self._write_vfat(spec, folder)

    def _data(self, *, read_only: bool = False) -> AbstractContextManager[Path]:
        """The data partition, to be written to or read: a new one, or the one that is kept."""
        for found in self._work.keep:
            if found.entry.name == DATA:
                return self._medium.kept(found.entry, self._at, read_only=read_only)
        spec = next(spec for spec in self._work.specs if spec.name == DATA)
        return (self._medium.reading if read_only else self._medium.filling)(spec, self._at)

    def _fill_data(self, data: Path, slot: Superblock, outputs: Outputs) -> None:
        """The owner's files stay where the partition is kept, changes in /etc among them."""
        state, upper = data / "abupdate", data / "etc" / Slot.A / "upper"
        rescue = self._work.rescue
        copy_release(self._work.store, self._work.release.version, state / "store.git")
        give(state / "store.git", self._work.belongings.owner)
        self._write_records(state, slot, outputs)
        for folder in (upper, data / "etc" / Slot.A / "work", data / "state"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._work.belongings.files.items():
            path = upper / name
            _make_folders(path.parent, upper)
            path.write_bytes(content)
        if self._work.installs is not None:
            version = str(rescue.release.version) if rescue else None
            mark(state, self._work.installs, self._work.state, version)
        elif self._work.state is not None:
            copy_state(self._work.state, data / "state")
        if self._work.page_code is not None:
            (state / "web").mkdir(mode=0o700)
            code = state / "web/code"
            code.touch(mode=0o600)
            code.write_bytes(self._work.page_code)
        if rescue is not None:
            self._keep_rescue(data, rescue)
        if all(found.entry.name != DATA for found in self._work.keep):
            self._same_times(data)

    def _write_records(self, state: Path, slot: Superblock, outputs: Outputs) -> None:
        """What an install would have left on the data partition, had there been one before."""
        release, when = self._work.release, self._when
        records = Records(state)
        records.write_outputs(Slot.A, outputs)
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
                outputs=outputs.digest,
                written=when,
                confirmed=when,
            )
        )
        detail = {"commit": release.commit, "signer": release.signer}
        if self._work.ids.time is None:  # the same image has the same history
            detail["source"] = release.source
        records.append(HistoryEntry("provisioned", when, str(release.version), Slot.A, detail))
        # Of what a kept partition tells, this is true no more.
        gone_files = ["slots/B.json", "slots/B.outputs", "intent.json", "last-boot.json"]
        if any(spec.name == RESCUE for spec in self._work.specs):
            gone_files.append("slots/R.json")
        for gone in gone_files:
            (state / gone).unlink(missing_ok=True)
        paths = replace(self._work.machine.paths, data=state.parent)
        trust.remember_signature(paths, self._work.signed_at)

    @property
    def _when(self) -> float:
        return now() if self._work.ids.time is None else float(self._work.ids.time)

    def _fill_boot(self, spec: PartitionSpec) -> None:
        esp = self._work.scratch / "esp"
        self._work.grub.write_esp(esp)
        boot = self._work.belongings.settings.boot
        # Nobody confirms the boots of an installer.
        limit = boot.limit if self._work.installs is None else 0
        Grubenv(esp / "grub").write(provisioned_state(boot.tries, limit))
        self._write_vfat(spec, esp, hold=True)

    def _write_vfat(self, spec: PartitionSpec, content: Path, *, hold: bool = False) -> None:
        self._same_times(content)
        image, size = content.with_suffix(".img"), self._medium.extent(spec).size
        stamp = self._work.ids.stamp(spec.name)
        make_vfat(image, size, content, self._medium.sector, stamp, spec.label or BOOT_LABEL)
        self._medium.write(spec, image, hold=hold)
        image.unlink()

    def _same_times(self, folder: Path) -> None:
        """For an image that is reproducible: none of its times is that of the run."""
        folder.chmod(0o755)
        if self._work.ids.time is not None:
            _set_times(folder, self._work.ids.time)


def _make_folders(folder: Path, upper: Path) -> None:
    """As `mkdir -p` in an overlay's upper folder; what hides the release's one there goes."""
    if folder == upper:
        return
    _make_folders(folder.parent, upper)
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
        folder.mkdir()


def _set_times(folder: Path, when: int) -> None:
    """All that is in a folder, and itself, as of that time."""
    for top, _, names in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in names)):  # noqa: PTH118 - many
            os.utime(path, (when, when), follow_symlinks=False)
