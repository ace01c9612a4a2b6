"""The files of a plan, written by several processes, each with a git of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from abupdate.store.content import read_blobs
from abupdate.store.manifest import Entry, Kind
from abupdate.store.materialise.place import make_symlink, write_file
from abupdate.store.materialise.plan import Files
from abupdate.store.paths import directories
from abupdate.store.reader import ObjectReader
from abupdate.store.repository import Repository
from abupdate.store.workers import WORKERS, Progress, share

# A piece of work ends at so many files or bytes.
_PIECE_FILES = ObjectReader.WINDOW
_PIECE_BYTES = 8 << 20


def write_files(files: Files, repository: Repository, target: Path, progress: Progress) -> None:
    """Write all files and symlinks of a plan below `target`; their folders are there.

    Raises what a writer met: `NotTrustedError` for wrong bytes, `OSError`.
    """
    pieces = list(_pieces(files))
    share(
        (
            partial(_write, _todo(files, pieces[number::WORKERS]), repository, target)
            for number in range(min(WORKERS, len(pieces)))
        ),
        progress,
    )


def _pieces(files: Files) -> Iterator[range]:
    start = size = 0
    for index, more in enumerate(files.sizes):
        size += more
        if index + 1 - start >= _PIECE_FILES or size >= _PIECE_BYTES:
            yield range(start, index + 1)
            start, size = index + 1, 0
    if start < len(files):
        yield range(start, len(files))


def _todo(files: Files, pieces: Iterable[range]) -> Iterator[tuple[Entry, str]]:
    for piece in pieces:
        for index in piece:
            yield files[index], files.oid(index)


def _write(
    work: Iterator[tuple[Entry, str]], repository: Repository, target: Path, done: Progress
) -> None:
    with directories(target) as opened, repository.reader() as reader:
        for entry, chunks in read_blobs(reader, work):
            fd, name = opened.parent(entry.path)
            if entry.kind is Kind.LINK:
                make_symlink(entry, fd, name, chunks)
            else:
                write_file(entry, fd, name, chunks)
            done(entry.size or 0, 1)
