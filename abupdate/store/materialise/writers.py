"""The files of a plan, written by several processes, each with a git of its own.

Processes and not threads: making a file is many short calls, which threads of
Python would make one after the other. They are forked and so share the plan with
the parent, and are killed when it dies, for two installs must never write the
same slot.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

from abupdate.errors import DeviceFaultError
from abupdate.store.content import read_blobs
from abupdate.store.manifest import Entry, Kind
from abupdate.store.materialise.place import make_symlink, write_file
from abupdate.store.materialise.plan import Files
from abupdate.store.paths import directories
from abupdate.store.repository import ObjectReader, Repository

# More write no faster: git inflates on one core, and the other writes. Each takes 15 MB.
WORKERS = 2

# A piece of work ends at so many files or bytes.
_PIECE_FILES = ObjectReader.WINDOW
_PIECE_BYTES = 8 << 20
_TOLD_EVERY = 0.05  # seconds
_PR_SET_PDEATHSIG = 1

# Told how many bytes and files were written since the last time.
Progress = Callable[[int, int], None]


def write_files(files: Files, repository: Repository, target: Path, progress: Progress) -> None:
    """Write all files and symlinks of a plan below `target`; their folders are there.

    Raises what a writer met: `NotTrustedError` for wrong bytes, `OSError`.
    """
    pieces = list(_pieces(files))
    context = get_context("fork")
    running: dict[Connection, ForkProcess] = {}
    try:
        for number in range(min(WORKERS, len(pieces))):
            ours, theirs = context.Pipe(duplex=False)
            work = _todo(files, pieces[number::WORKERS])
            process = context.Process(
                target=_work, args=(os.getpid(), work, repository, target, theirs)
            )
            process.start()
            theirs.close()
            running[ours] = process
        _follow(running, progress)
    finally:
        for process in running.values():
            process.kill()
        for pipe, process in running.items():
            process.join()
            pipe.close()


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


def _follow(running: dict[Connection, ForkProcess], progress: Progress) -> None:
    """Hear the writers until all have ended. Raises what the first one met."""
    waiting = set(running)
    while waiting:
        for pipe in connection.wait(waiting):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                message = DeviceFaultError(
                    "A writer ended in the middle of its work.",
                    "Run the install again; was it out of memory?",
                )
            if message is None:
                waiting.discard(pipe)
            elif isinstance(message, BaseException):
                raise message
            else:
                progress(*message)


def _work(
    parent: int,
    work: Iterator[tuple[Entry, str]],
    repository: Repository,
    target: Path,
    answer: Connection,
) -> None:
    """What a writer does, from its start to its end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    if os.getppid() != parent:
        return
    try:
        with directories(target) as opened, repository.reader() as reader:
            size = count = 0
            told = time.monotonic()
            for entry, chunks in read_blobs(reader, work):
                fd, name = opened.parent(entry.path)
                if entry.kind is Kind.LINK:
                    make_symlink(entry, fd, name, chunks)
                else:
                    write_file(entry, fd, name, chunks)
                size, count = size + (entry.size or 0), count + 1
                if time.monotonic() - told > _TOLD_EVERY:
                    answer.send((size, count))
                    size, count, told = 0, 0, time.monotonic()
        answer.send((size, count))
        answer.send(None)
    except BaseException as error:  # told to the parent, which raises it
        answer.send(error)
