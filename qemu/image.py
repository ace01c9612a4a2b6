"""A bootable disk in a plain file: abupdate's layout, GRUB for BIOS and UEFI, one release.

No loop device, no mount: the table comes from libparted, each filesystem is
made in a file of its own (`mke2fs -d`, mtools), checked, and copied to its
place with its holes. Making the content of a slot needs root, because a root
filesystem has owners, devices and capabilities.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cache

from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import BootState
from abupdate.disk import filesystem, grubimage
from abupdate.disk.layout import BIOS, BOOT, BOOT_LABEL, MIB, PartitionSpec, partitions
from abupdate.disk.partition import Extent, make_table
from abupdate.run import run

if TYPE_CHECKING:
    from secure_boot import Signed

GRUB = cache.PROJECT / "grub"

# One inode for that many bytes: a Debian root filesystem has files of 20 KB on average.
_INODE_RATIO = 8192
_MAKE_SECONDS = 600.0


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
        with scratch(self.path) as folder:
            part = folder / "ext4"
            make_ext4(part, extent.size, label, content, self._sizes.sector)
            superblock = filesystem.read_superblock(part)
            assert superblock is not None
            self._place(part, extent)
        return superblock.uuid

    def add_boot(self, state: BootState, signed: Signed | None = None) -> None:
        """The ESP with GRUB's files and boot state, and GRUB's BIOS images.

        With `signed`, UEFI starts Debian's shim and GRUB instead of our own
        image, and Secure Boot may be on (docs/secure-boot.md).
        """
        with scratch(self.path) as folder:
            tree, part = folder / "esp", folder / "vfat"
            (tree / "grub").mkdir(parents=True)
            shutil.copy(GRUB / "grub.cfg", tree / "grub")
            Grubenv(tree / "grub").write(state)
            _add_efi(tree / "EFI", signed)
            extent = self._extents[BOOT]
            make_vfat(part, extent.size, tree, self._sizes.sector)
            self._place(part, extent)
            if self._sizes.sector == grubimage.SECTOR:
                core, bios = folder / "core.img", self._extents[BIOS]
                grubimage.bios_core(GRUB, core)
                grubimage.install_bios(self.path, core, bios.start, bios.size)

    def _place(self, part: Path, extent: Extent) -> None:
        copy_sparse(part, self.path, extent.start)


def _add_efi(folder: Path, signed: Signed | None) -> None:
    """What the firmware starts."""
    boot = folder / "BOOT"
    boot.mkdir(parents=True)
    if signed is None:
        grubimage.efi_image(GRUB, boot / "BOOTX64.EFI")
        return
    shutil.copy(signed.shim, boot / "BOOTX64.EFI")
    # shim looks for this name beside itself, and Debian's GRUB reads this folder.
    shutil.copy(signed.grub, boot / "grubx64.efi")
    (folder / "debian").mkdir()
    shutil.copy(GRUB / "early.cfg", folder / "debian" / "grub.cfg")


def make_ext4(
    path: Path, size: int, label: str, content: Path | None = None, sector: int = 512
) -> None:
    """An ext4 in a file, with the files of a folder (owners and times included)."""
    with path.open("wb") as file:
        file.truncate(size)
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-i", str(_INODE_RATIO), "-L", label]
    words += ["-O", filesystem.FEATURES]
    if sector > 1024:
        # A block is at least a sector; small filesystems would have less.
        words += ["-b", str(sector)]
    if content is not None:
        words += ["-d", str(content)]
    run([*words, path], timeout=_MAKE_SECONDS)
    if content is not None:
        _set_root(path, content.stat())
    run(["e2fsck", "-fn", path], timeout=_MAKE_SECONDS)


def _set_root(path: Path, like: os.stat_result) -> None:
    """Owner, mode and time of the root folder, which `mke2fs -d` leaves as it made them."""
    fields = {
        "mode": f"0{like.st_mode:o}",
        "uid": like.st_uid,
        "gid": like.st_gid,
        "mtime": f"@{like.st_mtime_ns // 10**9}",
        "mtime_extra": (like.st_mtime_ns % 10**9) << 2,
    }
    lines = "".join(f"set_inode_field <2> {name} {value}\n" for name, value in fields.items())
    run(["debugfs", "-w", "-f", "-", path], stdin=lines.encode())


def make_vfat(path: Path, size: int, content: Path, sector: int) -> None:
    """The ESP's filesystem in a file, with the files of a folder."""
    with path.open("wb") as file:
        file.truncate(size)
    geometry = ("-M", str(sector), "-T", str(size // sector))
    run(["mformat", "-i", path, *geometry, "-v", BOOT_LABEL, "::"])
    run(["mcopy", "-i", path, "-s", *sorted(content.iterdir()), "::"])


def copy_sparse(source: Path, target: Path, offset: int) -> None:
    """Copy a file into another one at `offset`; holes stay holes."""
    with source.open("rb", buffering=0) as reader, target.open("r+b", buffering=0) as writer:
        for start, end in _data(reader.fileno()):
            position = os.lseek(writer.fileno(), offset + start, os.SEEK_SET) - offset
            while position < end:
                left = end - position
                position += os.sendfile(writer.fileno(), reader.fileno(), position, left)


def content_hash(path: Path) -> str:
    """SHA-256 over all data of a sparse file and where it is; quick, unlike its holes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for start, end in _data(file.fileno()):
            digest.update(f"{start} {end}\0".encode())
            for at in range(start, end, MIB):
                digest.update(os.pread(file.fileno(), min(MIB, end - at), at))
    return digest.hexdigest()


def _data(fd: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data: start and end of each run."""
    size = os.fstat(fd).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as the image."""
    with tempfile.TemporaryDirectory(dir=beside.parent, prefix=".scratch-") as folder:
        yield Path(folder)
