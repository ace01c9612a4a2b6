"""Bundles: one file that carries a release, out of a repository and into a store.

Taking one in is four acts, so that signature and policy can stand between them:
`Incoming` has read its first kilobytes, `Incoming.receive` fills a quarantine,
`Received.join` makes its release part of the store, `Received.discard` leaves no
trace. Format: docs/release-format.md.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from abupdate.errors import RefusedError, SourceError, UsageError
from abupdate.events import Events
from abupdate.release.candidate import Signed, Statement, cosignatures
from abupdate.release.header import (
    BundleHeader,
    CountedSource,
    format_header,
    parse_header,
)
from abupdate.release.intake import take_in
from abupdate.release.packstart import tags_at_start
from abupdate.release.quarantine import Room, migrate
from abupdate.release.tag import MAX_TAG, parse_tag
from abupdate.release.version import Version
from abupdate.store.repository import Readable, Repository

__all__ = ["BundleHeader", "Incoming", "Received", "create", "parse_header"]

_SIGNATURE = b"# v"
# Where a release's tags are looked for, before all else has come.
_LOOKS = (4096, 16384, 65536)


def create(
    repository: Repository, version: Version, since: Sequence[Version], out: Path
) -> BundleHeader:
    """Write the bundle of a signed release to `out`, whole or not at all.

    With `since`, a delta for those who have one of these releases: it leaves out
    what any of them has, and needs all of them.
    """
    _refuse_to_replace(out)
    tag_oid, commit = _signed(repository, version)
    needed = []
    for older in dict.fromkeys(since):
        if older == version:
            raise UsageError(f"A delta from {version} to itself would be empty.")
        needed.append((_signed(repository, older)[1], older.tag))
    cosigned = cosignatures(repository, version)
    header = BundleHeader(
        repository.object_format, version, tag_oid, tuple(needed), tuple(cosigned.items())
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(format_header(header))
            file.flush()
            tags = [tag_oid, *cosigned.values()]
            repository.pack(tags, commit, file, [oid for oid, _ in needed])
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).rename(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return header


def _refuse_to_replace(out: Path) -> None:
    """A new file is renamed over `out`: it may be another bundle, never a device or a key."""
    if not os.path.lexists(out):
        return
    if out.is_file() and not out.is_symlink():
        with out.open("rb") as file:
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return
    raise UsageError(
        f"A bundle replaces another bundle at most, and {out} is something else.",
        "Give the path of a new file.",
    )


def _signed(repository: Repository, version: Version) -> tuple[str, str]:
    """Tag and commit of a release in a publisher's repository."""
    tag_oid = repository.resolve(version.ref)
    if tag_oid is None:
        raise UsageError(
            f"{repository.path} has no signed release {version}.",
            f"Sign it first: abupdate publish sign --version {version}",
        )
    with repository.reader() as reader:
        return tag_oid, parse_tag(reader.read(tag_oid, "tag", MAX_TAG), version).commit


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
        self._store.as_owner("rm", "-rf", "--", self.repository.path)


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
        self.header = parse_header(self._source)
        self.version = self.header.version
        self._refuse_unfit()
        self.statement = self._first_look()

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

    def _first_look(self) -> Statement | None:
        wanted = {oid for _, oid in self.header.cosigned} | {self.header.tag_oid}
        for size in _LOOKS:
            data = self._source.peek(size)
            tags = tags_at_start(data, self.header.object_format, wanted)
            if len(tags) == len(wanted):
                cosigned = {signer: tags[oid] for signer, oid in self.header.cosigned}
                return Statement(self.version, tags[self.header.tag_oid], cosigned)
            if len(data) < size:
                break
        return None

    def receive(self) -> Received:
        """Read the rest into a quarantine beside the store.

        Raises `SourceError` when it is not a whole bundle, `NoSpaceError` when it is too
        large; nothing is left then.
        """
        bases = {oid for oid, _ in self.header.prerequisites}
        quarantine = take_in(self._source, self._store, len(bases), self._max_bytes, self._room)
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
