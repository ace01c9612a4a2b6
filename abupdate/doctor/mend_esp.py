"""Mends what firmware and GRUB start from: the ESP, its files, and the BIOS's boot code.

What is put back is what the running system carries in /usr/lib/abupdate/grub: rescue's own, or
those of a slot that is confirmed. `provision/grub.py` says what belongs on an ESP. Images that
are there stay as they are: they are what was tried on this machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abupdate.disk import drive, filesystem, grubimage, images
from abupdate.disk.layout import BIOS, Partition
from abupdate.doctor import diagnose_esp
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair, Wishes
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.failpoints import failpoint
from abupdate.provision import grub
from abupdate.provision.grub import GrubFiles
from abupdate.run import run
from abupdate.update.records import replace_file

_CONFIG = f"grub/{grub.CONFIG}"
_SETTINGS = "grub/settings.env"
_IMAGES = (f"EFI/BOOT/{grub.EFI}", "EFI/BOOT/grubx64.efi")
_MOUNT = ("-t", diagnose_esp.FAT, "-o", "ro,nodev,nosuid,noexec,umask=0077")
_SECONDS = 60.0
_BY_HAND = (
    "Have the next release bring those packages, or copy shim to EFI/BOOT/BOOTX64.EFI and Debian's "
    "GRUB to EFI/BOOT/grubx64.efi yourself: docs/secure-boot.md."
)
_CUT = "A power cut while it is written may leave a machine that does not start"


def plan(now: Look, wishes: Wishes) -> Plan:
    """The filesystem, then its files, then the boot code of a BIOS."""
    if now.obstacle:
        return []
    if not now.trusted:
        return _refused_all(now)
    found: Plan = [*_filesystem(now), *_boot_code(now)]
    if now.esp_readable and not now.found("esp-write-protected", "esp-read-only"):
        found += _files(now)
        if "grub-images" in wishes.also:
            found.append(_images_again(now))
    return found


def _refused_all(now: Look) -> Plan:
    names = ("esp-unreadable", "esp-file-missing", "boot-code-missing", "grub-cfg-damaged")
    there = tuple(sorted({one.id for one in now.found(*names)}))
    if not there:
        return []
    why = (
        "What runs is not confirmed, and so gives nothing of its own to the disk: confirm it, or "
        "start rescue (abupdate rescue boot)."
    )
    return [Refusal(there, why)]


# --- The filesystem ---


def _filesystem(now: Look) -> Plan:
    esp = diagnose_esp.partition(now.disk)
    if esp is None or diagnose_esp.mounted_anywhere(esp):
        return []
    where = now.machine.paths.esp
    if now.found("esp-unreadable"):
        holds = drive.content(esp.device)
        has = f"{holds.kind}" if holds else "nothing that is known"
        return [
            Repair(
                "esp",
                ("esp-unreadable", "esp-not-mounted"),
                f"Make a new FAT filesystem on {esp.device} with GRUB's files of the running "
                f"system, because it holds {has}, and the machine starts from there.",
                lambda: _made(now, esp),
                risk=f"All that {esp.device} holds ({has}) is lost." if holds else None,
            )
        ]
    if now.found("esp-not-mounted"):
        return [
            Repair(
                "esp-mount",
                ("esp-not-mounted",),
                f"Mount {esp.device} at {where}, because it holds the boot state, and is not "
                "mounted.",
                lambda: mount(esp, where),
            )
        ]
    return []


def mount(esp: Partition, where: Path) -> str:
    """As the initramfs does (initramfs/abupdate-mount)."""
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", *_MOUNT, esp.device, where], timeout=_SECONDS)
    return f"{esp.device} is mounted at {where}."


def _made(now: Look, esp: Partition) -> str:
    """A new filesystem with all that belongs there, but for the boot state.

    Its first sectors come last. Whenever the power goes before that, there is no filesystem as
    before; after it, GRUB starts, finds no boot state, and starts rescue.
    """
    filesystem.refuse_if_in_use(esp.device)
    paths = now.machine.paths
    if why := _no_firmware_takes(now):
        raise RefusedError(f"{esp.device} was not made anew. {why}", _BY_HAND)
    sector = now.copies.sector if now.copies else 512
    with _carried(now) as files, _scratch(paths.runtime) as scratch:
        folder, image = scratch / "esp", scratch / "esp.img"
        files.write_esp(folder)
        kept = _salvaged(esp.device, folder / _SETTINGS)
        images.make_vfat(image, esp.size, folder, sector)
        images.put(image, esp.device)
    failpoint("esp-written")
    told = mount(esp, paths.esp)
    return f"{told} It has GRUB's files{' and your grub/settings.env' if kept else ''}."


def _salvaged(device: Path, target: Path) -> bool:
    """The owner's settings, where the old filesystem still gives them."""
    words: list[str | Path] = ["mcopy", "-n", "-i", device, f"::/{_SETTINGS}", target]
    return run(words, ok=range(256), timeout=_SECONDS).code == 0 and target.is_file()


# --- Its files ---


def _files(now: Look) -> Plan:
    esp = now.machine.paths.esp
    found: Plan = []
    absent = diagnose_esp.missing_files(now.machine.paths, diagnose_esp.wanted(now.machine.paths))
    mended = [one.id for one in now.found("esp-file-missing")]
    mended += [one.id for one in now.found("grub-cfg-missing") if one.repairable]
    if mended:
        wanted = absent if "grub-cfg-missing" in mended else absent - {_CONFIG}
        found.append(
            Repair(
                "esp-files",
                tuple(mended),
                f"Put {' and '.join(sorted(wanted))} back into {esp} from "
                f"{now.machine.paths.vendor / 'grub'}, because the machine starts from there, and "
                "nothing of use is at that name.",
                lambda: _put_back(now, wanted),
            )
        )
    if now.found("grub-cfg-damaged"):
        found.append(
            Repair(
                "grub-cfg",
                ("grub-cfg-damaged",),
                f"Replace {esp / _CONFIG} with the running system's own, because it is cut off or "
                "has bytes that are no text.",
                lambda: _put_back(now, {_CONFIG}),
                risk=f"{_CUT}: a FAT has no atomic replacement.",
            )
        )
    return found


def _put_back(now: Look, names: set[str]) -> str:
    """One file after the other, `grub/` first and what the firmware starts last.

    Each gets its name when its bytes are on the disk. A power cut leaves those that came before,
    and the next run finds the others.
    """
    paths = now.machine.paths
    with _carried(now) as files:
        content = files.on_esp()
        lacking = _no_firmware_takes(now)
        if lacking:
            content = {name: raw for name, raw in content.items() if name not in _IMAGES}
            content[f"EFI/debian/{grub.CONFIG}"] = files.early
    with filesystem.writable(paths.esp):
        for name in [one for one in content if one in names]:
            _put(paths.esp / name, content[name])
            failpoint("esp-file-written")
    there = " and ".join(sorted(names & content.keys())) or "Nothing"
    told = f"{there}: put back into {paths.esp}."
    if left := names - content.keys():
        why = lacking or "Nothing here knows what that should hold."
        raise RefusedError(f"{told} Not put back: {' and '.join(sorted(left))}. {why}", _BY_HAND)
    return told


def _put(path: Path, content: bytes) -> None:
    replace_file(path, content)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)  # vfat keeps a new name with the file, not with the folder
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    if path.read_bytes() != content:
        raise DeviceFaultError(
            f"{path} should hold what was just written, and does not.",
            "The disk does not keep what is written to it.",
        )


def _images_again(now: Look) -> Repair:
    where = diagnose_esp.bios_extent(now.copies)
    bios = f", and those in {now.disk.device} for a BIOS" if where else ""
    return Repair(
        "grub-images",
        (),
        f"Replace GRUB's images in {now.machine.paths.esp / 'EFI'}{bios} with the running "
        "system's, because you asked for it.",
        lambda: _replace_images(now),
        risk=f"{_CUT}; nobody tried these on this machine.",
    )


def _replace_images(now: Look) -> str:
    told = _put_back(now, set(_IMAGES) & diagnose_esp.wanted(now.machine.paths))
    return f"{told} {_put_boot_code(now, again=True)}".strip()


# --- What a BIOS starts ---


def _boot_code(now: Look) -> Plan:
    if not now.found("boot-code-missing"):
        return []
    return [
        Repair(
            "boot-code",
            ("boot-code-missing",),
            f"Put what is missing of GRUB for a BIOS back into the first sector and the partition "
            f"'{BIOS}' of {now.disk.device}: {now.found('boot-code-missing')[0].message}",
            lambda: _put_boot_code(now),
        )
    ]


def _put_boot_code(now: Look, *, again: bool = False) -> str:
    """The core image, then the boot sector that enters it, each read back.

    What is whole is not touched (but with `again`). A BIOS started nothing before, and starts
    nothing until the boot sector, which is written as one, is there.
    """
    where, disk = diagnose_esp.bios_extent(now.copies), now.disk.device
    if where is None:
        return ""
    with _carried(now, bios=True) as files:
        if again or grubimage.core_fault(disk, where.start):
            grubimage.install_bios(disk, files.core, files.sector, where.start, where.size)
        else:
            grubimage.enter_bios(disk, files.sector, where.start)
    return f"GRUB's code for a BIOS is on {disk}."


# --- What is carried ---


@contextmanager
def _carried(now: Look, *, bios: bool = False) -> Iterator[GrubFiles]:
    """GRUB's files of the running system. Raises `RefusedError` where it has none."""
    paths = now.machine.paths
    signed = grub.carried_signed(paths) if diagnose_esp.is_signed(paths) else None
    with _scratch(paths.runtime) as scratch:
        yield grub.carried(
            paths, scratch, bios=bios, signed=signed, make=not _no_firmware_takes(now)
        )


def _no_firmware_takes(now: Look) -> str | None:
    """Why images of ours are of no use to this machine, and those that are, are not here."""
    paths = now.machine.paths
    if not diagnose_esp.is_signed(paths) or grub.carried_signed(paths) is not None:
        return None
    return (
        "This machine starts by Secure Boot, and no firmware would start an image of ours; those "
        "that it takes (Debian's packages shim-signed and grub-efi-amd64-signed) are not here."
    )


@contextmanager
def _scratch(runtime: Path) -> Iterator[Path]:
    runtime.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runtime) as name:
        yield Path(name)
