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

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
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


def read(path: Path, sector: int) -> Table | None:
    """The table of a disk or file; None where there is none.

    `sector`: what it counts in. Raises `DamagedTableError` where there is one of which a copy
    is not whole, or the two are not the same.
    """
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        size = os.lseek(fd, 0, os.SEEK_END)
        first = os.pread(fd, _HEADER.size, sector)
        if first[: len(_SIGNATURE)] != _SIGNATURE:
            return None
        table, other = _copy(fd, sector, 1, "first")
        if (other + 1) * sector > size:
            raise DamagedTableError("its second copy lies behind the end of the disk")
        second, _ = _copy(fd, sector, other, "second")
    if table != second:
        raise DamagedTableError("its two copies differ")
    return table


def _copy(fd: int, sector: int, place: int, which: str) -> tuple[Table, int]:
    raw = os.pread(fd, _HEADER.size, place * sector)
    if len(raw) < _HEADER.size or raw[: len(_SIGNATURE)] != _SIGNATURE:
        raise DamagedTableError(f"its {which} copy is missing")
    (_, _, length, told, _, own, other, low, high, guid, where, count, size, checksum) = (
        _HEADER.unpack(raw)
    )
    summed = zlib.crc32(raw[:16] + bytes(4) + raw[20:])
    if length != _HEADER.size or told != summed or own != place:
        raise DamagedTableError(f"the header of its {which} copy is damaged")
    if size < _ENTRY.size or size * count > _MOST_BYTES:
        raise DamagedTableError(f"the header of its {which} copy tells of {count} entries")
    entries = os.pread(fd, size * count, where * sector)
    if zlib.crc32(entries) != checksum:
        raise DamagedTableError(f"the entries of its {which} copy are damaged")
    found = []
    for index in range(count):
        kind, _, start, end, _, name = _ENTRY.unpack_from(entries, index * size)
        if not any(kind):
            continue
        extent = Extent(start * sector, (end - start + 1) * sector)
        text = name.decode("utf-16-le", "replace").partition("\0")[0]
        found.append(TableEntry(index + 1, text, extent, esp=UUID(bytes_le=kind) == _ESP))
    usable = Extent(low * sector, (high - low + 1) * sector)
    return Table(UUID(bytes_le=guid), checksum, usable, tuple(found)), other
