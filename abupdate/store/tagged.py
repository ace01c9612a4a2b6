"""Tags at the start of a pack, each whole: git would make them deltas of each other.

Who reads a bundle judges its tags by the first kilobytes. Format: gitformat-pack(5).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

from abupdate.store.readable import Readable

_OPENING = 12  # bytes of a pack before its first object: name, version, count
_TAG = 4


class TaggedPack:
    """A pack with tags put before its objects; read it once."""

    def __init__(self, pack: Readable, tags: Sequence[bytes], object_format: str) -> None:
        self._pack = pack
        self._digest = hashlib.new(object_format)
        opening = b""
        while len(opening) < _OPENING and (more := pack.read(_OPENING - len(opening))):
            opening += more
        count = int.from_bytes(opening[8:], "big") + len(tags)
        self._ahead = opening[:8] + count.to_bytes(4, "big") + b"".join(map(_entry, tags))
        self._tail = b""
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes. Ends with the hash of this pack instead of the other's."""
        while not self._ahead and not self._ended:
            chunk = self._pack.read(size)
            held = self._tail + chunk
            cut = max(0, len(held) - self._digest.digest_size) if chunk else 0
            self._ahead, self._tail = held[:cut], held[cut:]
            if not chunk:
                self._ended = True
                self._ahead = self._digest.digest()
        found, self._ahead = self._ahead[:size], self._ahead[size:]
        if not self._ended:
            self._digest.update(found)
        return found


def _entry(content: bytes) -> bytes:
    size = len(content)
    head = [_TAG << 4 | size & 15]
    size >>= 4
    while size:
        head[-1] |= 128
        head.append(size & 127)
        size >>= 7
    return bytes(head) + zlib.compress(content)
