"""GRUB's files for a new disk: the release's own, made by its publisher, or this machine's.

A folder `grub` has `grub.cfg`, `rules.cfg` and `early.cfg`. Where it also has the images that
were made of them (`make_images`), nothing of GRUB need be installed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import abupdate
from abupdate.boot import places, rules
from abupdate.boot.envblock import parse_block
from abupdate.boot.places import Place
from abupdate.boot.rules import Choice, Rules
from abupdate.boot.rulesfiles import RulesFiles
from abupdate.disk import gpt, grubimage
from abupdate.disk.gpt import Table
from abupdate.errors import RefusedError
from abupdate.paths import Paths
from abupdate.store.content import CommitContent

CONFIG, EARLY, LOST = rules.SWITCH, "early.cfg", "lost.cfg"
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
    rules: Rules
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
        put_rules(folder / "grub", self.rules)


def put_rules(folder: Path, new: Rules) -> None:
    """The rules of a new disk, twice, and which of them run."""
    files = RulesFiles(folder)
    for name in rules.NAMES:
        files.write(name, new)
    files.choose(Choice(rules.NAMES[0]))


def places_of(table: Table) -> bytes | None:
    """What GRUB shall know of a disk where it cannot read this table (`grubimage.PLACES`).

    None where a partition takes up that place, or none of the names is there.
    """
    taken = grubimage.PLACES
    if any(e.extent.start < taken.end and taken.start < e.extent.end for e in table.entries):
        return None
    found = {e.name: Place(e.extent.start, e.extent.size, e.partuuid) for e in table.entries}
    return places.encode({name: found[name] for name in places.NAMES if name in found}) or None


def tells_places(raw: bytes, table: Table) -> bool:
    """Whether what is at `grubimage.PLACES` tells what this table does; more does no harm."""
    wanted = parse_block(places_of(table) or b"") or {}
    return wanted.items() <= (parse_block(raw) or {}).items()


def put_places(disk: Path, sector: int) -> None:
    """Tell GRUB what the table of a disk tells. `sector`: what the disk counts in."""
    table = gpt.read(disk, sector)
    told = places_of(table) if table is not None else None
    if told is not None:
        grubimage.put_places(disk, told)


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
    """The files of the first place that has the whole configuration.

    `make`: images that are not there are made; else they are empty.
    """
    wanted = (CONFIG, rules.SOURCE, EARLY, LOST)
    place = next((one for one in places if None not in map(one, wanted)), None)
    config, source, early, lost = map(place, wanted) if place else (None,) * 4
    if place is None or config is None or source is None or early is None or lost is None:
        raise RefusedError(
            f"GRUB's configuration ({', '.join(wanted)}) should be in the release "
            "(/usr/lib/abupdate/grub) or on this machine, and is on neither.",
            "Install abupdate-grub here, or build the release with it.",
        )
    (scratch / "grub").mkdir(parents=True, exist_ok=True)
    (scratch / "grub" / EARLY).write_bytes(early)
    (scratch / "grub" / LOST).write_bytes(lost)
    core = sector = efi = b""
    if bios:
        core = place(CORE) or (_made(scratch, grubimage.bios_core) if make else b"")
        sector = place(SECTOR) or (grubimage.bios_boot_sector() if make else b"")
    if signed is None:
        efi = place(EFI) or (_made(scratch, grubimage.efi_image) if make else b"")
    return GrubFiles(config, rules.filled(source), early, core, sector, efi, signed)


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
    """Make the images of a folder `grub` with what is built into them, for who builds releases."""
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
