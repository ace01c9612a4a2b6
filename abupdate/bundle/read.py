"""A bundle comes in: its first kilobytes, all of it into quarantine, and then into the store.

Three acts, so that signature and policy can stand between them: `Incoming`,
`Incoming.receive`, and `Received.join` or `Received.discard`, which leaves no trace.
Format: docs/release-format.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from abupdate.bundle import zstd
from abupdate.bundle.candidate import Signed
from abupdate.bundle.header import (
    BundleHeader,
    CountedSource,
    parse_header,
)
from abupdate.bundle.intake import take_in
from abupdate.bundle.packstart import tags_at_start
from abupdate.bundle.quarantine import Room, drop_quarantine, migrate
from abupdate.errors import RefusedError, SourceError
from abupdate.events import Events
from abupdate.release.tag import Statement
from abupdate.store.readable import Readable
from abupdate.store.repository import Repository

# Where a release's tags are looked for, before all else has come.
_LOOKS = (4096, 16384, 65536)
_HEADER_LIMIT = 1024 * 1024
# What a bundle in zstd may unpack to where nobody says what fits.
_OPEN_TIMES = 16


def read_header(source: Readable) -> BundleHeader:
    """What a bundle of either form says that it holds. Raises `SourceError`."""
    return _beginning(CountedSource(source, _HEADER_LIMIT))[0]


def _beginning(source: CountedSource) -> tuple[BundleHeader, CountedSource, bool]:
    """The header, what comes after it at first, and whether the bundle is in zstd."""
    in_zstd = zstd.is_zstd(source.peek(zstd.MAGIC_SIZE))
    first = source
    if in_zstd:
        beginning = zstd.read_beginning(source)
        first = CountedSource(io.BytesIO(beginning), len(beginning))
    return parse_header(first), first, in_zstd


class Received(Signed):
    """A release in quarantine; leaving the context deletes the quarantine."""

    checked = True

    def __init__(self, header: BundleHeader, quarantine: Repository, store: Repository) -> None:
        super().__init__(header.version, header.tag_oid, quarantine, dict(header.cosigned))
        self.needs = tuple(comment or oid for oid, comment in header.prerequisites)
        self._store = store

    def join(self) -> None:
        """Make the release part of the store: packs, then the ref, each on the disk.

        Its packs come in even when the store has it: what rotted there is whole again.
        The caller holds the device's lock. Raises `RefusedError` when the store has another
        release of the same version.
        """
        present = self._store.resolve(self.version.ref)
        if present not in (None, self.tag_oid):
            raise RefusedError(
                f"The store has another release {self.version}: its tag is {present}, "
                f"the bundle's is {self.tag_oid}.",
                "A version is published once; publish the new content as a new version.",
            )
        migrate(self.repository, self._store)
        if present is None:
            self._store.set_ref(self.version.ref, self.tag_oid, alone=True)
        for signer, oid in self.cosigned.items():
            self._store.set_ref(f"{self.version.ref}+{signer}", oid, alone=True)

    def discard(self) -> None:
        """Delete the quarantine; once or more often."""
        drop_quarantine(self._store, self.repository.path)


class Incoming:
    """A bundle of which the first kilobytes were read.

    `statement`: what its signers say, where that stands at its beginning, as it does in
    all bundles of ours; None where the whole of it has to be read first.
    """

    def __init__(
        self,
        source: Readable,
        store: Repository,
        max_bytes: int,
        events: Events,
        total: int | None = None,
        room: Room | None = None,
    ) -> None:
        """Read its beginning, and refuse what this store cannot take.

        `source` need not be seekable; `max_bytes` bounds what is read of it, `room` what it
        may unpack to, `total` is its size where known, for progress. Raises `SourceError`.
        """
        self._room = room
        self.channel = self.branch = None
        self._store = store
        self._max_bytes = max_bytes
        self._source = CountedSource(source, max_bytes, events, total)
        self.header, first, self._in_zstd = _beginning(self._source)
        self.version = self.header.version
        self._refuse_unfit()
        self.statement = self._first_look(first)
        if self._in_zstd and self.statement is None:
            raise SourceError(
                "A bundle in zstd should begin with its tags, and this one does not.",
                "`abupdate publish bundle --zstd` makes them.",
            )

    def _refuse_unfit(self) -> None:
        header, store = self.header, self._store
        if header.object_format != store.object_format:
            raise SourceError(
                f"The bundle is made of {header.object_format} objects, "
                f"this store of {store.object_format} ones.",
                "Get the bundle that was made for this device.",
            )
        for oid, comment in header.prerequisites:
            if store.kind(oid) != "commit":
                raise SourceError(
                    f"The bundle is a delta to {comment or 'a release'} (commit {oid}), "
                    "which is not in the store.",
                    f"Take the full bundle of release {header.version}.",
                )

    def _first_look(self, source: CountedSource) -> Statement | None:
        wanted = {oid for _, oid in self.header.cosigned} | {self.header.tag_oid}
        for size in _LOOKS:
            data = source.peek(size)
            tags = tags_at_start(data, self.header.object_format, wanted)
            if len(tags) == len(wanted):
                cosigned = {signer: tags[oid] for signer, oid in self.header.cosigned}
                return Statement(self.version, tags[self.header.tag_oid], cosigned)
            if len(data) < size:
                break
        return None

    @contextmanager
    def _pack(self, bases: int) -> Iterator[tuple[CountedSource, int]]:
        """What comes after the header, and how many bytes that may be."""
        if not self._in_zstd:
            yield self._source, self._max_bytes
            return
        most = self._room.most_bytes(bases) if self._room else _OPEN_TIMES * self._max_bytes
        with zstd.unpacked(self._source, self._store.sandbox, most) as whole:
            bundle = CountedSource(whole, most)
            if parse_header(bundle) != self.header:
                raise SourceError(
                    "The bundle is another one than its first bytes say.",
                    "Get the bundle again from its source.",
                )
            yield bundle, most

    def receive(self) -> Received:
        """Read the rest into a quarantine beside the store.

        Raises `SourceError` when it is not a whole bundle, `NoSpaceError` when it is too
        large; nothing is left then.
        """
        bases = len({oid for oid, _ in self.header.prerequisites})
        with self._pack(bases) as (pack, most):
            quarantine = take_in(pack, self._store, bases, most, self._room)
        received = Received(self.header, quarantine, self._store)
        try:
            received.transferred = self._source.transferred
            # Read now, so that a bundle without its tags is refused here.
            if self.statement not in (None, received.statement):
                raise SourceError(
                    "The bundle holds two tags under one id.",
                    "Get the release from another source.",
                )
        except BaseException:
            received.discard()
            raise
        return received
