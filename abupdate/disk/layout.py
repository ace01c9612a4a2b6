"""The disk of a device (docs/disk.md): partitions, names, labels.

GPT; partition names and filesystem labels agree. A slot's filesystem label is
the commit mark: it is the slot's own (`rootA`) only while the slot holds a
complete, verified system, and `newA` from the first moment that an install
touches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from abupdate.errors import RefusedError

MIB = 1024 * 1024


class Slot(StrEnum):
    """A place that holds a system and takes part in A/B."""

    A = "A"
    B = "B"

    @property
    def other(self) -> Slot:
        """The one that this is not."""
        return Slot.B if self is Slot.A else Slot.A

    @property
    def label(self) -> str:
        """Partition name, and the filesystem label of a complete slot."""
        return f"root{self}"

    @property
    def unfinished_label(self) -> str:
        """The filesystem label while an install is at work."""
        return f"new{self}"


BIOS = "bios"
BOOT = "boot"
RESCUE = "rescue"
UNFINISHED_RESCUE = "newR"
DATA = "data"
BOOT_LABEL = "BOOT"
# By which GRUB, or a person, takes a partition for one of ours.
RESERVED_LABELS = (
    *(slot.label for slot in Slot), *(slot.unfinished_label for slot in Slot),
    RESCUE, UNFINISHED_RESCUE, DATA, BOOT_LABEL, "empty",
)  # fmt: skip


@dataclass(frozen=True)
class PartitionSpec:
    """A partition to make. `size` in bytes, None for the rest of the disk.

    `encrypted`: the filesystem lies within LUKS.
    """

    number: int
    name: str
    label: str | None
    filesystem: str | None
    flag: str | None
    size: int | None
    encrypted: bool = False


def partitions(root_size: int, rescue_size: int, boot_size: int = 64 * MIB) -> list[PartitionSpec]:
    """The layout, in the order of the disk. Sizes are bytes, multiples of 1 MiB."""
    return [
        PartitionSpec(1, BIOS, None, None, "bios_grub", 1 * MIB),
        PartitionSpec(2, BOOT, BOOT_LABEL, "vfat", "esp", boot_size),
        PartitionSpec(3, RESCUE, RESCUE, "ext4", None, rescue_size),
        PartitionSpec(4, Slot.A.label, Slot.A.label, "ext4", None, root_size),
        PartitionSpec(5, Slot.B.label, Slot.B.label, "ext4", None, root_size),
        PartitionSpec(6, DATA, DATA, "ext4", None, None),
    ]


@dataclass(frozen=True)
class Partition:
    """A partition as found. `label` and `uuid` are the filesystem's, None without one."""

    device: Path
    number: int
    name: str
    partuuid: str
    label: str | None
    uuid: str | None
    size: int


@dataclass(frozen=True)
class BootDisk:
    """The disk that the running system was booted from, with its partitions."""

    device: Path
    partitions: tuple[Partition, ...]
    root: Partition

    def find(self, name: str) -> Partition | None:
        """The partition of that name. Raises `RefusedError` when there are two."""
        found = [part for part in self.partitions if part.name == name]
        if len(found) > 1:
            devices = " and ".join(str(part.device) for part in found)
            raise RefusedError(
                f"One partition named '{name}' was expected on {self.device}, found {devices}.",
                "Rename the one that is not abupdate's.",
            )
        return found[0] if found else None

    def slot(self, slot: Slot) -> Partition:
        """The partition of a slot.

        Raises `RefusedError` when it is missing or there twice, or when another
        partition carries its label: GRUB then finds two, and takes neither.
        """
        partition = self.find(slot.label)
        if partition is None:
            raise RefusedError(
                f"There is no other slot: no partition named '{slot.label}' on {self.device}.",
                "abupdate needs a disk with the partitions of its layout; see docs/disk.md.",
            )
        strangers = [part for part in self.labelled(slot.label) if part != partition]
        if strangers:
            devices = " and ".join(str(part.device) for part in strangers)
            raise RefusedError(
                f"The label '{slot.label}' was expected on {partition.device} only, "
                f"found on {devices}.",
                f"Give what is not abupdate's another label: tune2fs -L NAME {strangers[0].device}",
            )
        return partition

    def slots(self) -> dict[Slot, Partition]:
        """The partitions of the slots, by their names. Raises `RefusedError` as `find`."""
        found = {slot: self.find(slot.label) for slot in Slot}
        return {slot: partition for slot, partition in found.items() if partition is not None}

    def labelled(self, label: str) -> list[Partition]:
        """The partitions whose filesystem has this label, as GRUB looks for it."""
        return [part for part in self.partitions if part.label == label]

    def slot_of_root(self) -> Slot | None:
        """The slot that is mounted as the root filesystem, None when it is neither."""
        for slot in Slot:
            if self.root.name == slot.label:
                return slot
        return None
