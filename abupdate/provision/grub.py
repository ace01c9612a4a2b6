"""GRUB's files for a new disk: the release's own, made by its publisher, or this machine's.

A folder `grub` has `grub.cfg` and `early.cfg`. Where it also has the images that were made
of them (`make_images`), nothing of GRUB need be installed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import abupdate
from abupdate.disk import grubimage
from abupdate.errors import RefusedError
from abupdate.paths import Paths
from abupdate.store.content import CommitContent

CONFIG, EARLY = "grub.cfg", "early.cfg"
CORE, SECTOR, EFI = "core.img", "boot.img", "BOOTX64.EFI"
_LIMIT = 16 << 20
# Of the packages shim-signed and grub-efi-amd64-signed.
_SIGNED = (
    "usr/lib/shim/shimx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
)  # fmt: skip


@dataclass(frozen=True)
class Signed:
    """What starts under Secure Boot: Debian's `shim` (signed by Microsoft) and its `grub`."""

    shim: Path
    grub: Path


@dataclass(frozen=True)
class GrubFiles:
    """What goes on the disk. `core` and `sector` are empty where no BIOS shall start it.

    With `signed`, UEFI starts shim and Debian's GRUB instead of `efi`.
    """

    config: bytes
    early: bytes
    core: bytes
    sector: bytes
    efi: bytes
    signed: Signed | None = None

    def on_esp(self) -> dict[str, bytes]:
        """What belongs on the ESP by its path there, the boot state apart. `grub/` comes first."""
        files = {f"grub/{CONFIG}": self.config}
        if self.signed is None:
            return {**files, f"EFI/BOOT/{EFI}": self.efi}
        return {
            **files,
            # shim looks for this name beside itself, and Debian's GRUB reads this folder.
            f"EFI/debian/{CONFIG}": self.early,
            "EFI/BOOT/grubx64.efi": self.signed.grub.read_bytes(),
            f"EFI/BOOT/{EFI}": self.signed.shim.read_bytes(),
        }

    def write_esp(self, folder: Path) -> None:
        """Put the ESP's files into a folder, the boot state apart."""
        for name, content in self.on_esp().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def grub_files(
    content: CommitContent,
    paths: Paths,
    scratch: Path,
    *,
    bios: bool,
    signed: Signed | None = None,
) -> GrubFiles:
    """The release's, where it has them, else this machine's; images are made where there are none.

    Raises `RefusedError` where there are none, `DeviceFaultError` where GRUB is not installed.
    """

    def of_release(name: str) -> bytes | None:
        return content.file(f"usr/lib/abupdate/grub/{name}".encode(), _LIMIT)

    return found_files((of_release, *_here(paths)), scratch, bios=bios, signed=signed)


def found_files(
    places: tuple[Callable[[str], bytes | None], ...],
    scratch: Path,
    *,
    bios: bool,
    signed: Signed | None = None,
    make: bool = True,
) -> GrubFiles:
    """The files of the first place that has a `grub.cfg`.

    `make`: images that are not there are made; else they are empty.
    """
    place = next((one for one in places if one(CONFIG) is not None), None)
    config, early = (place(CONFIG), place(EARLY)) if place else (None, None)
    if place is None or config is None or early is None:
        raise RefusedError(
            "GRUB's configuration should be in the release (/usr/lib/abupdate/grub) or on this "
            "machine, and is on neither.",
            "Install abupdate-grub here, or build the release with it.",
        )
    (scratch / "grub").mkdir(parents=True, exist_ok=True)
    (scratch / "grub" / EARLY).write_bytes(early)
    core = sector = efi = b""
    if bios:
        core = place(CORE) or (_made(scratch, grubimage.bios_core) if make else b"")
        sector = place(SECTOR) or (grubimage.bios_boot_sector() if make else b"")
    if signed is None:
        efi = place(EFI) or (_made(scratch, grubimage.efi_image) if make else b"")
    return GrubFiles(config, early, core, sector, efi, signed)


def carried(
    paths: Paths, scratch: Path, *, bios: bool, signed: Signed | None = None, make: bool = True
) -> GrubFiles:
    """What the system that runs carries for its own disk, in /usr/lib/abupdate/grub.

    `make`, and what is raised: as of `found_files` and `grub_files`.
    """
    return found_files((_here(paths)[0],), scratch, bios=bios, signed=signed, make=make)


def carried_signed(paths: Paths) -> Signed | None:
    """What Debian's packages for Secure Boot have installed here; None where one is missing."""
    shim, grub = (paths.root / name for name in _SIGNED)
    return Signed(shim, grub) if shim.is_file() and grub.is_file() else None


def make_images(folder: Path) -> None:
    """Make the images of a folder `grub` with its `early.cfg`, for who builds releases."""
    grubimage.bios_core(folder, folder / CORE)
    grubimage.efi_image(folder, folder / EFI)
    (folder / SECTOR).write_bytes(grubimage.bios_boot_sector())


def _here(paths: Paths) -> tuple[Callable[[str], bytes | None], ...]:
    """What this machine has: as installed, or in the source tree that this module is in."""
    folders = (paths.vendor / "grub", Path(abupdate.__file__).parent.parent / "grub")

    def reader(folder: Path) -> Callable[[str], bytes | None]:
        def read(name: str) -> bytes | None:
            path = folder / name
            return path.read_bytes() if path.is_file() else None

        return read

    return tuple(reader(folder) for folder in folders)


def _made(scratch: Path, make: Callable[[Path, Path], None]) -> bytes:
    out = scratch / "grub" / "image"
    make(scratch / "grub", out)
    return out.read_bytes()
