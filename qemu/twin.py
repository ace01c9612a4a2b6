"""Another device's disk: everything equal, labels too, but the GUIDs of disk and partitions.

Those are what tells two disks apart for the kernel (`root=PARTUUID=`): no
machine can use one that was copied byte by byte beside its original.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from pathlib import Path

import device

_SECTOR = 512
_HEADER = 92
_ENTRY = 128


def make_twin(disk: Path, target: Path) -> Path:
    """Copy a disk image with sectors of 512 bytes, and give it GUIDs of its own."""
    device.copy(disk, target)
    with target.open("r+b", buffering=0) as file:
        fd = file.fileno()
        header = os.pread(fd, _HEADER, _SECTOR)
        (other,) = struct.unpack_from("<Q", header, 32)
        entries_at, count = _entries(header)
        entries = bytearray(os.pread(fd, count * _ENTRY, entries_at))
        for at in range(0, len(entries), _ENTRY):
            if any(entries[at : at + 16]):
                entries[at + 16 : at + 32] = uuid.uuid4().bytes_le
        guid = uuid.uuid4().bytes_le
        for place in (_SECTOR, other * _SECTOR):
            header = os.pread(fd, _HEADER, place)
            os.pwrite(fd, entries, _entries(header)[0])
            os.pwrite(fd, _signed(header, guid, entries), place)
    return target


def _entries(header: bytes) -> tuple[int, int]:
    """Where a header's entries are, in bytes, and how many (UEFI specification, 5.3.2)."""
    signature, first, count, size = struct.unpack_from("<8s64xQII", header)
    assert signature == b"EFI PART" and size == _ENTRY
    return first * _SECTOR, count


def _signed(header: bytes, guid: bytes, entries: bytearray) -> bytes:
    new = bytearray(header)
    new[56:72] = guid
    struct.pack_into("<I", new, 88, zlib.crc32(entries))
    struct.pack_into("<I", new, 16, 0)
    struct.pack_into("<I", new, 16, zlib.crc32(new))
    return bytes(new)
