"""A release's content, hashed here from the commit down, at the moment of use.

git hands out bytes; nothing of them is believed before its hash was compared:
commit, trees and the manifest with their object ids (and the manifest with the
SHA-256 that the tag's signature covers), files with the manifest's SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice

from abupdate.errors import NotTrustedError
from abupdate.store import manifest
from abupdate.store.changes import Change, changes
from abupdate.store.manifest import Checks, Entry
from abupdate.store.reader import ObjectReader
from abupdate.store.repository import Repository
from abupdate.store.tree import EXECUTABLE, PLAIN, File, Trees

MANIFEST_PATH = b".abupdate/manifest"
RELEASE_PATH = b".abupdate/release.toml"

_MAX_COMMIT = 64 * 1024
_MAX_MANIFEST = 1024 * 1024 * 1024
_MAX_RELEASE = 64 * 1024


class CommitContent:
    """The paths and bytes of one commit; made by `open_commit`."""

    def __init__(self, reader: ObjectReader, commit: str, manifest_sha256: str | None) -> None:
        self.commit = commit
        self._reader = reader
        self._tree, self.date = _commit(reader.read(commit, "commit", _MAX_COMMIT))
        self._stated_manifest_sha256 = manifest_sha256
        self._manifest = self._own(MANIFEST_PATH)
        self.release_toml = reader.read(self._own(RELEASE_PATH).oid, "blob", _MAX_RELEASE)

    @cached_property
    def manifest(self) -> bytes:
        """The manifest as it is, compared with what the signature covers."""
        raw = self._reader.read(self._manifest.oid, "blob", _MAX_MANIFEST)
        found = hashlib.sha256(raw).hexdigest()
        if self._stated_manifest_sha256 not in (None, found):
            raise NotTrustedError(
                f"The signature covers the manifest {self._stated_manifest_sha256}, but the "
                f"release has {found}.",
                "Get the release again from its publisher.",
            )
        return raw

    @cached_property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self.manifest).hexdigest()

    def entries(self) -> Iterator[Entry]:
        """All paths, sorted by raw path, the root first."""
        return manifest.read(self.manifest)

    def changes(
        self,
        old: CommitContent | None = None,
        checks: Checks | None = None,
        unknown: Container[bytes] = frozenset(),
    ) -> Iterator[Change]:
        """What differs from another commit of the store, or all of it; sorted by path.

        Raises `NotTrustedError` where manifest and tree disagree. Read it to its
        end before anything is done with it; `checks` then knows all folders.
        `unknown`: paths that are told even where both commits have the same.
        """
        trees = Trees(self._reader)
        files = trees.differences(old._tree if old is not None else None, self._tree)
        own = (MANIFEST_PATH, RELEASE_PATH)
        return changes(
            old._lines() if old is not None else iter(()),
            self.manifest,
            Checks() if checks is None else checks,
            (change for change in files if change.path not in own),
            lambda path: trees.find(self._tree, path),
            unknown,
        )

    def beside(self, commit: str) -> CommitContent:
        """Another commit that the same repository can read; for `changes`."""
        return CommitContent(self._reader, commit, None)

    def read(self, files: Iterable[tuple[Entry, str]]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Content of files and symlinks with the ids of their blobs, in an order of its own.

        Each is compared with its SHA-256 while it is read; `NotTrustedError` at
        its end when it is not what the manifest says.
        """
        return read_blobs(self._reader, files)

    def file(self, path: bytes, limit: int) -> bytes | None:
        """One file's content, None where there is no file. Raises `NotTrustedError` above `limit`.

        It is what the commit has there; the manifest is not asked.
        """
        found = Trees(self._reader).find(self._tree, path)
        if found is None or found.mode not in (PLAIN, EXECUTABLE):
            return None
        return self._reader.read(found.oid, "blob", limit)

    def files(self) -> Iterator[tuple[Entry, str]]:
        """Every file and symlink with the id of its blob."""
        for change in self.changes():
            if change.new is not None and change.oid is not None:
                yield change.new, change.oid

    def hash_all(self) -> tuple[int, int]:
        """Read every file and symlink; how many there are, and their bytes.

        Raises `NotTrustedError` where one is not what the manifest says.
        """
        files = size = 0
        for _, chunks in self.read(self.files()):
            files += 1
            size += sum(len(chunk) for chunk in chunks)
        return files, size

    def _lines(self) -> Iterator[bytes]:
        """The manifest's lines, not kept: a second manifest need not fit into memory."""
        self._reader.ask([self._manifest.oid])
        rest = b""
        for chunk in self._reader.checked(self._manifest.oid, "blob", _MAX_MANIFEST):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield line + b"\n"

    def _own(self, path: bytes) -> File:
        found = Trees(self._reader).find(self._tree, path)
        if found is None or found.mode != PLAIN:
            raise NotTrustedError(
                f"A release has the file {path.decode()}; commit {self.commit} has not.",
                "Make releases with `abupdate publish commit`.",
            )
        return found


def read_blobs(
    reader: ObjectReader, files: Iterable[tuple[Entry, str]]
) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """See `CommitContent.read`."""
    source = iter(files)
    ahead = _asked(reader, source)
    while window := ahead:
        ahead = _asked(reader, source)  # git works on the next while this one is written
        for entry, oid in window:
            yield entry, _checked(entry, reader.answer(oid))


def _asked(reader: ObjectReader, source: Iterator[tuple[Entry, str]]) -> list[tuple[Entry, str]]:
    window = list(islice(source, reader.WINDOW))
    # Backwards: bundles are packed in the order of paths, a delta after its base. git keeps a
    # base that it needed for a delta, but not one that it was asked for, and so inflates each
    # once and not twice: a fifth to a third less work.
    window.reverse()
    if window:
        reader.ask([oid for _, oid in window])
    return window


def _checked(entry: Entry, chunks: Iterable[bytes]) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > (entry.size or 0):
            break
        digest.update(chunk)
        yield chunk
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise NotTrustedError(
            f"The store hands out other content for "
            f"{manifest.escape(entry.path).decode()} than the release has.",
            "The store is damaged or was tampered with: install from a full bundle. If that says "
            "the same, the release was not made by `abupdate publish commit`.",
        )


@contextmanager
def open_commit(
    repository: Repository, commit: str, manifest_sha256: str | None = None
) -> Iterator[CommitContent]:
    """The content of a commit, its manifest compared with what a signature covers.

    Raises `NotTrustedError`; so does reading it, where its parts disagree.
    """
    with repository.reader() as reader:
        content = CommitContent(reader, commit, manifest_sha256)
        content.manifest  # noqa: B018 - read now
        yield content


def _commit(raw: bytes) -> tuple[str, int]:
    """The tree of a commit, and its date in seconds since the epoch."""
    headers = raw.partition(b"\n\n")[0].split(b"\n")
    trees = [line[5:] for line in headers if line.startswith(b"tree ")]
    committers = [line for line in headers if line.startswith(b"committer ")]
    try:
        date = int(committers[0].rsplit(b" ", 2)[1])
        return trees[0].decode("ascii"), date
    except (IndexError, ValueError) as error:
        raise NotTrustedError("The release's commit is not one that git would write.") from error
