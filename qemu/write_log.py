"""What a machine wrote to a disk, in order, as QEMU's `blklogwrites` keeps it.

A power cut leaves any subset of the sectors that were written since the last
flush: `torn` gives every disk content that may be found then. The log's format
is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/
log-writes.rst), with sectors of 512 bytes.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512

_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4


@dataclass(frozen=True)
class Write:
    """One sector, `at` bytes from the start of the disk."""

    at: int
    data: bytes


def drive_options(image: Path, log: Path) -> str:
    """The part of QEMU's `-drive` that names the file, with all writes kept in `log`."""
    log.touch()
    return (
        f"file.driver=blklogwrites,file.file.driver=file,file.file.filename={image},"
        f"file.log.driver=file,file.log.filename={log},file.log-sector-size={SECTOR}"
    )


def node(image: Path, log: Path) -> dict[str, object]:
    """The same for QMP's `blockdev-add`."""
    log.touch()
    return {
        "driver": "blklogwrites",
        "file": {"driver": "file", "filename": str(image)},
        "log": {"driver": "file", "filename": str(log)},
        "log-sector-size": SECTOR,
    }


def epochs(log: Path) -> list[list[Write]]:
    """The sectors written between one flush and the next. Raises ValueError for another format.

    Discards are not told: what they leave is not defined.
    """
    found: list[list[Write]] = [[]]
    with log.open("rb") as file:
        magic, _, _, sector = _SUPER.unpack(file.read(_SUPER.size))
        if (magic, sector) != (_MAGIC, SECTOR):
            raise ValueError(f"{log} is no write log with sectors of {SECTOR} bytes")
        file.seek(sector)
        while True:
            raw = file.read(sector)
            if len(raw) < _ENTRY.size or not any(raw):
                return [epoch for epoch in found if epoch]
            first, count, flags, _ = _ENTRY.unpack_from(raw)
            if flags & (_FLUSH | _FUA) and found[-1]:
                found.append([])
            if not flags & _DISCARD:
                data = file.read(count * sector)
                found[-1] += [
                    Write((first + number) * sector, data[number * sector : (number + 1) * sector])
                    for number in range(count)
                ]
            if flags & _FUA:
                found.append([])


def torn(before: bytes, writes: Sequence[Write]) -> Iterator[bytes]:
    """Every content that a cut may leave: each subset of the sectors, with what was written last.

    All different; `before` itself and the content after all writes are among
    them. Of a sector that was written twice, either write may be the last.
    """
    states: dict[int, list[bytes]] = {}
    for write in writes:
        found = states.setdefault(write.at, [before[write.at : write.at + SECTOR]])
        if write.data not in found:
            found.append(write.data)
    for chosen in itertools.product(*states.values()):
        content = bytearray(before)
        for at, data in zip(states, chosen, strict=True):
            content[at : at + SECTOR] = data
        yield bytes(content)


def after(before: bytes, writes: Sequence[Write]) -> bytes:
    """The content when all of them have reached the disk."""
    content = bytearray(before)
    for write in writes:
        content[write.at : write.at + SECTOR] = write.data
    return bytes(content)
