"""GRUB's own images: made from the distribution's modules, with everything built in.

One image a firmware, no module is ever read from a disk, so that what was
tested is what runs. The BIOS image goes where GPT has room for it (the
`bios_grub` partition) and is entered from the boot sector; the UEFI one is a
file on the boot partition. Both hold `early.cfg`, which reads `grub/grub.cfg`, and
`lost.cfg`, which starts rescue where that is gone.
"""

from __future__ import annotations

import os
import struct
import tarfile
import tempfile
from pathlib import Path

from abupdate.disk.partition import Extent
from abupdate.errors import DeviceFaultError
from abupdate.failpoints import failpoint
from abupdate.run import run

GRUB_LIBRARY = Path("/usr/lib/grub")
BIOS_FORMAT = "i386-pc"
EFI_FORMAT = "x86_64-efi"

# What grub.cfg needs. All of these are in Debian's signed GRUB as well.
MODULES = (
    "normal",
    "configfile",
    "part_gpt",
    "fat",
    "ext2",
    "boot",
    "chain",
    "echo",
    "linux",
    "loadenv",
    "probe",
    "reboot",
    "regexp",
    "serial",
    "sleep",
    "test",
    "true",
)
# Used where it is there: checks kernel and initrd before they are started.
HASH_MODULES = ("hashsum", "gcry_sha256")
# Used where the owner wants a watchdog before the kernel. Not in Debian's signed GRUB.
WATCHDOG_MODULES = ("setpci", "memrw")
# What is built in besides early.cfg: a tar, as a disk of its own.
MEMORY_MODULES = ("memdisk", "tar")
# Makes a disk of a part of another one, for lost.cfg.
PART_MODULES = ("loopback",)
# For a person at GRUB's command line.
PERSON_MODULES = ("cat", "halt", "ls")
BIOS_MODULES = ("biosdisk",)
EFI_MODULES = ("efi_gop", "efi_uga")

SECTOR = 512

# Where lost.cfg reads what boot/places.py formats: between the table and the first partition.
PLACES = Extent((1 << 20) - 1024, 1024)

# Offsets in the boot sector and in the first sector of the core image:
# include/grub/i386/pc/boot.h and util/setup.c of GRUB 2.06 and 2.12.
CODE_END = 0x1B8
_PARTITIONS_END = 0x1FE
_KERNEL_SECTOR = 0x5C
_BOOT_DRIVE_CHECK = 0x66
_BLOCK_LIST = SECTOR - 12
_BLOCK_LIST_FORMAT = "<QHH"
_LOAD_SEGMENT = 0x820


def bios_core(grub_dir: Path, out: Path, *, library: Path = GRUB_LIBRARY) -> None:
    """Make the core image for BIOS boots. `grub_dir` is where early.cfg and lost.cfg are."""
    modules = (*MODULES, *BIOS_MODULES, *_own_modules())
    _make_image(grub_dir, out, BIOS_FORMAT, modules, library)


def efi_image(grub_dir: Path, out: Path, *, library: Path = GRUB_LIBRARY) -> None:
    """Make `EFI/BOOT/BOOTX64.EFI`. `grub_dir` is where early.cfg and lost.cfg are."""
    modules = (*MODULES, *EFI_MODULES, *_own_modules())
    _make_image(grub_dir, out, EFI_FORMAT, modules, library)


def _own_modules() -> tuple[str, ...]:
    """What Debian's signed GRUB need not have."""
    wanted = (HASH_MODULES, WATCHDOG_MODULES, MEMORY_MODULES, PART_MODULES, PERSON_MODULES)
    return tuple(name for names in wanted for name in names)


def _make_image(
    grub_dir: Path, out: Path, image_format: str, modules: tuple[str, ...], library: Path
) -> None:
    lines = (grub_dir / "early.cfg").read_text().splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        # The parser that reads it in the image knows no comments.
        config = Path(scratch) / "early.cfg"
        config.write_text("".join(f"{line}\n" for line in lines if not line.startswith("#")))
        memory = Path(scratch) / "memory.tar"
        _write_tar(memory, grub_dir / "lost.cfg")
        run(
            [
                "grub-mkimage",
                f"--directory={library / image_format}",
                f"--format={image_format}",
                # It has a prefix of its own, for which the next one is: in this order.
                f"--memdisk={memory}",
                "--prefix=/grub",
                f"--config={config}",
                f"--output={out}",
                *modules,
            ]
        )


def _write_tar(path: Path, content: Path) -> None:
    """One file as a tar, the same bytes each time."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(content.name)
        member.size = content.stat().st_size
        with content.open("rb") as file:
            tar.addfile(member, file)


def install_bios(disk: Path, core: bytes, boot: bytes, start: int, room: int) -> None:
    """Put the core image at byte `start` of a disk (or its image), and enter it from the MBR.

    `boot` is GRUB's boot sector (boot.img), `room` the bytes of the `bios_grub` partition
    that begins at `start`. The
    partition table in the boot sector stays. Flushed to the disk, the core
    image before the boot sector. Raises `DeviceFaultError` when it does not fit.
    """
    image = _placed_core(core, start // SECTOR)
    if start % SECTOR or len(image) > room:
        raise DeviceFaultError(
            f"GRUB's core image ({len(image)} bytes) should fit into the {room} bytes at {start}.",
            "The bios_grub partition needs 1 MiB.",
        )
    with disk.open("r+b", buffering=0) as file:
        _write_all(file.fileno(), image, start)
    failpoint("boot-code-half-written")
    enter_bios(disk, boot, start)


def enter_bios(disk: Path, boot: bytes, start: int) -> None:
    """Have the MBR start the core image at byte `start`; it is one sector, so whole or not."""
    with disk.open("r+b", buffering=0) as file:
        table = os.pread(file.fileno(), SECTOR, 0)
        _write_all(file.fileno(), _placed_boot_sector(boot, table, start // SECTOR), 0)


def put_places(disk: Path, raw: bytes) -> None:
    """Write what lost.cfg reads where it cannot read the partition table; `raw` fills its place.

    Until its last sector is there GRUB takes it for none, or finds no partition there.
    """
    assert len(raw) == PLACES.size
    with disk.open("r+b", buffering=0) as file:
        _write_all(file.fileno(), raw, PLACES.start)


def places(disk: Path) -> bytes:
    """What is there now."""
    with disk.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), PLACES.size, PLACES.start)


def core_fault(disk: Path, start: int) -> str | None:
    """Why what is at byte `start` is no core image that was put there; None where it is one."""
    with disk.open("rb", buffering=0) as file:
        first = os.pread(file.fileno(), SECTOR, start)
        sector, length, segment = struct.unpack_from(_BLOCK_LIST_FORMAT, first, _BLOCK_LIST)
        placed = (sector, segment) == (start // SECTOR + 1, _LOAD_SEGMENT) and length > 0
        if not placed:
            return "no GRUB"
        image = os.pread(file.fileno(), length * SECTOR, start + SECTOR)
    return None if all(map(any, _halves(image))) else "a GRUB that is cut off"


def _halves(image: bytes) -> tuple[bytes, bytes]:
    return image[: len(image) // 2], image[len(image) // 2 :]


def entry_fault(disk: Path, start: int) -> str | None:
    """Why the MBR does not start the core image at byte `start`; None where it does."""
    with disk.open("rb", buffering=0) as file:
        raw = os.pread(file.fileno(), SECTOR, 0)
    if b"GRUB" not in raw[:CODE_END] or raw[_PARTITIONS_END:] != b"\x55\xaa":
        return "no boot code of GRUB"
    (sector,) = struct.unpack_from("<Q", raw, _KERNEL_SECTOR)
    return None if sector == start // SECTOR else f"GRUB's boot code for sector {sector}"


def bios_boot_sector(library: Path = GRUB_LIBRARY) -> bytes:
    """GRUB's boot sector as the distribution has it."""
    return (library / BIOS_FORMAT / "boot.img").read_bytes()


def _placed_core(core: bytes, first_sector: int) -> bytes:
    """The core image with its block list: one run of sectors, right behind its own first."""
    padded = bytearray(core + bytes(-len(core) % SECTOR))
    entry = (first_sector + 1, len(padded) // SECTOR - 1, _LOAD_SEGMENT)
    struct.pack_into(_BLOCK_LIST_FORMAT, padded, _BLOCK_LIST, *entry)
    return bytes(padded)


def _placed_boot_sector(boot: bytes, table: bytes, core_sector: int) -> bytes:
    """GRUB's boot sector, with the disk's own partition table and where the core image is."""
    sector = bytearray(boot)
    struct.pack_into("<Q", sector, _KERNEL_SECTOR, core_sector)
    # Some BIOSes pass the wrong drive number; as for every hard disk, the check
    # for a floppy (a jump of two bytes) gives way to their work-around.
    sector[_BOOT_DRIVE_CHECK : _BOOT_DRIVE_CHECK + 2] = b"\x90\x90"
    sector[CODE_END:_PARTITIONS_END] = table[CODE_END:_PARTITIONS_END]
    return bytes(sector)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    if written != len(data):
        raise DeviceFaultError(f"Writing {len(data)} bytes of GRUB wrote {written} of them.")
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if os.pread(fd, len(data), offset) != data:
        raise DeviceFaultError(
            f"The disk should hold the GRUB that was written at byte {offset}, and does not.",
            "Run it again; if it happens twice, the disk is failing.",
        )
