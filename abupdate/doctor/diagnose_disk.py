"""What `doctor` sees of the disk: the ESP that is mounted, the partitions, the labels.

GRUB and userland look with different eyes, and both must find the same: GRUB
takes partition 2 of its own disk as the ESP and slots by filesystem label,
userland takes partitions by GPT name among the siblings of the mounted root.
Which disk GRUB came from is known through the root: GRUB looks for slots on
its own disk only, and the kernel was told that partition by its PARTUUID. A
copy of the disk with the same PARTUUIDs breaks that, so it is a finding.

A FAT partition with the label of a slot is not seen here: only ext
superblocks are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from abupdate.boot.state import BootState
from abupdate.disk.filesystem import mounts
from abupdate.disk.find import twins
from abupdate.disk.layout import BOOT, DATA, RESCUE, BootDisk, Partition, Slot
from abupdate.doctor.findings import Finding, finding
from abupdate.errors import RefusedError
from abupdate.update.records import Records
from abupdate.update.target import write_protected

# `set esp="($disk,gpt2)"` in grub.cfg.
_ESP_NUMBER = 2
_SYSFS = Path("/sys/dev/block")


def esp_findings(disk: BootDisk, mountpoint: Path) -> list[Finding]:
    """Whether what is mounted at `mountpoint` is the partition that GRUB reads, and can be written.

    A read-only mount is by design: `filesystem.writable` opens it for a write.
    """
    expected = _esp(disk)
    where = expected.device if expected else f"partition {_ESP_NUMBER} of {disk.device}"
    entry = next((e for e in reversed(mounts()) if e.target == str(mountpoint)), None)
    if entry is None:
        return [
            finding(
                "esp-not-mounted",
                f"{where} should be mounted at {mountpoint}, found nothing mounted there.",
                f"See /run/abupdate/mounts; then: mount -o ro,umask=0077 {where} {mountpoint}",
            )
        ]
    if expected is None or entry.device_number != number_of(expected.device):
        return [
            finding(
                "esp-foreign",
                f"{mountpoint} should be {where}, which GRUB reads, found block device "
                f"{_node(entry.device_number)} mounted there.",
                f"Unmount it, and mount the right one: umount {mountpoint} && "
                f"mount -o ro,umask=0077 {where} {mountpoint}",
            )
        ]
    if write_protected(entry.device_number):
        return [
            finding(
                "esp-write-protected",
                f"{expected.device} should take writes, found its block device read-only.",
                "Look for a write-protect switch and for errors of the disk in the kernel's log.",
            )
        ]
    if "ro" not in entry.options and os.statvfs(mountpoint).f_flag & os.ST_RDONLY:
        return [
            finding(
                "esp-read-only",
                f"{mountpoint} is mounted writable and its filesystem should be so too, "
                "found it read-only: the kernel does that after an error in it.",
                f"Check it: umount {mountpoint} && fsck.vfat -a {expected.device}, then reboot.",
            )
        ]
    return []


def partition_findings(disk: BootDisk) -> list[Finding]:
    """Names that are missing or there twice, and a copy of this disk."""
    return [*_twin(disk), *_names(disk)]


def _twin(disk: BootDisk) -> Iterator[Finding]:
    others = twins(disk)
    if others:
        yield finding(
            "disk-twin",
            f"The PARTUUID {disk.root.partuuid} should be on {disk.root.device} only, "
            f"found it on {_list(others)} too: GRUB may use one disk and the kernel another.",
            "Detach the copy, or give it IDs of its own: sgdisk -G DISK",
        )


def _names(disk: BootDisk) -> Iterator[Finding]:
    for name in (BOOT, RESCUE, Slot.A.label, Slot.B.label, DATA):
        found = [part for part in disk.partitions if part.name == name]
        if not found and name != RESCUE:
            yield finding(
                "partition-missing",
                f"{disk.device} should have a partition named '{name}', found none.",
                "Name it again if it is there (sfdisk --part-label); docs/disk.md has the layout.",
            )
        elif len(found) > 1:
            yield finding(
                "partition-doubled",
                f"One partition of {disk.device} should be named '{name}', "
                f"found {_list(part.device for part in found)}.",
                "Rename the one that is not abupdate's: sfdisk --part-label",
            )


def label_findings(
    disk: BootDisk, state: BootState | None, records: Records, *, working: bool
) -> list[Finding]:
    """Whether GRUB finds each slot by its label, and only that.

    `working`: an install runs, and a slot without its label is no finding.
    """
    found: list[Finding] = []
    for slot in Slot:
        own = next((part for part in disk.partitions if part.name == slot.label), None)
        if own is None:
            continue
        try:
            disk.slot(slot)
        except RefusedError as error:
            # Two partitions with one name are told above, by their names.
            if len([part for part in disk.partitions if part.name == slot.label]) == 1:
                found.append(finding("label-doubled", error.message, error.hint or ""))
        if own.label != slot.label:
            found += _without_label(slot, own, disk, state, records, working=working)
    return found + list(_rescue(disk))


def _without_label(
    slot: Slot,
    own: Partition,
    disk: BootDisk,
    state: BootState | None,
    records: Records,
    *,
    working: bool,
) -> Iterator[Finding]:
    has = f"label '{own.label}'" if own.label is not None else "no filesystem"
    wanted = state is not None and slot in state.good + (state.on_trial or "")
    if wanted or own == disk.root:
        yield finding(
            "slot-lost",
            f"{own.device} should carry the label '{slot.label}', because GRUB is to boot slot "
            f"{slot}, found {has}.",
            f"abupdate doctor --repair labels it again where it equals its release; else install "
            f"one into slot {slot}.",
        )
    elif not working:
        record = records.slot(slot)
        why = (
            f"an install of release {record.release} did not finish"
            if record
            else "nothing is installed in it yet"
        )
        yield finding(
            "slot-unfinished",
            f"{own.device} should carry the label '{slot.label}' of a complete slot {slot}, "
            f"found {has}: {why}.",
            "Install a release: abupdate install BUNDLE",
        )


def _rescue(disk: BootDisk) -> Iterator[Finding]:
    labelled = disk.labelled(RESCUE)
    named = [part for part in disk.partitions if part.name == RESCUE]
    if len(labelled) > 1 or (labelled and named and labelled != named):
        yield finding(
            "label-doubled",
            f"The label '{RESCUE}' should be on the partition of that name only, "
            f"found {_list(part.device for part in labelled)}.",
            "Give what is not abupdate's another label: tune2fs -L NAME DEVICE",
        )
    elif not labelled:
        if named:
            device, label = named[0].device, named[0].label
            has = "no filesystem" if label is None else f"label '{label}'"
            told = f"{device} should hold the rescue system, labelled '{RESCUE}', found {has}."
        else:
            told = f"{disk.device} has no partition for a rescue system."
        advice = "Both slots still boot; without rescue there is nothing behind them."
        yield finding("rescue-missing", told, advice)


def _esp(disk: BootDisk) -> Partition | None:
    """The ESP where GRUB and userland agree on it."""
    named = [part for part in disk.partitions if part.name == BOOT]
    if len(named) == 1 and named[0].number == _ESP_NUMBER:
        return named[0]
    return None


def number_of(device: Path) -> str | None:
    """A device as /proc/self/mountinfo names it."""
    try:
        number = device.stat().st_rdev
    except OSError:
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def _node(number: str) -> str:
    """`8:2` as a person knows it, where the kernel names it."""
    name = Path(os.path.realpath(_SYSFS / number)).name
    return f"/dev/{name}" if name != number else number


def _list(devices: Iterable[Path]) -> str:
    return " and ".join(str(device) for device in devices)
