"""git's packs and pack indexes by hand, for what git refuses to write.

Format: gitformat-pack(5). Nothing is checked here: wrong ones are the point.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

_TYPES = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_REF_DELTA = 7
_PIECE = 1 << 20
_COPY = 1 << 16  # what a copy instruction of one byte takes, from the start of its base


class Pack:
    """Objects in the order in which they are added."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self._entries: list[bytes] = []
        self._ids: set[str] = set()

    def add(self, kind: str, content: bytes) -> str:
        """An object, once; its id."""
        found = oid(kind, content, self.algorithm)
        if found not in self._ids:
            self._ids.add(found)
            self._entries.append(_header(_TYPES[kind], len(content)) + zlib.compress(content, 1))
        return found

    def add_tiny_blobs(self, count: int) -> None:
        """That many different blobs of four bytes, as short as zlib has them."""
        header = _header(_TYPES["blob"], 4) + b"\x78\x01\x01\x04\x00\xfb\xff"
        for number in range(count):
            content = struct.pack(">I", number)
            self._entries.append(header + content + struct.pack(">I", zlib.adler32(content)))

    def add_zeros(self, size: int) -> None:
        """A blob of `size` zeros, a multiple of 1 MiB."""
        self._entries.append(_header(_TYPES["blob"], size) + _deflated_zeros(size))

    def add_delta_of_zeros(self, size: int, more: bytes = b"") -> None:
        """`size` zeros and `more` (to tell it from others), as a delta; needs `add_zeros(1 MiB)`.

        64 KiB of them take one byte.
        """
        base = oid("blob", bytes(_PIECE), self.algorithm)
        delta = _size(_PIECE) + _size(size + len(more)) + b"\x80" * (size // _COPY)
        delta += bytes([len(more)]) + more if more else b""
        entry = _header(_REF_DELTA, len(delta)) + bytes.fromhex(base) + zlib.compress(delta)
        self._entries.append(entry)

    def close(self, count: int | None = None) -> bytes:
        """The pack. `count`: how many objects it says that it has."""
        said = len(self._entries) if count is None else count
        raw = b"PACK" + struct.pack(">II", 2, said) + b"".join(self._entries)
        return raw + hashlib.new(self.algorithm, raw).digest()


def oid(kind: str, content: bytes, algorithm: str = "sha256") -> str:
    """The id of an object."""
    return hashlib.new(algorithm, b"%s %d\0" % (kind.encode(), len(content)) + content).hexdigest()


def _header(number: int, size: int) -> bytes:
    first, rest = number << 4 | size & 15, size >> 4
    return bytes([first | 0x80 if rest else first]) + (_size(rest) if rest else b"")


def _size(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _deflated_zeros(size: int) -> bytes:
    """A zlib stream of zeros; one piece is compressed, and repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(_PIECE)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">HH", size % 65521, 1)
    return b"\x78\x01" + piece * (size // _PIECE) + b"\x03\x00" + checksum


def swap_in_index(index: Path, one: str, other: str) -> None:
    """Let a pack's index (version 2) give the bytes of each of two objects for the other."""
    raw = bytearray(index.read_bytes())
    size = len(one) // 2
    (count,) = struct.unpack(">I", raw[8 + 255 * 4 : 8 + 256 * 4])
    names = 8 + 256 * 4
    offsets = names + count * (size + 4)
    ids = [raw[names + n * size : names + (n + 1) * size].hex() for n in range(count)]
    first, second = (offsets + 4 * ids.index(oid) for oid in (one, other))
    raw[first : first + 4], raw[second : second + 4] = (
        raw[second : second + 4],
        raw[first : first + 4],
    )
    end = len(raw) - size
    raw[end:] = hashlib.new("sha256" if size == 32 else "sha1", raw[:end]).digest()
    index.chmod(0o644)
    index.write_bytes(raw)
