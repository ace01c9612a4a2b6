"""A bundle in, the same bundle out, with the objects of its pack deflated anew at another level.

At level 0 objects lie open, so that a compressor sees all of them at once; at level 6 the
pack is as git would have made it. Deltas stay what they are. The distances between objects
change, and with them the offsets to the bases of deltas. Format: gitformat-pack(5).

`zstd` starts this as a script, as the user of the store and within its limits: it reads what
nobody has signed. Imports nothing of abupdate. Arguments: the level, and how many bytes are
read at most.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from array import array
from bisect import bisect_left
from typing import BinaryIO

_CHUNK = 256 * 1024
_LONGEST_HEADER = 1024 * 1024
_OFFSET_DELTA, _OBJECT_DELTA = 6, 7
_KINDS = {1, 2, 3, 4, _OFFSET_DELTA, _OBJECT_DELTA}
# Seven bits a byte; more is no size and no distance of a file.
_LONGEST_NUMBER = 9


# Exit codes: the bundle is wrong, lies open in more bytes than allowed, or memory is short.
WRONG, TOO_LARGE, NO_MEMORY = 1, 3, 4


class _WrongError(Exception):
    """What the bundle is not as it should be in."""

    code = WRONG


class _TooLargeError(_WrongError):
    code = TOO_LARGE


class _Input:
    """Bytes with a position."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._left = limit
        self._data = b""
        self._at = 0
        self._digest = hashlib.sha256()
        self.position = 0

    def begin(self, object_format: str) -> None:
        """A pack begins."""
        self._digest = hashlib.new(object_format)

    def end(self) -> None:
        """A pack ends with the hash of itself, and with it the file."""
        expected = self._digest.digest()
        if self.take(len(expected)) != expected:
            raise _WrongError("its pack has another hash than it says")
        if self.peek(1):
            raise _WrongError("it goes on after the end of its pack")

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        while len(self._data) - self._at < size and self._fill():
            pass
        return self._data[self._at : self._at + size]

    def skip(self, size: int) -> None:
        """Go on by bytes that were seen."""
        self._digest.update(memoryview(self._data)[self._at : self._at + size])
        self._at += size
        self.position += size

    def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        found = self.peek(size)
        if len(found) < size:
            raise _WrongError("it ends too early")
        self.skip(size)
        return found

    def _fill(self) -> bool:
        chunk = self._file.read(_CHUNK)
        self._left -= len(chunk)
        if self._left < 0:
            raise _TooLargeError
        self._data, self._at = self._data[self._at :] + chunk, 0
        return bool(chunk)


class _Output:
    """Bytes with a position, and a hash from `begin` on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def begin(self, object_format: str) -> None:
        """A pack begins."""
        self._digest = hashlib.new(object_format)

    def write(self, data: bytes) -> None:
        """Some more."""
        self._file.write(data)
        self._digest.update(data)
        self.position += len(data)

    def end(self) -> None:
        """A pack ends with the hash of itself."""
        self._file.write(self._digest.digest())
        self._file.flush()


def recode(source: BinaryIO, target: BinaryIO, level: int, limit: int) -> None:
    """Read a bundle of at most `limit` bytes, and write it. Raises `_WrongError`."""
    reader, writer = _Input(source, limit), _Output(target)
    object_format = _header(reader, writer)
    digest_size = hashlib.new(object_format).digest_size
    reader.begin(object_format)
    writer.begin(object_format)
    opening = reader.take(12)
    if not opening.startswith(b"PACK\0\0\0\2"):
        raise _WrongError("it has no pack")
    writer.write(opening)
    # Where each object begins: in the one pack, and in the other.
    begun, became = array("Q"), array("Q")
    for _ in range(int.from_bytes(opening[8:], "big")):
        begun.append(reader.position)
        became.append(writer.position)
        kind, size, head = _object(reader)
        writer.write(head)
        if kind == _OFFSET_DELTA:
            base = begun[-1] - _distance(reader)
            at = bisect_left(begun, base)
            if begun[at] != base or at == len(begun) - 1:
                raise _WrongError("a delta has no base")
            writer.write(_as_distance(became[-1] - became[at]))
        elif kind == _OBJECT_DELTA:
            writer.write(reader.take(digest_size))
        _content(reader, writer, size, level)
    reader.end()
    writer.end()


def _header(reader: _Input, writer: _Output) -> str:
    """Up to and with the empty line that ends it; the object format."""
    object_format, length = "sha1", 0
    while True:
        line = reader.peek(4096).partition(b"\n")[0] + b"\n"
        length += len(line)
        if length > _LONGEST_HEADER:
            raise _WrongError("its header does not end")
        if line == b"@object-format=sha256\n":
            object_format = "sha256"
        writer.write(reader.take(len(line)))
        if line == b"\n":
            return object_format


def _object(reader: _Input) -> tuple[int, int, bytes]:
    """The kind of an object, its size, and the bytes that tell them."""
    raw = reader.peek(_LONGEST_NUMBER)
    end = next((at for at, byte in enumerate(raw) if byte < 128), None)
    if end is None or (raw[0] >> 4 & 7) not in _KINDS:
        raise _WrongError("an object of its pack has a wrong beginning")
    size = raw[0] & 15
    for at in range(1, end + 1):
        size |= (raw[at] & 127) << (7 * at - 3)
    return raw[0] >> 4 & 7, size, reader.take(end + 1)


def _distance(reader: _Input) -> int:
    raw = reader.peek(_LONGEST_NUMBER)
    value = 0
    for at, byte in enumerate(raw):
        value = (value + 1 if at else 0) << 7 | byte & 127
        if byte < 128:
            reader.skip(at + 1)
            return value
    raise _WrongError("a delta has no base")


def _as_distance(value: int) -> bytes:
    found = [value & 127]
    while value := value >> 7:
        value -= 1
        found.append(128 | value & 127)
    return bytes(reversed(found))


def _content(reader: _Input, writer: _Output, size: int, level: int) -> None:
    inflate, deflate = zlib.decompressobj(), zlib.compressobj(level)
    # About what it takes where it lies open; nothing is handed back then.
    expected = min(size + size // 1000 + 64, _CHUNK)
    while not inflate.eof:
        chunk = reader.peek(expected)
        if not chunk:
            raise _WrongError("it ends too early")
        content = inflate.decompress(chunk, _CHUNK)
        size -= len(content)
        if size < 0:
            raise _WrongError("an object is larger than it says")
        writer.write(deflate.compress(content))
        # At the end the one may still hold what the call before left.
        left = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        reader.skip(len(chunk) - len(left))
    if size:
        raise _WrongError("an object is smaller than it says")
    writer.write(deflate.flush())


if __name__ == "__main__":
    try:
        recode(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]), int(sys.argv[2]))
    except (_WrongError, zlib.error) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.code if isinstance(error, _WrongError) else WRONG)
    except MemoryError:
        sys.exit(NO_MEMORY)
