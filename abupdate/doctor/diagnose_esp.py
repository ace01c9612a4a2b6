"""What `doctor` sees of GRUB itself: its images on the ESP, and what a BIOS starts.

Images are looked for, and not compared: they stay as the first install put them, so that those
of the release that runs are as a rule others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from abupdate.disk import drive, grubimage
from abupdate.disk.gptcopies import Copies
from abupdate.disk.layout import BIOS, BOOT, BootDisk, Partition
from abupdate.disk.partition import Extent
from abupdate.doctor.findings import Finding, finding
from abupdate.errors import AbupdateError
from abupdate.paths import Paths
from abupdate.provision import grub

FAT = "vfat"
_PE = b"MZ"
# It has findings of its own, by what is in it.
_CONFIG = f"grub/{grub.CONFIG}"
_SECURE_BOOT = Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")


def content_findings(paths: Paths, disk: BootDisk, *, readable: bool) -> Iterator[Finding]:
    """`readable`: the ESP is mounted; else whether it can be mounted at all."""
    if readable:
        missing = sorted(missing_files(paths, wanted(paths)) - {_CONFIG})
        if missing:
            yield finding(
                "esp-file-missing",
                f"{paths.esp} should have all that starts this machine, found nothing, or nothing "
                f"of use, at {' and '.join(missing)}.",
                "abupdate doctor --repair puts back what the running system carries.",
            )
        return
    esp = partition(disk)
    if esp is None or mounted_anywhere(esp):
        return
    found = drive.content(esp.device)
    if found is None or found.kind != FAT:
        has = f"{found.kind}" if found else "nothing that is known"
        yield finding(
            "esp-unreadable",
            f"{esp.device} should hold a FAT filesystem, from which firmware and GRUB start, "
            f"found {has}.",
            "abupdate doctor --repair makes it anew.",
        )


def boot_code_findings(disk: Path, copies: Copies | None) -> Iterator[Finding]:
    """What a BIOS starts, where the disk has a place for it."""
    where = bios_extent(copies)
    if where is None:
        return
    faults = [
        f"{fault} {place}"
        for fault, place in (
            (grubimage.entry_fault(disk, where.start), "in its first sector"),
            (grubimage.core_fault(disk, where.start), f"in its partition '{BIOS}'"),
        )
        if fault
    ]
    if faults:
        yield finding(
            "boot-code-missing",
            f"{disk} should have GRUB for a BIOS, found {' and '.join(faults)}.",
            "abupdate doctor --repair puts back what the running system carries.",
        )


def wanted(paths: Paths) -> set[str]:
    """The files that belong on the ESP, by their paths there."""
    names = {_CONFIG, f"EFI/BOOT/{grub.EFI}"}
    with tempfile.TemporaryDirectory() as scratch:
        signed = grub.carried_signed(paths) if is_signed(paths) else None
        try:
            files = grub.carried(paths, Path(scratch), bios=False, signed=signed, make=False)
        except AbupdateError:  # this release brings none
            return names
    return names | set(files.on_esp())


def missing_files(paths: Paths, names: set[str]) -> set[str]:
    """Those that are not there, are empty, or are no image where there should be one."""
    missing = set()
    for name in names:
        try:
            with (paths.esp / name).open("rb") as file:
                start = file.read(len(_PE))
        except OSError:
            start = b""
        if not start or (PurePosixPath(name).suffix.lower() == ".efi" and start != _PE):
            missing.add(name)
    return missing


def is_signed(paths: Paths) -> bool:
    """Whether this machine starts by Secure Boot, or has been made for it."""
    try:
        if _SECURE_BOOT.read_bytes()[-1:] == b"\1":
            return True
    except OSError:
        pass
    return (paths.esp / "EFI/BOOT/grubx64.efi").exists() or (paths.esp / "EFI/debian").exists()


def bios_extent(copies: Copies | None) -> Extent | None:
    """Where GRUB's core image is; None where no BIOS can start this disk."""
    if copies is None or copies.whole is None or copies.sector != grubimage.SECTOR:
        return None
    entries = copies.whole.table.entries
    return next((one.extent for one in entries if one.name == BIOS), None)


def partition(disk: BootDisk) -> Partition | None:
    """The ESP, by the number that GRUB takes it by."""
    named = [part for part in disk.partitions if part.name == BOOT and part.number == 2]
    return named[0] if len(named) == 1 else None


def mounted_anywhere(part: Partition) -> bool:
    """Whether a partition is mounted."""
    from abupdate.disk.filesystem import mounts
    from abupdate.doctor.diagnose_disk import number_of

    return number_of(part.device) in {entry.device_number for entry in mounts()}
