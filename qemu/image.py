"""A bootable disk in a plain file, put together by hand: what `abupdate provision` does in one.

For tests that need slots of their own making; no mount, no loop device. The table, the
filesystems and GRUB's images come from the code that makes devices' disks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cache

from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import BootState
from abupdate.disk import filesystem, grubimage, images
from abupdate.disk.layout import (
    BIOS,
    BOOT,
    DATA,
    MIB,
    RESCUE,
    PartitionSpec,
    Slot,
    partitions,
)
from abupdate.disk.medium import scratch
from abupdate.disk.partition import Extent, make_table
from abupdate.provision.grub import Signed, found_files, put_places
from abupdate.provision.layout import Layout

GRUB = cache.PROJECT / "grub"


@dataclass(frozen=True)
class Sizes:
    """Bytes of the partitions and of the whole disk.

    `sector` is 512 or 4096: what the disk counts in, so an image is for one of
    them. No BIOS starts from the latter.
    """

    root: int = 1024 * MIB
    rescue: int = 32 * MIB
    boot: int = 64 * MIB
    disk: int = 5120 * MIB
    sector: int = 512

    def partitions(self) -> list[PartitionSpec]:
        """abupdate's layout in these sizes."""
        return partitions(self.root, self.rescue, self.boot)

    def layout(self) -> Layout:
        """The same as a layout file has it."""
        sizes = {BIOS: MIB, BOOT: self.boot, RESCUE: self.rescue, DATA: None}
        sizes |= {slot.label: self.root for slot in Slot}
        names = (BIOS, BOOT, RESCUE, Slot.A.label, Slot.B.label, DATA)
        return Layout.model_validate(
            {"partition": [{"name": name, "size": sizes[name]} for name in names]}
        )


class DiskImage:
    """A disk in a file that is being made: `create`, then the parts in any order."""

    def __init__(self, path: Path, extents: dict[str, Extent], sizes: Sizes) -> None:
        self.path = path
        self._extents = extents
        self._sizes = sizes

    @classmethod
    def create(cls, path: Path, sizes: Sizes) -> DiskImage:
        """An empty file with the partition table of abupdate's layout."""
        with path.open("wb") as file:
            file.truncate(sizes.disk)
        specs = sizes.partitions()
        extents = make_table(path, specs, sizes.sector)
        names = [spec.name for spec in specs]
        return cls(path, dict(zip(names, extents, strict=True)), sizes)

    def add_ext4(self, name: str, label: str, content: Path | None = None) -> str:
        """Make the ext4 of partition `name`, with the files of a folder; its UUID."""
        extent = self._extents[name]
        with scratch(self.path.parent, ".scratch-") as folder:
            part = folder / "ext4"
            images.make_ext4(part, extent.size, label, content, self._sizes.sector)
            superblock = filesystem.read_superblock(part)
            assert superblock is not None
            self._place(part, extent)
        return superblock.uuid

    def add_boot(self, state: BootState, signed: Signed | None = None) -> None:
        """The ESP with GRUB's files and boot state, and GRUB's BIOS images.

        With `signed`, UEFI starts Debian's shim and GRUB instead of our own
        image, and Secure Boot may be on (docs/secure-boot.md).
        """
        bios = self._sizes.sector == grubimage.SECTOR
        with scratch(self.path.parent, ".scratch-") as folder:
            files = found_files((_source,), folder, bios=bios, signed=signed)
            tree, part = folder / "esp", folder / "vfat"
            files.write_esp(tree)
            Grubenv(tree / "grub").write(state)
            extent = self._extents[BOOT]
            images.make_vfat(part, extent.size, tree, self._sizes.sector)
            self._place(part, extent)
        if bios:
            where = self._extents[BIOS]
            grubimage.install_bios(self.path, files.core, files.sector, where.start, where.size)
        put_places(self.path, self._sizes.sector)

    def _place(self, part: Path, extent: Extent) -> None:
        images.copy_sparse(part, self.path, extent.start)


def _source(name: str) -> bytes | None:
    path = GRUB / name
    return path.read_bytes() if path.is_file() else None
