"""A pack of somebody else's, into a quarantine: git checks each object, we count them."""

from __future__ import annotations

import hashlib

from abupdate.bundle.header import CountedSource
from abupdate.bundle.quarantine import Room, drop_quarantine, open_quarantine
from abupdate.errors import SourceError
from abupdate.store.repository import Repository

_MORE_ROOM = 64 * 1024 * 1024
_OPENING = 12  # bytes of a pack before its first object: name, version, count


def take_in(
    source: CountedSource, store: Repository, bases: int, max_bytes: int, room: Room | None
) -> Repository:
    """What is left of `source`, a pack, in a quarantine beside the store.

    `bases`: how many commits of the store it is a delta to. Raises `SourceError`,
    `NoSpaceError`; nothing is left then.
    """
    # Only a delta needs the store's objects to be taken in: where they are damaged, a full
    # bundle must still be good.
    delta = bases > 0
    quarantine = open_quarantine(store, 2 * max_bytes + _MORE_ROOM, borrow=delta)
    try:
        pack = _Pack(source, store.object_format)
        if room is not None:
            room.check_objects(pack.count())
        quarantine.index_pack(pack, max_bytes)
        pack.check_end()
        if room is not None:
            if delta:
                quarantine.borrow(None)
            room.check_bytes(quarantine.unpacked_size(), bases)
        quarantine.borrow(store.path.absolute() / "objects")
    except BaseException:
        drop_quarantine(store, quarantine.path)
        raise
    return quarantine


class _Pack:
    """The rest of a bundle, hashed on its way: a pack ends with the hash of itself.

    git stops reading where its own count of objects ends; bytes after that are
    found here.
    """

    def __init__(self, source: CountedSource, object_format: str) -> None:
        self._source = source
        self._digest = hashlib.new(object_format)
        self._tail = b""
        self._ahead = b""

    def count(self) -> int:
        """How many objects it says that it has; 0 where it is no pack, which git will tell."""
        while len(self._ahead) < _OPENING and (more := self._source.read(1)):
            self._ahead += more
        whole = len(self._ahead) == _OPENING and self._ahead.startswith(b"PACK")
        return int.from_bytes(self._ahead[8:], "big") if whole else 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes of the pack, or the few that were read ahead."""
        chunk, self._ahead = self._ahead or self._source.read(size), b""
        held = self._tail + chunk
        cut = max(0, len(held) - self._digest.digest_size)
        self._digest.update(held[:cut])
        self._tail = held[cut:]
        return chunk

    def check_end(self) -> None:
        """Raise `SourceError` unless the source ended exactly where its pack does."""
        if self._source.read(1) or self._tail != self._digest.digest():
            raise SourceError(
                "The bundle goes on after the end of its pack.",
                "Get the bundle again from its source.",
            )
