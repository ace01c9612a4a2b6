"""Work shared among several processes.

Processes and not threads: making or reading a file is many short calls, which
threads of Python would make one after the other. They are forked and so share
what the parent has in memory, and are killed when it dies, for two installs
must never write the same slot.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from abupdate.errors import DeviceFaultError

# More are no faster where two cores are usual. Each takes 10 MB, and what it runs.
WORKERS = 2

_TOLD_EVERY = 0.05  # seconds
_PR_SET_PDEATHSIG = 1
_T = TypeVar("_T")

# Told how many bytes and files were done since the last time.
Progress = Callable[[int, int], None]
Job = Callable[[Progress], _T]


@dataclass(frozen=True)
class _Done:
    result: Any


def share(jobs: Iterable[Job[_T]], progress: Progress) -> list[_T]:
    """Do jobs in a process each, at the same time; their results in no order.

    Raises what the first one met; the others are killed then.
    """
    context = get_context("fork")
    running: dict[Connection, ForkProcess] = {}
    try:
        for job in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(os.getpid(), job, theirs))
            process.start()
            theirs.close()
            running[ours] = process
        return _follow(running, progress)
    finally:
        for process in running.values():
            process.kill()
        for pipe, process in running.items():
            process.join()
            pipe.close()


def _follow(running: dict[Connection, ForkProcess], progress: Progress) -> list[Any]:
    """Hear the workers until all have ended."""
    waiting, results = set(running), []
    while waiting:
        for pipe in connection.wait(waiting):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                message = DeviceFaultError(
                    "A process ended in the middle of its work.",
                    "Run the install again; was it out of memory?",
                )
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, _Done):
                results.append(message.result)
                waiting.discard(pipe)
            else:
                progress(*message)
    return results


class _Told:
    """Passes progress on, a few times a second."""

    def __init__(self, answer: Connection) -> None:
        self._answer = answer
        self._size = self._count = 0
        self._last = time.monotonic()

    def __call__(self, size: int, count: int) -> None:
        self._size, self._count = self._size + size, self._count + count
        if time.monotonic() - self._last > _TOLD_EVERY:
            self.flush()

    def flush(self) -> None:
        self._answer.send((self._size, self._count))
        self._size, self._count, self._last = 0, 0, time.monotonic()


def _work(parent: int, job: Job[object], answer: Connection) -> None:
    """What a process does, from its start to its end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    if os.getppid() != parent:
        return
    told = _Told(answer)
    try:
        result = job(told)
        told.flush()
        answer.send(_Done(result))
    except BaseException as error:  # told to the parent, which raises it
        answer.send(error)
