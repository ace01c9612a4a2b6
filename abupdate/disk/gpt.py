"""Reads a GPT as it is, without opening anything for writing.

libparted, which makes our tables, opens a disk for writing even to look at it, mends what it
finds on the way, and does not tell the ids. Format: UEFI specification 2.10, 5.3.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from abupdate.disk.partition import Extent, TableEntry

HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
ENTRY = struct.Struct("<16s16sQQQ72s")
_SIGNATURE = b"EFI PART"
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_MOST_BYTES = 1 << 20


class DamagedTableError(Exception):
    """What is wrong with a table, in words."""


@dataclass(frozen=True)
class Table:
    """A whole GPT. `checksum`: of all entries; `usable`: where partitions may be, in bytes."""

    guid: UUID
    checksum: int
    usable: Extent
    entries: tuple[TableEntry, ...]


@dataclass(frozen=True)
class Copy:
    """One copy of a table that is whole: what it says, and its bytes.

    `own`, `other`: the sectors of its header and of the other copy's. `raw`: all entries.
    """

    table: Table
    own: int
    other: int
    first_usable: int
    last_usable: int
    entry_size: int
    raw: bytes

    def header(self, own: int, other: int, entries_at: int) -> bytes:
        """A header that says the same, for another place. Places are sectors."""
        count, checksum = len(self.raw) // self.entry_size, zlib.crc32(self.raw)
        words = [
            _SIGNATURE, 0x10000, HEADER.size, 0, 0, own, other, self.first_usable,
            self.last_usable, self.table.guid.bytes_le, entries_at, count, self.entry_size,
            checksum,
        ]  # fmt: skip
        words[3] = zlib.crc32(HEADER.pack(*words))
        return HEADER.pack(*words)


def read(path: Path, sector: int) -> Table | None:
    """The table of a disk or file; None where there is none.

    `sector`: what it counts in. Raises `DamagedTableError` where there is one of which a copy
    is not whole, or the two are not the same.
    """
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        size = os.lseek(fd, 0, os.SEEK_END)
        if os.pread(fd, len(_SIGNATURE), sector) != _SIGNATURE:
            return None
        first = read_copy(fd, sector, 1, "first")
        if (first.other + 1) * sector > size:
            raise DamagedTableError("its second copy lies behind the end of the disk")
        second = read_copy(fd, sector, first.other, "second")
    if first.table != second.table:
        raise DamagedTableError("its two copies differ")
    return first.table


def read_copy(fd: int, sector: int, place: int, which: str) -> Copy:
    """The copy whose header is at sector `place`. Raises `DamagedTableError`, naming `which`."""
    raw = os.pread(fd, HEADER.size, place * sector)
    if len(raw) < HEADER.size or raw[: len(_SIGNATURE)] != _SIGNATURE:
        raise DamagedTableError(f"its {which} copy is missing")
    (_, _, length, told, _, own, other, low, high, guid, where, count, size, checksum) = (
        HEADER.unpack(raw)
    )
    summed = zlib.crc32(raw[:16] + bytes(4) + raw[20:])
    if length != HEADER.size or told != summed or own != place:
        raise DamagedTableError(f"the header of its {which} copy is damaged")
    if size < ENTRY.size or size * count > _MOST_BYTES:
        raise DamagedTableError(f"the header of its {which} copy tells of {count} entries")
    entries = os.pread(fd, size * count, where * sector)
    if zlib.crc32(entries) != checksum:
        raise DamagedTableError(f"the entries of its {which} copy are damaged")
    found = []
    for index in range(count):
        kind, guid_of, start, end, _, name = ENTRY.unpack_from(entries, index * size)
        if not any(kind):
            continue
        extent = Extent(start * sector, (end - start + 1) * sector)
        text = name.decode("utf-16-le", "replace").partition("\0")[0]
        is_esp, partuuid = UUID(bytes_le=kind) == _ESP, str(UUID(bytes_le=guid_of))
        found.append(TableEntry(index + 1, text, extent, esp=is_esp, partuuid=partuuid))
    usable = Extent(low * sector, (high - low + 1) * sector)
    table = Table(UUID(bytes_le=guid), checksum, usable, tuple(found))
    return Copy(table, own, other, low, high, size, entries)
