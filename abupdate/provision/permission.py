"""Whether a disk may be written, and what of it stays: a person says so, by name.

There is no default disk. A disk is named by its serial number (or its model, where no other
disk has the same); what firmware or GRUB could mistake for ours cannot stay on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from abupdate.disk import drive as drives
from abupdate.disk.drive import Drive, Found
from abupdate.disk.layout import BIOS, BOOT, DATA, RESERVED_LABELS, Slot
from abupdate.errors import AbupdateError, RefusedError, UsageError

_TABLES = {"dos": "an MBR", None: "none"}


def must_be_given(drive: Drive) -> bool:
    """Whether somebody must say that it is this disk: nobody needs a file that is empty."""
    if drive.unfinished:
        return False
    return not (drive.is_file and drive.is_empty)


def check(drive: Drive, answer: str) -> None:
    """Raise `RefusedError` unless the answer names the disk."""
    said = answer.strip()
    if said and said in (drive.serial, drive.model):
        same = [one for one in _names() if said in one]
        if len(same) <= 1:
            return
        raise RefusedError(
            f"{len(same)} disks of this machine are '{said}': nothing was written.",
            f"Give what only {drive.path} has ('{drive.serial or drive.model}'?), or unplug the "
            "others.",
        )
    if said == drive.name:
        return
    raise RefusedError(
        f"{drive.path} is '{drive.name}', and '{said}' was given: nothing was written.",
        "Give the serial number of the disk that may be lost; `lsblk -o PATH,MODEL,SERIAL` tells.",
    )


def _names() -> Iterator[tuple[str | None, str | None]]:
    """Serial and model of each disk that can be read."""
    for path in drives.disks():
        with suppress(AbupdateError, OSError):
            one = drives.look(path)
            yield one.serial, one.model


def missing(drive: Drive) -> RefusedError:
    """Nobody was asked, and nobody has said it."""
    holds = "is empty" if drive.is_empty else "carries data"
    return RefusedError(
        f"{drive.path} {holds}, and nobody has said that it may be lost.",
        f"If it may: --erase '{drive.name}'",
    )


def kept(drive: Drive, wanted: Sequence[str], *, has_key: bool = False) -> list[Found]:
    """The partitions that stay, by name or number. Raises `RefusedError`, `UsageError`."""
    if wanted and drive.damaged is not None:
        raise RefusedError(
            f"--keep needs a table that can be read, and that of {drive.path} is damaged: "
            f"{drive.damaged}.",
            "`sgdisk --verify` tells more; `gdisk` can mend it from the copy that is whole.",
        )
    if wanted and drive.table != "gpt":
        raise RefusedError(
            f"--keep needs a partition table of the kind GPT, and {drive.path} has "
            f"{_TABLES.get(drive.table, drive.table)}.",
            "GRUB finds abupdate's partitions by GPT; `sgdisk --mbrtogpt` may convert the table.",
        )
    kept = []
    for text in dict.fromkeys(wanted):
        found = [one for one in drive.partitions if text in (one.entry.name, str(one.entry.number))]
        if len(found) != 1:
            names = ", ".join(
                f"{one.entry.number} {one.entry.name}".strip() for one in drive.partitions
            )
            raise UsageError(
                f"--keep {text}: one partition of that name or number was expected on "
                f"{drive.path}, found {len(found)} (there are: {names or 'none'})."
            )
        kept.append(found[0])
    named = [one.entry.name for one in kept if one.entry.name]
    if len(set(named)) < len(named):
        raise RefusedError(
            f"Two partitions that shall be kept have one name ({', '.join(sorted(named))}).",
            "abupdate finds partitions by their named: rename one first.",
        )
    for one in kept:
        _refuse_to_keep(one, has_key=has_key)
    return kept


def _refuse_to_keep(found: Found, *, has_key: bool) -> None:
    entry, content = found.entry, found.content
    where = f"Partition {entry.number} '{entry.name}'"
    if entry.name in (BIOS, BOOT, *(slot.label for slot in Slot)):
        raise RefusedError(
            f"{where} cannot be kept: what starts the device is made anew, and so are its slots.",
            "data, rescue and partitions of the owner's can be kept.",
        )
    if entry.esp:
        raise RefusedError(
            f"{where} is an EFI system partition, and cannot be kept: which one of two the "
            "firmware starts from is up to the firmware.",
            "Copy what is on it, and provision without keeping it.",
        )
    if content is not None and content.label in RESERVED_LABELS and entry.name != content.label:
        raise RefusedError(
            f"{where} has the label '{content.label}', by which GRUB finds a slot or its files.",
            "Give it another label first: tune2fs -L NAME, or fatlabel.",
        )
    if entry.name != DATA:
        return
    if entry.encrypted and not has_key:
        raise RefusedError(
            f"{where} is encrypted, and nothing here opens it.",
            "Give its key file: --luks-key FILE",
        )
    is_data = content is not None and (content.kind, content.label) == ("ext4", DATA)
    if not (entry.encrypted or is_data):
        kind = content.kind if content else "nothing that is known"
        raise RefusedError(
            f"{where} should hold an ext4 labelled '{DATA}' to be kept as the data partition, "
            f"found {kind}.",
            "Give another partition of the layout that name, or let it be made anew.",
        )
