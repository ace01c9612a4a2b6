"""The same image as any disk: virtio, SATA, NVMe, USB; sectors of 512 and of 4096 bytes.

Each boot is a trial that GRUB has to count on that disk.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hardware import Bus
from image import DiskImage, Sizes

from abupdate.boot.grubenv import decode, encode
from abupdate.boot.state import arm, backup_of, begin, provision
from abupdate.disk.layout import MIB
from abupdate.disk.partition import make_table
from abupdate.errors import DeviceFaultError
from tests.grub.grubbox import (
    LABELS,
    NUMBERS,
    Disk,
    Firmware,
    assert_booted,
    boot,
    build_probe,
    write_boot_files,
)
from tests.grub.sweep import no_wait

ARMED = arm(begin(provision(3, 8), "B", "A"), "B")


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Disk]:
    """One for each size of sectors, made by the code that makes devices' disks."""
    return {size: build(tmp_path_factory.mktemp("disks"), size) for size in (512, 4096)}


def build(folder: Path, sector: int) -> Disk:
    sizes = Sizes(root=8 * MIB, rescue=8 * MIB, boot=8 * MIB, disk=40 * MIB, sector=sector)
    image = DiskImage.create(folder / "disk.img", sizes)
    probe = build_probe(folder)
    for slot in NUMBERS:
        write_boot_files(folder / slot / "boot", slot, probe)
        image.add_ext4(LABELS[slot], LABELS[slot], folder / slot)
    image.add_boot(provision(3, 8))
    return no_wait(Disk(folder / "disk.img", sizes.partitions(), sector))


def boots_and_counts(disk: Disk, firmware: Firmware, bus: Bus) -> None:
    disk.write_boot("grub/grubenv", encode(ARMED))
    disk.write_boot("grub/grubenv.bak", encode(backup_of(ARMED, ARMED.ustate)))
    found = boot(disk, firmware, bus=bus)
    assert_booted(found, disk, "B", "trial")
    assert decode(disk.read_boot("grub/grubenv")) == replace(ARMED, countdown=2, seen="B")


@pytest.mark.row("U19", "S39")
@pytest.mark.parametrize("bus", ["virtio", "sata", "nvme", "usb"])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_any_bus(disks: dict[int, Disk], tmp_path: Path, firmware: Firmware, bus: Bus) -> None:
    boots_and_counts(disks[512].copy(tmp_path / "disk.img"), firmware, bus)


@pytest.mark.row("U18")
@pytest.mark.parametrize("bus", ["virtio", "nvme"])
def test_sectors_of_4096_bytes(disks: dict[int, Disk], tmp_path: Path, bus: Bus) -> None:
    boots_and_counts(disks[4096].copy(tmp_path / "disk.img"), "uefi", bus)


@pytest.mark.row("U18")
@pytest.mark.parametrize("sector", [512, 4096])
def test_table_counts_in_sectors(tmp_path: Path, sector: int) -> None:
    """As the UEFI specification has it, 5.3.2: header, its second copy, entries."""
    image, sizes = tmp_path / "disk.img", Sizes(disk=4096 * MIB)
    with image.open("wb") as file:
        file.truncate(sizes.disk)
    extents = make_table(image, sizes.partitions(), sector)
    first = header(image, sector, 1)
    last = sizes.disk // sector - 1
    assert first == (1, last) and header(image, sector, last) == (last, 1)
    with image.open("rb") as file:
        protective = file.read(512)
        file.seek(2 * sector)
        entries = [struct.unpack_from("<QQ", file.read(128), 32) for _ in extents]
    assert struct.unpack_from("<BxxxII", protective, 446 + 4) == (0xEE, 1, last)
    assert protective[510:] == b"\x55\xaa"
    assert [(start * sector, (end + 1) * sector) for start, end in entries] == [
        (extent.start, extent.start + extent.size) for extent in extents
    ]


def header(image: Path, sector: int, place: int) -> tuple[int, int]:
    """Where a header says that it and the other one are; checked by its own sum."""
    with image.open("rb") as file:
        file.seek(place * sector)
        raw = file.read(92)
    assert raw[:8] == b"EFI PART"
    assert zlib.crc32(raw[:16] + bytes(4) + raw[20:]) == struct.unpack_from("<I", raw, 16)[0]
    own, other = struct.unpack_from("<QQ", raw, 24)
    return own, other


def test_table_for_other_sectors_than_the_disk_has(tmp_path: Path) -> None:
    """libparted ignores a size that is no multiple of 512."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    with pytest.raises(DeviceFaultError, match=r"sectors of 1000 bytes, found 512"):
        make_table(image, Sizes().partitions(), 1000)
    assert not any(image.read_bytes())
