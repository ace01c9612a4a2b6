"""The layout file: which partitions a new disk gets, in which order, how large.

    [[partition]]
    name = "boot"
    size = "64 MiB"

The names of docs/disk.md have a purpose; any other name is a partition of the owner's.
Sizes are numbers of bytes or such as "2 GiB"; what a slot needs at least comes from the
release that is to go into it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from abupdate.disk import filesystem
from abupdate.disk.layout import (
    BIOS,
    BOOT,
    BOOT_LABEL,
    DATA,
    MIB,
    RESCUE,
    RESERVED_LABELS,
    PartitionSpec,
    Slot,
)
from abupdate.disk.partition import TableEntry
from abupdate.errors import NoSpaceError, UsageError
from abupdate.update.prepare import Need

GIB = 1024 * MIB
_MAX_FILE = 64 * 1024
_MAX_NAME = 36  # UTF-16 units of a GPT entry
_LABEL_LENGTHS = {"ext4": 16, "vfat": 11, "none": 0}
_SLOTS = tuple(slot.label for slot in Slot)
_NEEDED = (BOOT, *_SLOTS, DATA)
# GRUB looks for its files on partition 2 of its disk (grub/early.cfg).
_NUMBERS = {BIOS: 1, BOOT: 2}
_DEFAULT_SIZES = {BIOS: MIB, BOOT: 64 * MIB, RESCUE: 512 * MIB}
_LEAST_SIZES = {BIOS: MIB, BOOT: 8 * MIB}
# Beside two times what the first release takes up in the store.
_LEAST_DATA = 8 * MIB
_ROUND = 64 * MIB
_LABEL = re.compile("[A-Za-z0-9_-]+")

Filesystem = Literal["ext4", "vfat", "none"]


def _check_name(name: str) -> str:
    plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not plain or len(name) > _MAX_NAME:
        raise ValueError(
            f"a name of letters, digits, - and _ was expected, {_MAX_NAME} at most; found {name!r}"
        )
    return name


def _check_size(size: ByteSize) -> ByteSize:
    if size < MIB or size % MIB:
        raise ValueError(f"a multiple of 1 MiB was expected, found {int(size)} bytes")
    return size


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartitionLayout(_Table):
    """One [[partition]]."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(
        description="Its name in the partition table; those of docs/disk.md have a purpose."
    )
    size: Annotated[ByteSize, AfterValidator(_check_size)] | None = Field(
        default=None,
        description="A multiple of 1 MiB. Left out: for a slot twice what the release needs, for "
        "data (or the one other partition without a size) the rest of the disk.",
    )
    filesystem: Filesystem | None = Field(
        default=None, description="Of a partition of the owner's: ext4 (default), vfat or none."
    )
    label: str | None = Field(
        default=None, description="Its filesystem's label; default: the name."
    )

    @property
    def is_ours(self) -> bool:
        """Whether the name has a purpose."""
        return self.name in (*_NEEDED, BIOS, RESCUE)

    @property
    def kind(self) -> Filesystem:
        """The filesystem that it gets."""
        if self.name == BIOS:
            return "none"
        if self.name == BOOT:
            return "vfat"
        return self.filesystem or "ext4"

    @model_validator(mode="after")
    def _check(self) -> PartitionLayout:
        if self.is_ours and (self.filesystem is not None or self.label is not None):
            raise ValueError(f"filesystem and label of '{self.name}' are abupdate's own")
        if self.label is not None and len(self.label.encode()) > _LABEL_LENGTHS[self.kind]:
            raise ValueError(
                f"a label of {_LABEL_LENGTHS[self.kind]} bytes at most was expected for "
                f"{self.kind}, found {self.label!r}"
            )
        if self.label is not None and not _LABEL.fullmatch(self.label):
            raise ValueError(
                f"a label of letters, digits, - and _ was expected, found {self.label!r}"
            )
        if not self.is_ours and _label(self) in RESERVED_LABELS:
            raise ValueError(f"the label {_label(self)!r} is abupdate's own")
        return self


class Layout(_Table):
    """A layout file."""

    partition: tuple[PartitionLayout, ...] = Field(
        max_length=100, description="In the order of the disk."
    )

    @model_validator(mode="after")
    def _check(self) -> Layout:
        names = [one.name for one in self.partition]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each name once was expected, found {', '.join(twice)} twice")
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            raise ValueError(f"these partitions are needed and missing: {', '.join(missing)}")
        # The labels that GRUB looks for, and ours besides.
        taken = [label for one in self.partition if (label := _label(one))]
        double = sorted({label for label in taken if taken.count(label) > 1})
        if double:
            raise ValueError(f"each label once was expected, found {', '.join(double)} twice")
        rest = [one.name for one in self.partition if one.size is None and not _has_default(one)]
        if len(rest) > 1:
            raise ValueError(f"one partition can have the rest of the disk, found {rest}")
        return self

    @property
    def has_bios(self) -> bool:
        """Whether a BIOS can start it (with sectors of 512 bytes)."""
        return any(one.name == BIOS for one in self.partition)

    @property
    def has_rescue(self) -> bool:
        """Whether there is a rescue partition."""
        return any(one.name == RESCUE for one in self.partition)


def read_layout(path: Path) -> Layout:
    """A layout file. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE + 1)
        if len(text) > _MAX_FILE:
            raise UsageError(f"{path} should be a layout file of {_MAX_FILE} bytes at most.")
        return Layout.model_validate(tomllib.loads(text.decode()))
    except OSError as error:
        raise UsageError(f"A layout file should be at {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the layout"
        told = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{path}: {where}: {told}.", "docs/provision.md has the format and examples."
        ) from error


def specs(
    layout: Layout, need: Need, store: int, keep: Sequence[TableEntry] = ()
) -> list[PartitionSpec]:
    """The partitions to make, for a release that takes up `need` in a slot, `store` in the store.

    What is in `keep` under a name of the layout is not made. Raises `NoSpaceError` for a slot
    or a data partition that is too small for the release.
    """
    wanted = [one for one in layout.partition if one.name not in {kept.name for kept in keep}]
    least = {**dict.fromkeys(_SLOTS, slot_minimum(need)), **_LEAST_SIZES}
    least[DATA] = data_minimum(store)
    twice = -(-2 * least[Slot.A.label] // _ROUND) * _ROUND
    defaults = {**_DEFAULT_SIZES, **dict.fromkeys(_SLOTS, twice)}
    numbers = _numbers(wanted, {kept.number for kept in keep})
    found = []
    for one in wanted:
        size = int(one.size) if one.size is not None else defaults.get(one.name)
        if size is not None and size < least.get(one.name, 0):
            raise NoSpaceError(
                f"Partition '{one.name}' needs {least[one.name] >> 20} MiB at least for this "
                f"release, and the layout gives it {size >> 20} MiB.",
                "Enlarge it in the layout file, or make the release smaller.",
            )
        flag = {BIOS: "bios_grub", BOOT: "esp"}.get(one.name)
        kind = None if one.kind == "none" else one.kind
        found.append(PartitionSpec(numbers[one.name], one.name, _label(one), kind, flag, size))
    return found


def _numbers(wanted: Sequence[PartitionLayout], taken: Container[int]) -> dict[str, int]:
    names = {one.name for one in wanted}
    clash = [str(number) for name, number in _NUMBERS.items() if name in names and number in taken]
    if clash:
        raise UsageError(
            f"A partition that is kept has number {' and '.join(clash)}, which GRUB's own "
            "partitions have (bios 1, boot 2): GRUB looks for its files on partition 2.",
            "Give it another number first (`sgdisk --transpose`), or take another disk.",
        )
    free = (number for number in range(3, 129) if number not in taken)
    return {one.name: _NUMBERS.get(one.name) or next(free) for one in wanted}


def _label(one: PartitionLayout) -> str | None:
    if one.kind == "none":
        return None
    if one.name == BOOT:
        return BOOT_LABEL
    label = one.label or one.name[: _LABEL_LENGTHS[one.kind]]
    return label.upper() if one.kind == "vfat" else label


def _has_default(one: PartitionLayout) -> bool:
    return one.name in _DEFAULT_SIZES or one.name in _SLOTS


def slot_minimum(need: Need) -> int:
    """The smallest partition, in bytes, whose ext4 has room for what a release needs."""
    return next(
        size
        for size in _sizes(max(8 * MIB, need.bytes // MIB * MIB))
        if ext4_capacity(size) >= need.bytes and size // filesystem.INODE_RATIO > need.inodes + 16
    )


def _sizes(start: int) -> Iterator[int]:
    size = start
    while True:
        yield size
        size += max(MIB, size // 64 // MIB * MIB)


def data_minimum(store: int, own: int = 0) -> int:
    """What the data partition must have: room for the store while it is tidied up, and `own`."""
    return -(-(_LEAST_DATA + 2 * store + own) * 33 // 32 // MIB) * MIB


@dataclass(frozen=True)
class _Journal:
    """From that many blocks on, a journal has so many: e2fsprogs, ext2fs_default_journal_size."""

    blocks: int
    journal: int


_JOURNALS = (
    *(_Journal(8192 * 1024, 65536), _Journal(4096 * 1024, 32768), _Journal(512 * 1024, 16384)),
    *(_Journal(256 * 1024, 8192), _Journal(32768, 4096), _Journal(0, 1024)),
)
# mke2fs.conf calls what is below that "small", with blocks of 1 KiB.
_SMALL = 512 * MIB


def ext4_capacity(size: int) -> int:
    """Bytes that files can have at least on an ext4 that `disk` makes in `size` bytes."""
    block = 1024 if size < _SMALL else 4096
    blocks = size // block
    journal = next(one.journal for one in _JOURNALS if blocks >= one.blocks)
    inodes = size // filesystem.INODE_RATIO * 256
    # Group descriptors, their copies, room to grow, bitmaps: 1 % and 2 MiB are more than that.
    return size - journal * block - inodes - size // 100 - 2 * MIB


DEFAULT = Layout(
    partition=tuple(PartitionLayout(name=name) for name in (BIOS, BOOT, RESCUE, *_SLOTS, DATA))
)
