"""A release's content, hashed here from the commit down, at the moment of use.

git hands out bytes; nothing of them is believed before its hash was compared:
commit, trees and the manifest with their object ids (and the manifest with the
SHA-256 that the tag's signature covers), files with the manifest's SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from abupdate.errors import NotTrustedError
from abupdate.store import manifest, names
from abupdate.store.manifest import Entry, Kind
from abupdate.store.repository import ObjectReader, Repository

MANIFEST_PATH = b".abupdate/manifest"
RELEASE_PATH = b".abupdate/release.toml"

_MAX_COMMIT = 64 * 1024
_MAX_TREE = 64 * 1024 * 1024
_MAX_MANIFEST = 1024 * 1024 * 1024
_MAX_RELEASE = 64 * 1024
_MAX_DEPTH = manifest.MAX_DEPTH

TREE, PLAIN, EXECUTABLE, SYMLINK = "40000", "100644", "100755", "120000"


def git_mode(entry: Entry) -> str:
    """The mode of a file or link in the tree."""
    if entry.kind is Kind.LINK:
        return SYMLINK
    return EXECUTABLE if entry.mode & 0o100 else PLAIN


@dataclass(frozen=True)
class _Blob:
    mode: str
    oid: str


class CommitContent:
    """The paths and bytes of one commit; made by `open_commit`."""

    def __init__(self, reader: ObjectReader, commit: str, manifest_sha256: str | None) -> None:
        self.commit = commit
        self._reader = reader
        tree, self.date = _commit(reader.read(commit, "commit", _MAX_COMMIT))
        blobs: dict[bytes, _Blob] = {}
        _walk(reader, tree, b"", blobs)
        self.manifest = self._own(blobs, MANIFEST_PATH, _MAX_MANIFEST)
        self.release_toml = self._own(blobs, RELEASE_PATH, _MAX_RELEASE)
        self.manifest_sha256 = hashlib.sha256(self.manifest).hexdigest()
        if manifest_sha256 is not None and self.manifest_sha256 != manifest_sha256:
            raise NotTrustedError(
                f"The signature covers the manifest {manifest_sha256}, but the release has "
                f"{self.manifest_sha256}."
            )
        self._blobs = _true_names(blobs)
        self.bytes = self._check_bijection()

    def entries(self) -> Iterator[Entry]:
        """All paths, sorted by raw path, the root first."""
        return manifest.read(io.BytesIO(self.manifest))

    def blobs(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Content of files and symlinks, in the order given.

        Each is compared with its SHA-256 while it is read; `NotTrustedError` at
        its end when it is not what the manifest says.
        """
        oids = [self._blobs[entry.path].oid for entry in entries]
        feeder = threading.Thread(target=self._reader.ask, args=(oids,), daemon=True)
        feeder.start()
        for entry, oid in zip(entries, oids, strict=True):
            yield entry, self._checked(entry, self._reader.answer(oid))
        feeder.join()

    def _checked(self, entry: Entry, chunks: Iterable[bytes]) -> Iterator[bytes]:
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
                "The store is damaged or was tampered with; install from a full bundle.",
            )

    def _own(self, blobs: dict[bytes, _Blob], path: bytes, limit: int) -> bytes:
        blob = blobs.pop(path, None)
        if blob is None or blob.mode != PLAIN:
            raise NotTrustedError(
                f"A release has the file {path.decode()}; commit {self.commit} has not.",
                "Make releases with `abupdate publish commit`.",
            )
        return self._reader.read(blob.oid, "blob", limit)

    def _check_bijection(self) -> int:
        """Every file and link of the manifest is in the tree, and nothing else is."""
        total, count = 0, 0
        modes: dict[bytes, tuple[str, str]] = {}
        for entry in self.entries():
            if entry.kind not in (Kind.FILE, Kind.LINK, Kind.HARDLINK):
                continue
            blob = self._blobs.get(entry.path)
            if blob is None or blob.mode != git_mode(entry):
                raise _disagree(entry.path)
            if entry.kind is Kind.FILE:
                modes[entry.path] = (blob.mode, blob.oid)
            elif entry.target is not None and modes[entry.target] != (blob.mode, blob.oid):
                raise _disagree(entry.path)
            total += entry.size or 0
            count += 1
        if count != len(self._blobs):
            known = {entry.path for entry in self.entries()}
            raise _disagree(next(path for path in self._blobs if path not in known))
        return total


@contextmanager
def open_commit(
    repository: Repository, commit: str, manifest_sha256: str | None = None
) -> Iterator[CommitContent]:
    """The content of a commit, verified. Raises `NotTrustedError`."""
    with repository.reader() as reader:
        yield CommitContent(reader, commit, manifest_sha256)


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


def _walk(reader: ObjectReader, oid: str, path: bytes, blobs: dict[bytes, _Blob]) -> None:
    if path.count(b"/") > _MAX_DEPTH:
        raise NotTrustedError(f"The release's tree is deeper than {_MAX_DEPTH}.")
    for mode, name, child in _tree(reader.read(oid, "tree", _MAX_TREE), len(oid) // 2):
        below = path + b"/" + name if path else name
        if mode == TREE:
            _walk(reader, child, below, blobs)
        elif mode in (PLAIN, EXECUTABLE, SYMLINK):
            blobs[below] = _Blob(mode, child)
            if len(blobs) > manifest.MAX_ENTRIES:
                raise NotTrustedError(f"The release has more than {manifest.MAX_ENTRIES} files.")
        else:
            raise NotTrustedError(
                f"The release's tree has {manifest.escape(below).decode()} with the mode {mode}, "
                "which is no file, link or folder."
            )


def _tree(raw: bytes, oid_size: int) -> Iterator[tuple[str, bytes, str]]:
    position = 0
    while position < len(raw):
        space = raw.find(b" ", position)
        end = raw.find(b"\0", space)
        after = end + 1 + oid_size
        if space < 0 or end < 0 or after > len(raw):
            raise NotTrustedError("The release has a tree that is not whole.")
        mode = raw[position:space].decode("ascii", "replace")
        yield mode, raw[space + 1 : end], raw[end + 1 : after].hex()
        position = after


def _true_names(blobs: dict[bytes, _Blob]) -> dict[bytes, _Blob]:
    found = {}
    for path, blob in blobs.items():
        try:
            found[names.true(path)] = blob
        except ValueError as error:
            raise NotTrustedError(f"The release's tree: {error}.") from error
    return found


def _disagree(path: bytes) -> NotTrustedError:
    return NotTrustedError(
        f"Manifest and tree of the release disagree about {manifest.escape(path).decode()}.",
        "Make releases with `abupdate publish commit`.",
    )
